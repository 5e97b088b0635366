// `quantization_config` of config.json. Entry point: read_quantization (frontends/hf/common.h).
// Tested by tests/frontends/quantization_test.cpp.
#include "frontends/hf/common.h"
#include "ir/error.h"
#include "runtime/checkpoint/strict_json.h"

namespace shunt::hf {

namespace {

constexpr int64_t kMaxBlock = 1 << 20;

Quantization read_fp8(const Config& config) {
  Quantization q;
  q.method = Quantization::Method::fp8;
  const std::string format = config.text_or({"fmt"}, "e4m3");
  if (format != "e4m3" && format != "float8_e4m3fn") config.fail("fmt", "is not e4m3");
  // How the reference's kernels round activations; here they stay as they are.
  if (config.text_or({"activation_scheme"}, "dynamic") != "dynamic") {
    config.fail("activation_scheme",
                "is not dynamic: checkpoints with scales of activations are not supported");
  }
  const std::string scales = config.text_or({"scale_fmt"}, "");
  if (!scales.empty() && scales != "ue8m0" && scales != "float")
    config.fail("scale_fmt", "is neither ue8m0 nor float");
  if (!config.has("weight_block_size")) {
    config.fail("weight_block_size",
                "is missing: fp8 weights with one scale a tensor are not supported");
  }
  const std::vector<int64_t> block = config.integers({"weight_block_size"});
  if (block.size() != 2 || block[0] < 1 || block[1] < 1 || block[0] > kMaxBlock ||
      block[1] > kMaxBlock) {
    config.fail("weight_block_size", "is not a pair of positive numbers");
  }
  q.group_rows = block[0];
  q.group_columns = block[1];
  return q;
}

}  // namespace

Quantization read_quantization(const Config& config) {
  if (config.has("compression_config")) {
    config.fail("compression_config",
                "checkpoints of compressed-tensors are not supported; use the bf16, f16 or f32 "
                "original");
  }
  const std::optional<Config> object = config.object("quantization_config");
  if (!object) return {};
  const std::string method = object->text({"quant_method"});
  Quantization q;
  if (method == "fp8") {
    q = read_fp8(*object);
  } else if (method == "mxfp4") {
    q.method = Quantization::Method::mxfp4;
    q.group_columns = 32;
    object->boolean_or({"dequantize"}, false);  // when it is expanded, not to what
  } else {
    object->fail("quant_method",
                 fmt::format("{} is not supported; Shunt reads fp8 (e4m3 with block scales) and "
                             "mxfp4; use such a checkpoint, or the bf16, f16 or f32 original",
                             quote_name(method)));
  }
  q.left_out = object->texts({"modules_to_not_convert", "ignored_layers"});
  return q;
}

}  // namespace shunt::hf
