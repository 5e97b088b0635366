// libFuzzer program: fuzz::torch_file() of targets.h.
#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  shunt::fuzz::torch_file(data, size);
  return 0;
}
