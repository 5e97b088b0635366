// The list of families, one line each. A new one: its line here and families/<model_type>.cpp,
// which defines read_<model_type>. Tested by tests/frontends/families_test.cpp.
#include "frontends/hf/registry.h"

#include "ir/error.h"
#include "runtime/checkpoint/strict_json.h"

namespace shunt::hf {

// clang-format off
#define SHUNT_HF_FAMILIES(X) \
  X(bert)             \
  X(bloom)            \
  X(dbrx)             \
  X(deepseek_v2)      \
  X(deepseek_v3)      \
  X(distilbert)       \
  X(dots1)            \
  X(ernie4_5_moe)     \
  X(falcon)           \
  X(flex_olmo)        \
  X(gemma2)           \
  X(glm4_moe)         \
  X(gpt2)             \
  X(gpt_neo)          \
  X(gpt_neox)         \
  X(gpt_oss)          \
  X(gptj)             \
  X(granitemoe)       \
  X(granitemoeshared) \
  X(hunyuan_v1_moe)   \
  X(lfm2_moe)         \
  X(llama)            \
  X(llama4_text)      \
  X(minimax_m2)       \
  X(mistral)          \
  X(mixtral)          \
  X(olmoe)            \
  X(opt)              \
  X(phi)              \
  X(phi3)             \
  X(phimoe)           \
  X(qwen2)            \
  X(qwen2_moe)        \
  X(qwen3)            \
  X(qwen3_moe)        \
  X(qwen3_next)       \
  X(starcoder2)
// clang-format on

#define SHUNT_HF_DECLARE(name) Architecture read_##name(const Config& config);
SHUNT_HF_FAMILIES(SHUNT_HF_DECLARE)
#undef SHUNT_HF_DECLARE

const std::vector<Family>& all_families() {
#define SHUNT_HF_ENTRY(name) {#name, read_##name},
  static const std::vector<Family> families = {SHUNT_HF_FAMILIES(SHUNT_HF_ENTRY)};
#undef SHUNT_HF_ENTRY
  return families;
}

const Family& find_family(const Config& config) {
  const std::string model_type = config.text({"model_type"});
  std::string known;
  for (const Family& family : all_families()) {
    if (family.model_type == model_type) return family;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", family.model_type);
  }
  config.fail("model_type", fmt::format("{} is not supported; known families: {}",
                                        quote_name(model_type), known));
}

}  // namespace shunt::hf
