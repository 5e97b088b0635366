// What the keys of a config decide, which are ignored and why, and where every tensor of a
// checkpoint goes: cases, and what must hold for every model of tests/data.
#include "frontends/explain.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "runtime/checkpoint/checkpoint.h"
#include "tests/frontends/model_dir.h"
#include "tests/paths.h"

namespace shunt {
namespace {

namespace fs = std::filesystem;
using Texts = std::vector<std::string>;

Explanation explain(const fs::path& directory, bool dummy = false) {
  FrontendOptions options;
  options.model_dir = directory;
  options.dummy_weights = dummy;
  if (dummy) return explain_model(options, nullptr);
  const Checkpoint checkpoint = Checkpoint::open(directory);
  return explain_model(options, &checkpoint);
}

const KeyUse& key(const Explanation& e, const std::string& name) {
  const auto it = std::ranges::find(e.keys, name, &KeyUse::key);
  if (it == e.keys.end()) throw std::runtime_error("no key " + name);
  return *it;
}

Explanation of_config(const std::string& config) { return explain(ModelDir(config).path(), true); }

TEST(Explain, WhatKeysDecide) {
  const Explanation e = of_config(test_data("conformance/mixtral/config.json"));
  EXPECT_EQ(key(e, "num_local_experts").attributes, Texts{"layer.mlp.experts = 8"});
  EXPECT_EQ(key(e, "num_local_experts").value, "8");
  EXPECT_EQ(key(e, "rope_parameters.rope_theta").attributes,
            Texts{"layer.attention.rope.theta = 1000000"});
  // What follows from a key belongs to it.
  EXPECT_EQ(key(e, "num_attention_heads").attributes,
            (Texts{"layer.attention.heads = 4", "layer.attention.head_dim = 16",
                   "layer.attention.rope.rotary_dim = 16", "layer.attention.scale = 0.25"}));
  EXPECT_EQ(key(e, "model_type").attributes, Texts{"family = mixtral"});
  EXPECT_EQ(key(e, "eos_token_id").attributes, Texts{"eos_ids = [2]"});
  EXPECT_EQ(key(e, "num_hidden_layers").attributes, Texts{"layers = 2"});
  EXPECT_TRUE(key(e, "head_dim").attributes.empty());  // null
  EXPECT_EQ(key(e, "use_cache").ignored, "has no effect on inference");
}

TEST(Explain, LayersThatDiffer) {
  const Explanation e = of_config(test_data("conformance/gemma2/config.json"));
  const Texts window = key(e, "sliding_window").attributes;
  ASSERT_EQ(window.size(), 1u);
  EXPECT_TRUE(window[0].starts_with("layer.attention.window = ")) << window[0];
  EXPECT_NE(window[0].find(" layer"), std::string::npos) << window[0];
  EXPECT_NE(window[0].find("0 in "), std::string::npos) << window[0];
}

TEST(Explain, NumbersWithoutNeighbours) {
  for (const char* id : {"-9223372036854775808", "9223372036854775807"}) {
    const Explanation e =
        of_config(edited(test_data("conformance/mixtral/config.json"), {{"pad_token_id", id}}));
    EXPECT_EQ(key(e, "pad_token_id").value, id);
    const std::string error = user_error_of([&] {
      of_config(edited(test_data("conformance/mixtral/config.json"), {{"bos_token_id", id}}));
    });
    EXPECT_EQ(error.find('\n'), std::string::npos);  // read or refused, in one line
  }
}

TEST(Explain, BothSpellingsDecide) {
  const Explanation e =
      of_config(edited(test_data("conformance/mixtral/config.json"), {{"num_experts", "8"}}));
  for (const char* name : {"num_experts", "num_local_experts"}) {
    EXPECT_EQ(key(e, name).attributes, Texts{"layer.mlp.experts = 8"});
  }
}

TEST(Explain, IgnoredKeysHaveAReason) {
  const Explanation e = of_config(edited(test_data("conformance/llama/config.json"),
                                         {{"auto_map", R"({"AutoModel": "code.py"})"},
                                          {"a_new_switch", "false"},
                                          {"torch_dtype", "\"bfloat16\""}}));
  EXPECT_NE(key(e, "auto_map").ignored.find("never run"), std::string::npos);
  EXPECT_EQ(key(e, "a_new_switch").ignored, "unknown, and its value turns nothing on");
  EXPECT_EQ(key(e, "torch_dtype").ignored, "");
}

TEST(Explain, UnknownKeysAreRefusedAsAlways) {
  const std::string error = user_error_of([] {
    of_config(edited(test_data("conformance/llama/config.json"), {{"a_new_switch", "true"}}));
  });
  EXPECT_NE(error.find("'a_new_switch' is not understood"), std::string::npos) << error;
}

TEST(Explain, TensorsThatAreNotUsed) {
  auto tensors = tensors_of("llama");
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {DType::f32, {8}};
  tensors["extra.weight"] = {DType::f32, {8}};
  const ModelDir model(test_data("conformance/llama/config.json"));
  model.write_tensors(tensors);
  const Explanation e = explain(model.path());
  ASSERT_EQ(e.unused.size(), 2u);
  EXPECT_EQ(e.unused[0].tensor, "extra.weight");
  EXPECT_EQ(e.unused[0].why, "no part of the model asks for it");
  EXPECT_EQ(e.unused[1].why, "follows from the config");
}

TEST(Explain, DeepSpeed) {
  const Explanation e =
      explain(fs::path(source_dir()) / "tests/data/deepspeed/top2_mp2_whole_experts");
  EXPECT_EQ(key(e, "k").attributes[0], "layer.mlp.gate.k = 2");
  EXPECT_EQ(key(e, "checkpoint.version").attributes, Texts{"checkpoint.version = 2"});
  const auto qkv = std::ranges::find_if(e.tensors, [](const TensorUse& use) {
    return use.parameter == "l0.k_proj" && use.tensor.starts_with("mp_rank_01");
  });
  ASSERT_NE(qkv, e.tensors.end());
  EXPECT_NE(qkv->tensor.find("query_key_value.weight"), std::string::npos);
  EXPECT_NE(
      std::ranges::find_if(qkv->steps, [](const std::string& s) { return s.starts_with("slice"); }),
      qkv->steps.end());
  EXPECT_TRUE(std::ranges::any_of(
      qkv->steps, [](const std::string& s) { return s.find("as part 2 of 2") != s.npos; }));
}

Texts folders() {
  Texts names;
  for (const char* kit : {"conformance", "deepspeed"}) {
    for (const std::string& folder : folders_with(kit, "golden.safetensors"))
      names.push_back(std::string(kit) + "/" + folder);
  }
  return names;
}

class ExplainAll : public testing::TestWithParam<std::string> {};

/// Every tensor is used or said to be unused, and no other is named.
TEST_P(ExplainAll, AccountsForEveryTensor) {
  const fs::path directory = fs::path(source_dir()) / "tests/data" / GetParam();
  const Checkpoint checkpoint = Checkpoint::open(directory);
  std::set<std::string> seen;
  const Explanation e = explain(directory);
  for (const TensorUse& use : e.tensors) {
    EXPECT_FALSE(use.parameter.empty());
    const size_t star = use.tensor.find('*');
    for (int64_t i = 0; i < std::max<int64_t>(use.stack, 1); ++i) {
      std::string name = use.tensor;
      if (use.stack > 0) name.replace(star, 1, std::to_string(i));
      EXPECT_NE(checkpoint.find(name), nullptr) << name;
      seen.insert(name);
    }
  }
  for (const UnusedTensor& tensor : e.unused) {
    EXPECT_FALSE(tensor.why.empty());
    EXPECT_TRUE(seen.insert(tensor.tensor).second) << tensor.tensor << " is used too";
  }
  for (const TensorInfo& tensor : checkpoint.tensors())
    EXPECT_TRUE(seen.contains(tensor.name)) << tensor.name;
}

/// A key decides something, or is ignored with a reason; those that are only checked are few.
TEST_P(ExplainAll, AccountsForEveryKey) {
  const Explanation e = explain(fs::path(source_dir()) / "tests/data" / GetParam(), true);
  int deciding = 0;
  for (const KeyUse& use : e.keys) {
    EXPECT_TRUE(use.ignored.empty() || use.attributes.empty()) << use.key;
    if (!use.attributes.empty()) ++deciding;
  }
  EXPECT_GE(deciding, 10);
  for (const char* name : {"hidden_size", "d_model", "n_embd", "dim"}) {
    const auto it = std::ranges::find(e.keys, name, &KeyUse::key);
    EXPECT_TRUE(it == e.keys.end() || it->fixed || !it->attributes.empty()) << name;
  }
}
INSTANTIATE_TEST_SUITE_P(Folders, ExplainAll, testing::ValuesIn(folders()), [](const auto& info) {
  std::string name = info.param;
  std::ranges::replace(name, '/', '_');
  return name;
});

}  // namespace
}  // namespace shunt
