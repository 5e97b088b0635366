// libFuzzer program: fuzz::tokenizer() of targets.h.
#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  shunt::fuzz::tokenizer(data, size);
  return 0;
}
