// libFuzzer: bytes as config.json, imported by every family with dummy weights. Any outcome but a
// module or a UserError is a finding. Build: clang++-14 -fsanitize=fuzzer,address,undefined.
// Corpus: tests/data/fuzz/config, also run by tests/frontends/fuzz_corpus_test.cpp.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "frontends/import.h"
#include "ir/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  shunt::FrontendOptions options;
  options.model_dir = "/nonexistent";
  options.dummy_weights = true;
  options.force_routing = size % 2 == 0;
  for (const shunt::hf::Family& family : shunt::hf::all_families()) {
    try {
      const auto config = shunt::hf::Config::parse(text, "config.json");
      shunt::import_config(config, family, options, nullptr);
    } catch (const shunt::UserError&) {
      continue;
    }
  }
  return 0;
}
