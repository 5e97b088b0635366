// Checkpoints with quantised weights (tests/data/quantised, made by make.py there) against what
// they expand to in bf16 and against transformers, and what is refused.
#include "frontends/quantization.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <span>

#include "tests/frontends/cpu_model.h"
#include "tests/frontends/model_dir.h"
#include "tests/paths.h"
#include "tools/verify.h"

namespace shunt {
namespace {

const std::filesystem::path kFolder =
    std::filesystem::path(source_dir()) / "tests/data/quantised";

/// The tensors of a folder as bf16: NAME_blocks and NAME_scales as NAME [E, K, N], and NAME with
/// NAME_scale_inv (blocks of 128 x 128) as NAME.
StoredTensors expanded(const StoredTensors& tensors) {
  StoredTensors out;
  const auto byte = [](const std::string& bytes, int64_t i) {
    return static_cast<uint8_t>(bytes[static_cast<size_t>(i)]);
  };
  const auto put = [](std::string& bytes, int64_t i, float value) {
    const uint16_t bits = bf16_from_f32(value);
    std::memcpy(bytes.data() + 2 * i, &bits, 2);
  };
  for (const auto& [name, tensor] : tensors) {
    if (name.ends_with("_scales") || name.ends_with("_scale_inv")) continue;
    if (name.ends_with("_blocks")) {
      const std::string plain = name.substr(0, name.size() - 7);
      const std::string& scales = tensors.at(plain + "_scales").bytes;
      const int64_t e = tensor.shape[0], n = tensor.shape[1], k = tensor.shape[2] * 32;
      StoredTensor& t = out[plain] = {DType::bf16, {e, k, n}, std::string(e * n * k * 2, '\0')};
      for (int64_t i = 0; i < e * n * k; ++i) {
        const int64_t matrix = i / (n * k), row = i / k % n, column = i % k;
        const uint8_t half = byte(tensor.bytes, i / 2) >> (i % 2 * 4);
        put(t.bytes, (matrix * k + column) * n + row,
            f32_from_e2m1(half) * f32_from_e8m0(byte(scales, i / 32)));
      }
    } else if (tensor.dtype == DType::f8e4m3) {
      const StoredTensor& scale = tensors.at(name + "_scale_inv");
      const std::vector<float> scales =
          floats_from(std::as_bytes(std::span(scale.bytes)), scale.dtype);
      const int64_t n = tensor.shape[0], k = tensor.shape[1];
      StoredTensor& t = out[name] = {DType::bf16, tensor.shape, std::string(n * k * 2, '\0')};
      for (int64_t i = 0; i < n * k; ++i) {
        const int64_t group = i / k / 128 * scale.shape[1] + i % k / 128;
        put(t.bytes, i,
            f32_from_f8e4m3(byte(tensor.bytes, i)) * scales[static_cast<size_t>(group)]);
      }
    } else {
      out[name] = tensor;
    }
  }
  return out;
}

class Quantised : public testing::TestWithParam<const char*> {};

TEST_P(Quantised, logits_are_those_of_the_expanded_checkpoint) {
  const std::string name = GetParam();
  const ModelDir plain(
      edited(test_data("quantised/" + name + "/config.json"), {{"quantization_config", ""}}));
  plain.write_tensors(expanded(read_tensors(kFolder / name)));
  const std::vector<int32_t> ids = some_ids(24, 64);
  EXPECT_EQ(logits_of(kFolder / name, ids).data, logits_of(plain.path(), ids).data);
  for (const bool after_passes : {false, true}) {
    const auto evaluate = [&](const std::filesystem::path& folder) {
      return logits_of(*make_reference_runner(small_cpu_options(folder), after_passes, 16), ids);
    };
    EXPECT_EQ(evaluate(kFolder / name).data, evaluate(plain.path()).data);
  }
}

TEST_P(Quantised, goldens_are_those_of_transformers) {
  const auto golden = load_golden(kFolder / GetParam() / "golden.safetensors");
  CpuModel model(small_cpu_options(kFolder / GetParam()));
  for (const VerifyLine& line : verify_golden(model.runner(), golden, {}).lines)
    EXPECT_TRUE(line.ok) << line.what << ": " << line.text;
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, Quantised,
                         testing::Values("gpt_oss_mxfp4", "deepseek_v3_fp8"),
                         [](const auto& info) { return std::string(info.param); });

// ---- fp8 in every arrangement: joint and grouped QKV, fused gate and up, columns, experts ----

/// The nearest f8e4m3.
uint8_t f8e4m3_from(float value) {
  static const std::map<float, uint8_t> all = [] {
    std::map<float, uint8_t> values;
    for (int bits = 0; bits < 256; ++bits) {
      const float x = f32_from_f8e4m3(static_cast<uint8_t>(bits));
      if (!std::isnan(x)) values.emplace(x, static_cast<uint8_t>(bits));
    }
    return values;
  }();
  const auto above = all.lower_bound(value);
  if (above == all.begin()) return above->second;
  const auto below = std::prev(above);
  const bool up = above != all.end() && above->first - value < value - below->first;
  return up ? above->second : below->second;
}

/// `tensor` in blocks of rows x columns, its float32 scales, and what they mean in bf16.
struct Fp8 {
  StoredTensor payload, scales, expanded;
};

Fp8 to_fp8(const StoredTensor& tensor, int64_t rows, int64_t columns, bool exponents = false) {
  const int64_t n = tensor.shape[0], k = tensor.shape[1];
  const int64_t across = (k + columns - 1) / columns, down = (n + rows - 1) / rows;
  const std::vector<float> values =
      floats_from(std::as_bytes(std::span(tensor.bytes)), tensor.dtype);
  std::vector<float> scales;
  const float unit = exponents ? 0x1p-9f : 0.003f;
  for (int64_t i = 0; i < down * across; ++i) scales.push_back(unit * std::exp2f(float(i % 5)));
  Fp8 out{{DType::f8e4m3, tensor.shape, ""},
          {DType::f32, {down, across}, ""},
          {DType::bf16, tensor.shape, ""}};
  for (int64_t i = 0; i < n * k; ++i) {
    const float s = scales[static_cast<size_t>(i / k / rows * across + i % k / columns)];
    const uint8_t bits = f8e4m3_from(values[static_cast<size_t>(i)] / s);
    const uint16_t meant = bf16_from_f32(f32_from_f8e4m3(bits) * s);
    out.payload.bytes += static_cast<char>(bits);
    out.expanded.bytes.append(reinterpret_cast<const char*>(&meant), sizeof meant);
  }
  out.scales.bytes.assign(reinterpret_cast<const char*>(scales.data()),
                          scales.size() * sizeof(float));
  if (exponents) {
    out.scales.dtype = DType::u8;
    out.scales.bytes.clear();
    for (const float x : scales) out.scales.bytes += static_cast<char>(127 + std::ilogb(x));
  }
  return out;
}

void expect_same_as_expanded(const std::string& name, bool exponents) {
  const std::string config = test_data("conformance/" + name + "/config.json");
  StoredTensors quantised = read_tensors(kFolder.parent_path() / "conformance" / name),
                expanded = quantised;
  int count = 0;
  for (const auto& [path, tensor] : expanded) {
    const bool left_out =
        std::ranges::any_of(std::array{"emb", "wte", "wpe", "lm_head", "mlp.gate.weight", "router"},
                            [&](const char* part) { return path.find(part) != path.npos; });
    if (tensor.shape.size() != 2 || left_out) continue;
    Fp8 fp8 = to_fp8(tensor, 24, 40, exponents);
    quantised[path] = fp8.payload;
    quantised[path + "_scale_inv"] = fp8.scales;
    expanded[path] = fp8.expanded;
    ++count;
  }
  EXPECT_GE(count, 8);
  const ModelDir plain(config);
  const ModelDir packed(edited(
      config,
      {{"quantization_config", R"({"quant_method": "fp8", "weight_block_size": [24, 40]})"}}));
  plain.write_tensors(expanded);
  packed.write_tensors(quantised);
  const std::vector<int32_t> ids = some_ids(20, 128);
  EXPECT_EQ(logits_of(packed.path(), ids).data, logits_of(plain.path(), ids).data);
}

class Fp8Families : public testing::TestWithParam<const char*> {};

TEST_P(Fp8Families, logits_are_those_of_the_expanded_checkpoint) {
  expect_same_as_expanded(GetParam(), false);
}

TEST(Fp8Exponents, logits_are_those_of_the_expanded_checkpoint) {
  expect_same_as_expanded("qwen3_moe", true);
}

INSTANTIATE_TEST_SUITE_P(Folders, Fp8Families,
                         testing::Values("llama", "phi3", "gpt2", "gpt_neox", "bloom", "falcon",
                                         "qwen3_moe", "mixtral", "dbrx", "qwen3_next", "bert"),
                         [](const auto& info) { return std::string(info.param); });

std::string import_with(const std::string& name, const std::map<std::string, std::string>& edits) {
  const ModelDir dir(edited(test_data("quantised/" + name + "/config.json"), edits));
  dir.write("model.safetensors", test_data("quantised/" + name + "/model.safetensors"));
  return user_error_of([&] { dir.import(); });
}

void expect_error(const std::string& error, const std::string& part) {
  EXPECT_NE(error.find(part), std::string::npos) << error << "\nhas not: " << part;
}

TEST(Quantization, payload_and_scales_are_one_weight_of_the_graph) {
  const ModelDir dir(test_data("quantised/deepseek_v3_fp8/config.json"));
  dir.write("model.safetensors", test_data("quantised/deepseek_v3_fp8/model.safetensors"));
  const std::string text = ir::print(*dir.import().module);
  for (const char* line :
       {"checkpoint {tensor = \"model.layers.1.mlp.experts.*.down_proj.weight\", stack = 4, dtype "
        "= "
        "f8e4m3, shape = [4, 144, 40]} : f8e4m3[4, 144, 40]",
        "checkpoint {tensor = \"model.layers.1.mlp.experts.*.down_proj.weight_scale_inv\", stack = "
        "4, "
        "dtype = f32, shape = [4, 2, 1]} : f32[4, 2, 1]",
        "{group_rows = 128, group_columns = 128} : bf16[4, 144, 40]"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line;
  }
}

TEST(Quantization, other_methods_are_refused_by_name) {
  const auto error = [](const std::string& config) {
    return import_with("gpt_oss_mxfp4", {{"quantization_config", config}});
  };
  expect_error(error(R"({"quant_method": "gptq", "bits": 4})"),
               "key 'quantization_config.quant_method': 'gptq' is not supported; Shunt reads fp8");
  expect_error(error(R"({"quant_method": "compressed-tensors"})"), "'compressed-tensors'");
  expect_error(error(R"({"bits": 4})"), "key 'quantization_config.quant_method': is missing");
  expect_error(error(R"({"quant_method": "mxfp4", "group_size": 64})"),
               "key 'quantization_config.group_size' is not understood");
  expect_error(error(R"({"quant_method": "fp8"})"),
               "key 'quantization_config.weight_block_size': is missing");
  expect_error(error(R"({"quant_method": "fp8", "weight_block_size": [128]})"), "is not a pair");
  expect_error(error(R"({"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e5m2"})"),
               "quantization_config.fmt': is not e4m3");
  expect_error(error(R"({"quant_method": "fp8", "weight_block_size": [128, 128],
                         "activation_scheme": "static"})"),
               "quantization_config.activation_scheme': is not dynamic");
  expect_error(import_with("gpt_oss_mxfp4", {{"compression_config", R"({"format": "int"})"}}),
               "compressed-tensors");
}

TEST(Quantization, config_and_tensors_must_agree) {
  expect_error(import_with("deepseek_v3_fp8", {{"quantization_config", ""}}),
               "is f8e4m3, and config.json has no quantization_config");
  expect_error(import_with("gpt_oss_mxfp4", {{"quantization_config", ""}}),
               "is packed, and config.json has no quantization_config with quant_method mxfp4");
  expect_error(
      import_with("deepseek_v3_fp8", {{"quantization_config",
                                       R"({"quant_method": "fp8", "weight_block_size": [128, 128],
                                 "modules_to_not_convert": ["model.layers.1.mlp"]})"}}),
      "mlp.experts.0.gate_proj.weight' is f8e4m3, but modules_to_not_convert");
  expect_error(import_with("deepseek_v3_fp8",
                           {{"quantization_config",
                             R"({"quant_method": "fp8", "weight_block_size": [64, 128]})"}}),
               "_scale_inv' has shape");
}

TEST(Quantization, scales_must_be_there) {
  const std::string text = test_data("quantised/deepseek_v3_fp8/model.safetensors");
  const ModelDir dir(test_data("quantised/deepseek_v3_fp8/config.json"));
  std::string renamed = text;
  renamed.replace(renamed.find("q_a_proj.weight_scale_inv"), 25, "q_a_proj.weight_scale_inw");
  dir.write("model.safetensors", renamed);
  expect_error(
      user_error_of([&] { dir.import(); }),
      "tensor 'model.layers.0.self_attn.q_a_proj.weight_scale_inv' is missing: the model needs "
      "it with shape [1, 2]");
}

TEST(Quantization, modules_left_out) {
  Quantization q;
  q.left_out = {"lm_head", "model.layers.*.self_attn", "gate"};
  EXPECT_TRUE(leaves_out(q, "lm_head.weight"));
  EXPECT_TRUE(leaves_out(q, "model.layers.3.self_attn.q_proj.weight"));
  EXPECT_TRUE(leaves_out(q, "model.layers.3.mlp.gate.weight"));
  EXPECT_FALSE(leaves_out(q, "model.layers.3.mlp.gate_proj.weight"));
  EXPECT_FALSE(leaves_out(q, "model.layers.3.self_attention.weight"));
  EXPECT_FALSE(leaves_out(q, "model.lm_head_norm.weight"));
}

}  // namespace
}  // namespace shunt
