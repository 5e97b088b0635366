// The same model as other programs write it: keys of transformers 4, a text_config wrapper, other
// prefixes of the tensors, and the experts of every MoE family apart and fused.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tests/frontends/cpu_model.h"
#include "tests/frontends/model_dir.h"
#include "tests/paths.h"

namespace shunt {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kFolders = fs::path(source_dir()) / "tests/data/conformance";

json config_of(const std::string& folder) {
  return json::parse(test_data("conformance/" + folder + "/config.json"));
}

/// The module of a config and a folder's tensors.
ImportedModel import_with(const json& config, const std::string& folder) {
  const ModelDir dir(config.dump());
  fs::create_symlink(kFolders / folder / "model.safetensors", dir.path() / "model.safetensors");
  return dir.import();
}

/// Keys as transformers 4 wrote them.
json older(json config) {
  if (config.contains("dtype")) {
    config["torch_dtype"] = config["dtype"];
    config.erase("dtype");
  }
  config["transformers_version"] = "4.40.0";
  if (const auto rope = config.find("rope_parameters"); rope != config.end() && rope->is_object()) {
    json scaling = *rope;
    config.erase("rope_parameters");
    for (const char* outside : {"rope_theta", "partial_rotary_factor"}) {
      if (!scaling.contains(outside)) continue;
      config[outside] = scaling[outside];
      scaling.erase(outside);
    }
    scaling["type"] = scaling["rope_type"];
    scaling.erase("rope_type");
    // In transformers 5 it is partial_rotary_factor that counts.
    if (config["model_type"] == "minimax_m2") config["rotary_dim"] = config["head_dim"];
    config["rope_scaling"] = scaling["type"] == "default" ? json() : scaling;
  }
  return config;
}

/// `key` under the next of its spellings.
void respell(json& config, const std::vector<std::string>& spellings) {
  for (size_t i = 0; i < spellings.size(); ++i) {
    if (!config.contains(spellings[i])) continue;
    config[spellings[(i + 1) % spellings.size()]] = config[spellings[i]];
    config.erase(spellings[i]);
    return;
  }
}

class Respelled : public testing::TestWithParam<std::string> {};

TEST_P(Respelled, keys_of_transformers_4) {
  const json config = config_of(GetParam());
  EXPECT_EQ(ir::print(*import_with(older(config), GetParam()).module),
            ir::print(*import_with(config, GetParam()).module));
}

TEST_P(Respelled, other_names_of_counts_and_a_list_of_eos_ids) {
  const json config = config_of(GetParam());
  json other = config;
  if (GetParam() != "dbrx") {  // whose counts are inside ffn_config
    respell(other, {"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"});
    respell(other, {"num_experts_per_tok", "moe_k", "experts_per_token", "top_k_experts"});
  }
  other["eos_token_id"] = {5, 2};
  const ImportedModel got = import_with(other, GetParam());
  EXPECT_EQ(ir::print(*got.module), ir::print(*import_with(config, GetParam()).module));
  EXPECT_EQ(got.facts.eos_ids, (std::vector<int64_t>{2, 5}));
}

TEST_P(Respelled, inside_a_text_config) {
  const json config = config_of(GetParam());
  const std::string want = ir::print(*import_with(config, GetParam()).module);
  const json wrapper = {{"model_type", "some_multimodal"},
                        {"architectures", {"SomeForConditionalGeneration"}},
                        {"torch_dtype", "bfloat16"},
                        {"vision_config", {{"hidden_size", 32}}},
                        {"text_config", config}};
  if (config["model_type"] == "bert" || config["model_type"] == "distilbert") return;
  const ImportedModel got = import_with(wrapper, GetParam());
  EXPECT_EQ(ir::print(*got.module), want);
  ASSERT_EQ(got.warnings.size(), 1u);
  EXPECT_NE(got.warnings[0].find("ignored: vision_config"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Folders, Respelled,
                         testing::ValuesIn(folders_with("conformance", "config.json")),
                         [](const auto& info) { return info.param; });

// ---- prefixes ----

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

/// The module's text after the tensors were renamed by `rename`, with the names put back.
void expect_same_under(const std::string& folder, const std::string& from, const std::string& to,
                       bool head_too) {
  const ModelDir dir(config_of(folder).dump());
  StoredTensors renamed;
  for (auto& [name, tensor] : read_tensors(kFolders / folder)) {
    const bool changes = name.starts_with(from) && (head_too || name.find("lm_head") != 0);
    renamed[changes ? to + name.substr(from.size()) : name] = tensor;
  }
  renamed["vision_tower.patch_embed.weight"] = {DType::bf16, {1}, std::string(2, '\0')};
  dir.write_tensors(renamed);
  const ImportedModel got = dir.import();
  EXPECT_EQ(got.warnings.size(), 1u);  // the vision tower
  const std::vector<int32_t> ids = some_ids(12, 128);
  std::vector<std::string> warnings;
  EXPECT_EQ(logits_of(dir.path(), ids, &warnings).data, logits_of(kFolders / folder, ids).data);
}

TEST(Prefixes, of_a_text_model_inside_another) {
  expect_same_under("qwen3", "", "language_model.", true);
  expect_same_under("qwen3_moe", "model.", "model.language_model.", false);
  expect_same_under("deepseek_v3", "", "language_model.", true);
}

TEST(Prefixes, of_a_model_saved_without_its_head) {
  expect_same_under("gpt2", "transformer.", "", false);
  expect_same_under("bloom", "transformer.", "", false);
}

TEST(Prefixes, of_an_old_encoder) {  // bert-base-uncased
  const ModelDir dir(config_of("bert").dump());
  StoredTensors renamed;
  for (const auto& [name, tensor] : read_tensors(kFolders / "bert")) {
    const std::string older = replaced(name, "LayerNorm.weight", "LayerNorm.gamma");
    renamed[replaced(older, "LayerNorm.bias", "LayerNorm.beta")] = tensor;
  }
  dir.write_tensors(renamed);
  const std::vector<int32_t> ids = some_ids(12, 128);
  EXPECT_EQ(logits_of(dir.path(), ids).data, logits_of(kFolders / "bert", ids).data);
}

// ---- experts ----

/// How a family names its experts apart and fused: paths inside a layer.
struct Layouts {
  std::string folder;
  std::string apart, gate, up, down;  // "mlp.experts.", "gate_proj", "up_proj", "down_proj"
  std::string gate_up, fused_down;    // "mlp.experts.gate_up_proj", "mlp.experts.down_proj"
  std::map<std::string, std::string> others = {};  // further names that differ, apart to fused
  bool columns = false;                            // the fused ones are [E, in, out]
};

std::vector<Layouts> all_layouts() {
  std::vector<Layouts> all;
  for (const char* folder : {"deepseek_v2", "deepseek_v3", "dots1", "flex_olmo", "glm4_moe",
                             "hunyuan_v1_moe", "olmoe", "qwen2_moe", "qwen3_moe", "qwen3_next"}) {
    all.push_back({folder, "mlp.experts.", "gate_proj", "up_proj", "down_proj",
                   "mlp.experts.gate_up_proj", "mlp.experts.down_proj"});
  }
  all.push_back({"ernie4_5_moe",
                 "mlp.experts.",
                 "gate_proj",
                 "up_proj",
                 "down_proj",
                 "mlp.experts.gate_up_proj",
                 "mlp.experts.down_proj",
                 {{"mlp.moe_statics.e_score_correction_bias",
                   "mlp.gate.moe_statics.e_score_correction_bias"}}});
  for (const auto& [folder, router] : {std::pair{"mixtral", "mlp.gate.weight"},
                                       {"mixtral_window", "mlp.gate.weight"},
                                       {"minimax_m2", "mlp.gate.weight"},
                                       {"phimoe", "mlp.router.weight"}}) {
    all.push_back({folder,
                   "block_sparse_moe.experts.",
                   "w1",
                   "w3",
                   "w2",
                   "mlp.experts.gate_up_proj",
                   "mlp.experts.down_proj",
                   {{"block_sparse_moe.gate.weight", router},
                    {"block_sparse_moe.e_score_correction_bias", "mlp.e_score_correction_bias"}}});
  }
  all.push_back({"lfm2_moe", "feed_forward.experts.", "w1", "w3", "w2",
                 "feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"});
  all.push_back({"llama4_text",
                 "feed_forward.experts.",
                 "gate_proj",
                 "up_proj",
                 "down_proj",
                 "feed_forward.experts.gate_up_proj",
                 "feed_forward.experts.down_proj",
                 {},
                 true});
  return all;
}

/// Matrix [rows, columns] of 2-byte elements, transposed.
std::string transposed(const std::string& m, int64_t rows, int64_t columns) {
  std::string out(m.size(), '\0');
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c)
      std::copy_n(m.begin() + (r * columns + c) * 2, 2, out.begin() + (c * rows + r) * 2);
  }
  return out;
}

class Experts : public testing::TestWithParam<Layouts> {
 protected:
  /// "model.layers.1." of a tensor of a layer, else "".
  static std::string layer_of(const std::string& name) {
    const std::string layers = "model.layers.";
    if (!name.starts_with(layers)) return "";
    return name.substr(0, name.find('.', layers.size()) + 1);
  }

  static StoredTensors fused(const Layouts& l, const StoredTensors& tensors) {
    StoredTensors out;
    for (const auto& [name, tensor] : tensors) {
      const std::string layer = layer_of(name);
      const std::string path = name.substr(layer.size());
      const std::string in_apart = path.starts_with(l.apart) ? path.substr(l.apart.size()) : "";
      if (!in_apart.empty() && std::isdigit(in_apart[0]) != 0) continue;
      const auto other = l.others.find(path);
      out[layer + (other == l.others.end() ? path : other->second)] = tensor;
    }
    for (const auto& [name, tensor] : tensors) {
      const std::string layer = layer_of(name);
      if (name != layer + l.apart + "0." + l.down + ".weight") continue;
      StoredTensor &gate_up = out[layer + l.gate_up], &down = out[layer + l.fused_down];
      const int64_t hidden = tensor.shape[0], width = tensor.shape[1];
      int64_t e = 0;
      for (;; ++e) {
        const std::string expert = layer + l.apart + std::to_string(e) + ".";
        const auto first = tensors.find(expert + l.gate + ".weight");
        if (first == tensors.end()) break;
        gate_up.bytes += first->second.bytes + tensors.at(expert + l.up + ".weight").bytes;
        down.bytes += tensors.at(expert + l.down + ".weight").bytes;
      }
      gate_up.shape = {e, 2 * width, hidden};
      down.shape = {e, hidden, width};
    }
    return out;
  }

  static StoredTensors apart(const Layouts& l, const StoredTensors& tensors) {
    StoredTensors out = tensors;
    for (const auto& [name, tensor] : tensors) {
      const std::string layer = layer_of(name);
      const bool both = name == layer + l.gate_up;
      if (layer.empty() || (!both && name != layer + l.fused_down)) continue;
      out.erase(name);
      const int64_t rows = tensor.shape[1], columns = tensor.shape[2];
      const auto size = static_cast<size_t>(rows * columns * 2);
      for (int64_t e = 0; e < tensor.shape[0]; ++e) {
        std::string m = tensor.bytes.substr(static_cast<size_t>(e) * size, size);
        int64_t n = rows, k = columns;
        if (l.columns) {
          m = transposed(m, rows, columns);
          std::swap(n, k);
        }
        const std::string expert = layer + l.apart + std::to_string(e) + ".";
        if (both) {
          out[expert + l.gate + ".weight"] = {tensor.dtype, {n / 2, k}, m.substr(0, size / 2)};
          out[expert + l.up + ".weight"] = {tensor.dtype, {n / 2, k}, m.substr(size / 2)};
        } else {
          out[expert + l.down + ".weight"] = {tensor.dtype, {n, k}, m};
        }
      }
    }
    return out;
  }
};

TEST_P(Experts, apart_and_fused_are_the_same_model) {
  const Layouts& l = GetParam();
  const StoredTensors tensors = read_tensors(kFolders / l.folder);
  const bool is_fused =
      std::ranges::any_of(tensors, [&](const auto& t) { return t.first.ends_with(l.gate_up); });
  const StoredTensors other = is_fused ? apart(l, tensors) : fused(l, tensors);
  ASSERT_NE(other.size(), tensors.size());
  const ModelDir dir(config_of(l.folder).dump());
  dir.write_tensors(other);
  const std::vector<int32_t> ids = some_ids(20, 128);
  EXPECT_EQ(logits_of(dir.path(), ids).data, logits_of(kFolders / l.folder, ids).data);
}

INSTANTIATE_TEST_SUITE_P(Families, Experts, testing::ValuesIn(all_layouts()),
                         [](const auto& info) { return info.param.folder; });

TEST(Experts, of_granite_as_transformers_5_holds_them) {
  for (const char* folder : {"granitemoe", "granitemoeshared"}) {
    StoredTensors renamed;
    for (const auto& [name, tensor] : read_tensors(kFolders / folder)) {
      std::string other = replaced(name, "input_linear.weight", "experts.gate_up_proj");
      other = replaced(other, "output_linear.weight", "experts.down_proj");
      if (name.find("block_sparse_moe") == name.npos) other = name;
      renamed[replaced(other, "router.layer.weight", "router.weight")] = tensor;
    }
    const ModelDir dir(config_of(folder).dump());
    dir.write_tensors(renamed);
    const std::vector<int32_t> ids = some_ids(20, 128);
    EXPECT_EQ(logits_of(dir.path(), ids).data, logits_of(kFolders / folder, ids).data);
  }
}

TEST(Code, in_a_model_directory_is_ignored_and_said_to_be) {
  json config = config_of("llama");
  config["auto_map"] = {{"AutoModelForCausalLM", "modeling_x.X"}};
  const ModelDir dir(config.dump());
  fs::create_symlink(kFolders / "llama/model.safetensors", dir.path() / "model.safetensors");
  dir.write("modeling_x.py", "raise SystemExit('run')\n");
  const ImportedModel model = dir.import();
  ASSERT_EQ(model.warnings.size(), 2u);
  EXPECT_NE(model.warnings[0].find("code is never run: ignored: modeling_x.py"), std::string::npos);
  EXPECT_NE(model.warnings[1].find("config.json: ignored: auto_map"), std::string::npos);
}

}  // namespace
}  // namespace shunt
