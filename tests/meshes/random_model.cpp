// RandomModel: a recorder takes the place of the checkpoint while the module is built once, so that
// the names and shapes of all tensors are known; then they are written with random numbers.
#include "tests/meshes/random_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "frontends/builder.h"
#include "frontends/deepspeed/config.h"
#include "frontends/hf/registry.h"
#include "frontends/import.h"
#include "frontends/weights.h"

namespace shunt {

namespace {

using Shape = std::vector<int64_t>;

Architecture read_architecture(const std::string& family, const hf::Config& config) {
  Architecture arch = family == "deepspeed" ? deepspeed::read_architecture(config, nullptr)
                                            : hf::find_family(config).read(config);
  arch.family = family;
  return arch;
}

const MoeMlp* find_moe(const Architecture& arch) {
  for (const Layer& layer : arch.layers) {
    if (const auto* moe = std::get_if<MoeMlp>(&layer.mlp)) return moe;
  }
  return nullptr;
}

/// Has the experts' tensors in one of the family's layouts, and notes what is asked for.
class Recorder : public TensorSource {
 public:
  explicit Recorder(const MoeNames* layout) : layout_(layout) {}

  bool has(const std::string& name) const override {
    if (layout_ == nullptr) return false;
    const auto is = [&](const std::string& known) {
      return !known.empty() && name.ends_with("." + known);
    };
    return is(layout_->down) || is(layout_->router) || is(layout_->selection_bias);
  }
  ir::Value* load(ir::GraphBuilder& builder, const std::string& name, const Shape& shape) override {
    shapes[name] = shape;
    return builder.value(ir::OpKind::dummy, {},
                         ir::DummyAttrs{0, 0, 0, DType::f32, {shape.begin(), shape.end()}});
  }
  std::vector<UnusedTensor> unused() const override { return {}; }

  std::map<std::string, Shape> shapes;

 private:
  const MoeNames* layout_;
};

int64_t elements_of(const Shape& shape) {
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  return n;
}

void append(std::string& bytes, float value, DType dtype) {
  const auto add = [&](auto bits) {
    for (size_t i = 0; i < sizeof bits; ++i) bytes.push_back(static_cast<char>(bits >> (8 * i)));
  };
  if (dtype == DType::f32) return add(std::bit_cast<uint32_t>(value));
  add(dtype == DType::bf16 ? bf16_from_f32(value) : f16_from_f32(value));
}

/// Writes tensors with numbers of a size that keeps activations near 1: quantised ones too.
class TensorWriter {
 public:
  TensorWriter(Dice& dice, DType dtype, const Quantization& quantization)
      : dice_(dice), dtype_(dtype), q_(quantization) {}

  void add(const std::string& name, const Shape& shape) {
    if (name.find('*') != std::string::npos) return add_stack(name, shape);
    if (name.ends_with("_blocks")) return add_mxfp4(name, shape);
    if (q_.method == Quantization::Method::fp8 && shape.size() > 1 && dice_.one_in(2))
      return add_fp8(name, shape);
    add_plain(name, shape);
  }

  StoredTensors stored;

 private:
  /// One tensor an index of the first axis, all of one type.
  void add_stack(const std::string& pattern, const Shape& shape) {
    const Shape one(shape.begin() + 1, shape.end());
    const bool quantise = q_.method == Quantization::Method::fp8 && one.size() > 1 && dice_.coin();
    for (int64_t i = 0; i < shape[0]; ++i) {
      std::string name = pattern;
      name.replace(name.find('*'), 1, std::to_string(i));
      quantise ? add_fp8(name, one) : add_plain(name, one);
    }
  }

  /// The weight of a norm is about 1.
  void add_plain(const std::string& name, const Shape& shape) {
    StoredTensor& t = stored[name] = {dtype_, shape, ""};
    const bool vector = shape.size() == 1;
    const double mean = vector && name.ends_with("weight") ? 1 : 0;
    const double scale = vector ? 0.2 : 1 / std::sqrt(static_cast<double>(shape.back()));
    for (int64_t i = 0; i < elements_of(shape); ++i)
      append(t.bytes, static_cast<float>(mean + scale * dice_.normal()), dtype_);
  }

  void add_fp8(const std::string& name, const Shape& shape) {
    StoredTensor& t = stored[name] = {DType::f8e4m3, shape, ""};
    for (int64_t i = 0; i < elements_of(shape); ++i) {  // magnitudes 0.5 to 2
      const int64_t magnitude = dice_.number(6 << 3, (8 << 3) - 1);
      t.bytes.push_back(static_cast<char>(magnitude | dice_.number(0, 1) << 7));
    }
    Shape scales = shape;
    scales.end()[-2] = (shape.end()[-2] + q_.group_rows - 1) / q_.group_rows;
    scales.back() = (shape.back() + q_.group_columns - 1) / q_.group_columns;
    StoredTensor& s = stored[name + "_scale_inv"] = {DType::f32, scales, ""};
    const double size = 1 / std::sqrt(static_cast<double>(shape.back()));
    for (int64_t i = 0; i < elements_of(scales); ++i)
      append(s.bytes, static_cast<float>(size * (1 + 0.2 * dice_.normal())), DType::f32);
  }

  void add_mxfp4(const std::string& name, const Shape& shape) {
    constexpr int64_t kGroup = 32;
    Shape blocks = shape, scales = shape;
    blocks.back() = scales.back() = shape.back() / kGroup;
    blocks.push_back(kGroup / 2);
    StoredTensor& t = stored[name] = {DType::u8, blocks, ""};
    for (int64_t i = 0; i < elements_of(blocks); ++i)
      t.bytes.push_back(static_cast<char>(dice_.number(0, 255)));
    const std::string of_scales = name.substr(0, name.size() - 7) + "_scales";
    StoredTensor& s = stored[of_scales] = {DType::u8, scales, ""};
    for (int64_t i = 0; i < elements_of(scales); ++i)
      s.bytes.push_back(static_cast<char>(dice_.number(122, 124)));
  }

  Dice& dice_;
  DType dtype_;
  const Quantization& q_;
};

}  // namespace

RandomModel::RandomModel(const std::string& family, Dice& dice)
    : family_(family), config_(random_config(family, dice)), dir_(config_) {
  const hf::Config config = hf::Config::parse(config_, "config.json");
  const Architecture arch = read_architecture(family, config);
  const MoeMlp* moe = find_moe(arch);
  depends_on_batch_ =
      moe != nullptr && (moe->gate.drop != ir::Drop::none || moe->gate.sample_second);
  const MoeNames* layout = nullptr;
  if (moe != nullptr) {
    std::vector<const MoeNames*> usable;
    for (const MoeNames& names : arch.names.moe) {
      const bool packed = names.down.ends_with("_blocks");
      if (packed == (arch.quantization.method == Quantization::Method::mxfp4))
        usable.push_back(&names);
    }
    layout = dice.one_of(usable);
  }
  Recorder recorder(layout);
  const Checkpoint none;
  BuildOptions build;
  build.limits = {64, 1, 64, 64, 64};
  build.source = &recorder;
  build_module(arch, &none, build);
  const DType dtype = dice.one_of({DType::f32, DType::bf16, DType::f16});
  TensorWriter writer(dice, dtype, arch.quantization);
  for (const auto& [name, shape] : recorder.shapes) writer.add(name, shape);
  dir_.write_tensors(writer.stored);
  checkpoint_ = Checkpoint::open(dir_.path());
  text_ = fmt::format("{}\nweights {}, experts' down {}", config_, dtype_name(dtype),
                      layout == nullptr ? "none" : layout->down);
}

ImportedModel RandomModel::import(FrontendOptions options) const {
  options.model_dir = dir_.path();
  if (family_ != "deepspeed") return import_model(options, &checkpoint_);
  // Of DeepSpeed the description alone: the tensors lie under the names of the Architecture.
  const hf::Config config = hf::Config::parse(config_, "ds_inference_config.json");
  const Architecture arch = read_architecture(family_, config);
  ImportedModel model;
  model.facts = read_facts(config, options, arch);
  model.activation = DType::f32;
  model.limits = {options.max_model_len, options.max_num_seqs, options.max_num_batched_tokens,
                  options.max_logit_rows, options.page_size};
  BuildOptions build{model.limits, model.activation, options.force_routing, nullptr};
  model.module = build_module(arch, &checkpoint_, build).module;
  return model;
}

}  // namespace shunt
