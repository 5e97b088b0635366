// Parameters and @load. Entry point: class Weights. Tested by tests/frontends/checkpoint_test.cpp.
#include "frontends/weights.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "ir/error.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/strict_json.h"

namespace shunt {

using ir::OpKind;
using ir::Value;

namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::vector<Dim> dims_of(const std::vector<int64_t>& shape) { return {shape.begin(), shape.end()}; }

std::string numbered(const std::string& pattern, int64_t i) {
  std::string name = pattern;
  return name.replace(name.find('*'), 1, fmt::format("{}", i));
}

constexpr std::string_view kBlocks = "_blocks";
constexpr int64_t kMxfp4Group = 32;  // elements that share an exponent

bool is_weight_type(DType d) { return d == DType::bf16 || d == DType::f16 || d == DType::f32; }

/// Buffers that frameworks save although they follow from the config.
bool is_needless_buffer(std::string_view name) {
  constexpr std::string_view kSuffixes[] = {".rotary_emb.inv_freq", ".attn.bias",
                                            ".attn.masked_bias", ".attention.bias",
                                            ".attention.masked_bias"};
  return std::any_of(std::begin(kSuffixes), std::end(kSuffixes),
                     [&](auto suffix) { return name.ends_with(suffix); });
}

}  // namespace

Weights::Weights(ir::Module& module, const Checkpoint* checkpoint, DType dtype, double stddev,
                 TensorSource* source, const Quantization& quantization)
    : module_(module),
      builder_(*module.find_graph("load")),
      checkpoint_(checkpoint),
      dtype_(dtype),
      stddev_(stddev),
      tensor_source_(source),
      quantization_(quantization) {}

bool Weights::has(const std::string& name) const {
  if (checkpoint_ == nullptr) return false;
  if (tensor_source_ != nullptr) return tensor_source_->has(name);
  return checkpoint_->find(name.find('*') == std::string::npos ? name : numbered(name, 0)) !=
         nullptr;
}

bool Weights::has_shape(const std::string& name, const Shape& shape) const {
  const TensorInfo* info = checkpoint_ == nullptr ? nullptr : checkpoint_->find(name);
  return info != nullptr && info->shape == shape;
}

/// Old checkpoints of encoders call weight and bias of a layer norm gamma and beta.
std::string Weights::older_name(const std::string& name) const {
  if (checkpoint_->find(name) != nullptr) return name;
  for (const auto& [now, then] : {std::pair{"LayerNorm.weight", "LayerNorm.gamma"},
                                  std::pair{"LayerNorm.bias", "LayerNorm.beta"}}) {
    if (!name.ends_with(now)) continue;
    const std::string older = name.substr(0, name.size() - std::string_view(now).size()) + then;
    if (checkpoint_->find(older) != nullptr) return older;
  }
  return name;
}

void Weights::fail(const TensorInfo& info, const std::string& what) const {
  user_error("{}/{}: tensor {} {}", checkpoint_->directory,
             checkpoint_->files()[static_cast<size_t>(info.file)].name, quote_name(info.name),
             what);
}

const TensorInfo& Weights::require(const std::string& name, const Shape& shape) {
  const TensorInfo* info = checkpoint_->find(name);
  if (info == nullptr) {
    user_error("{}: tensor {} is missing: the model needs it with shape {}", checkpoint_->directory,
               quote_name(name), shape_text(shape));
  }
  if (info->shape != shape) {
    fail(*info, fmt::format("has shape {}, expected {} from config.json", shape_text(info->shape),
                            shape_text(shape)));
  }
  used_.insert(name);
  return *info;
}

Weights::Stored Weights::check(const std::string& name, const Shape& shape) {
  if (name.ends_with(kBlocks)) return check_mxfp4(name, shape);
  const TensorInfo& info = require(name, shape);
  if (info.dtype == DType::f8e4m3) return check_fp8(info);
  if (!is_weight_type(info.dtype)) {
    fail(info, fmt::format("is {}; weights must be bf16, f16 or f32", dtype_name(info.dtype)));
  }
  Stored stored;
  stored.dtype = info.dtype;
  stored.shape = shape;
  return stored;
}

Weights::Stored Weights::check_fp8(const TensorInfo& info) {
  const Quantization& q = quantization_;
  if (q.method != Quantization::Method::fp8) {
    fail(info, "is f8e4m3, and config.json has no quantization_config that says how it is scaled");
  }
  if (leaves_out(q, info.name)) {
    fail(info,
         "is f8e4m3, but modules_to_not_convert of config.json says that it is not quantised");
  }
  if (info.shape.size() < 2) fail(info, "is f8e4m3, and no matrix");
  Stored stored{info.dtype,   info.name + "_scale_inv", DType::f32, info.shape, info.shape,
                q.group_rows, q.group_columns};
  int64_t &rows = stored.scale_shape.end()[-2], &columns = stored.scale_shape.back();
  rows = (rows + q.group_rows - 1) / q.group_rows;
  columns = (columns + q.group_columns - 1) / q.group_columns;
  const TensorInfo& scale = require(stored.scale_name, stored.scale_shape);
  if (!is_weight_type(scale.dtype) && scale.dtype != DType::u8) {
    fail(scale,
         fmt::format("is {}; scales must be f32, bf16, f16 or e8m0", dtype_name(scale.dtype)));
  }
  stored.scale_dtype = scale.dtype;
  return stored;
}

Weights::Stored Weights::check_mxfp4(const std::string& name, const Shape& shape) {
  const int64_t columns = shape.back();
  if (columns % kMxfp4Group != 0) {
    user_error("{}: tensor {}: rows of {} elements are no whole groups of {}",
               checkpoint_->directory, quote_name(name), columns, kMxfp4Group);
  }
  Stored stored{DType::u8,  name.substr(0, name.size() - kBlocks.size()) + "_scales",
                DType::u8,  shape,
                shape,      1,
                kMxfp4Group};
  stored.scale_shape.back() = stored.shape.back() = columns / kMxfp4Group;
  stored.shape.push_back(kMxfp4Group / 2);
  const TensorInfo& blocks = require(name, stored.shape);
  const TensorInfo& scales = require(stored.scale_name, stored.scale_shape);
  for (const TensorInfo* info : {&blocks, &scales}) {
    if (info->dtype != DType::u8)
      fail(*info, fmt::format("is {}; mxfp4 is stored as u8", dtype_name(info->dtype)));
  }
  if (quantization_.method != Quantization::Method::mxfp4)
    fail(blocks, "is packed, and config.json has no quantization_config with quant_method mxfp4");
  if (leaves_out(quantization_, name))
    fail(blocks, "is packed, but modules_to_not_convert of config.json names its module");
  return stored;
}

void Weights::locate(const std::string& name) {
  std::string_view module = name;
  if (const size_t star = module.find(".*"); star != std::string_view::npos)
    module = module.substr(0, star);
  for (const std::string_view suffix : {".weight", ".bias"}) {
    if (module.ends_with(suffix)) module.remove_suffix(suffix.size());
  }
  builder_.set_loc(std::string(module));
}

Value* Weights::load(const std::string& name, int64_t stack, const Stored& stored) {
  const auto read = [&](const std::string& tensor, DType dtype, Shape shape) {
    if (stack > 0) shape.insert(shape.begin(), stack);
    return builder_.value(OpKind::checkpoint, {},
                          ir::CheckpointAttrs{tensor, stack, dtype, dims_of(shape)});
  };
  Value* payload = read(name, stored.dtype, stored.shape);
  if (stored.scale_name.empty()) return payload;
  if (stored.dtype == DType::u8) {  // blocks one after another: rows of pairs
    std::vector<Dim> rows = payload->type.shape;
    rows.pop_back();
    rows.back() = rows.back() * (kMxfp4Group / 2);
    payload = builder_.value(OpKind::reshape, {payload}, ir::ReshapeAttrs{rows});
  }
  Value* scale = read(stored.scale_name, stored.scale_dtype, stored.scale_shape);
  return builder_.value(OpKind::dequantize, {payload, scale},
                        ir::DequantizeAttrs{stored.group_rows, stored.group_columns, DType::bf16});
}

Value* Weights::dummy(const Shape& shape, double mean, double stddev) {
  return builder_.value(OpKind::dummy, {},
                        ir::DummyAttrs{next_seed_++, mean, stddev, dtype_, dims_of(shape)});
}

Value* Weights::store(const std::string& param, Value* value) {
  Value* target = module_.add_param(param, value->type);
  builder_.op(OpKind::store, {value, target});
  return target;
}

Value* Weights::source(const std::string& name, const Shape& shape, bool columns) {
  Value*& value = sources_[{name, columns}];
  if (value != nullptr) return value;
  Shape stored = shape;
  if (columns) std::swap(stored.end()[-1], stored.end()[-2]);
  if (tensor_source_ != nullptr) {
    value = tensor_source_->load(builder_, name, stored);
  } else {
    const std::string known = older_name(name);
    value = load(known, 0, check(known, stored));
  }
  if (columns) value = builder_.value(OpKind::transpose, {value});
  return value;
}

Value* Weights::tensor(const std::string& param, const std::string& name, const Shape& shape,
                       bool columns) {
  locate(name);
  if (is_dummy()) return store(param, dummy(shape, 0, stddev_));
  return store(param, source(name, shape, columns));
}

Value* Weights::derived(const std::string& param, const std::string& name, const Shape& whole,
                        const Shape& shape, const Make& make, bool columns) {
  locate(name);
  if (is_dummy()) return store(param, dummy(shape, 0, stddev_));
  return store(param, make(builder_, source(name, whole, columns)));
}

Value* Weights::norm(const std::string& param, const std::string& name, int64_t size) {
  locate(name);
  if (is_dummy()) return store(param, dummy({size}, 1, 0));
  return tensor(param, name, {size});
}

Value* Weights::stacked(const std::string& param, const std::string& pattern, int64_t count,
                        const Shape& shape) {
  locate(pattern);
  Shape all = shape;
  all.insert(all.begin(), count);
  if (is_dummy()) return store(param, dummy(all, 0, stddev_));
  if (tensor_source_ != nullptr) return store(param, tensor_source_->load(builder_, pattern, all));
  const std::string first = numbered(pattern, 0);
  const Stored stored = check(first, shape);
  for (int64_t i = 1; i < count; ++i) {
    const std::string name = numbered(pattern, i);
    const Stored other = check(name, shape);
    if (other.dtype != stored.dtype || other.scale_dtype != stored.scale_dtype) {
      user_error("{}: tensor {} is {}, but {} is {}; experts of a layer must have one type{}",
                 checkpoint_->directory, quote_name(name), dtype_name(other.dtype),
                 quote_name(first), dtype_name(stored.dtype),
                 stored.scale_name.empty() ? "" : ", and their scales too");
    }
  }
  Stored all_of_them = stored;
  if (!stored.scale_name.empty()) all_of_them.scale_name = pattern + "_scale_inv";
  return store(param, load(pattern, count, all_of_them));
}

Value* Weights::constant(const std::string& param, const std::vector<double>& values,
                         bool as_column) {
  builder_.set_loc(param);
  Value* value = builder_.value(OpKind::constant, {}, ir::ConstantAttrs{values});
  if (as_column) {
    const auto n = static_cast<int64_t>(values.size());
    value = builder_.value(OpKind::reshape, {value}, ir::ReshapeAttrs{{n, 1}});
  }
  return store(param, value);
}

void Weights::ignore_prefixes(const std::vector<std::string>& prefixes, const char* why) {
  if (is_dummy()) return;
  for (const TensorInfo& info : checkpoint_->tensors()) {
    for (const std::string& prefix : prefixes) {
      if (info.name.starts_with(prefix)) ignore(info.name, why);
    }
  }
}

std::vector<UnusedTensor> Weights::unused() const {
  std::vector<UnusedTensor> all;
  if (is_dummy()) return all;
  if (tensor_source_ != nullptr) return tensor_source_->unused();
  const auto add = [&](const std::string& name, const char* why) {
    if (used_.contains(name)) return;
    if (const auto it = ignored_.find(name); it != ignored_.end()) {
      all.push_back({name, it->second, true});
    } else if (is_needless_buffer(name)) {
      all.push_back({name, "follows from the config", true});
    } else {
      all.push_back({name, why});
    }
  };
  for (const TensorInfo& info : checkpoint_->tensors()) {
    add(info.name, "no part of the model asks for it");
  }
  for (const UnreadableTensor& tensor : checkpoint_->unreadable()) {
    add(tensor.name, "its element type is not read, and no part of the model asks for it");
  }
  return all;
}

}  // namespace shunt
