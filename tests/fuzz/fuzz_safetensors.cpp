// libFuzzer program: fuzz::safetensors() of targets.h.
#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  shunt::fuzz::safetensors(data, size);
  return 0;
}
