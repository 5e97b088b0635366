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
                 TensorSource* source)
    : module_(module),
      builder_(*module.find_graph("load")),
      checkpoint_(checkpoint),
      dtype_(dtype),
      stddev_(stddev),
      tensor_source_(source) {}

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

DType Weights::check(const std::string& name, const Shape& shape) {
  const TensorInfo* info = checkpoint_->find(name);
  if (info == nullptr) {
    user_error("{}: tensor {} is missing: the model needs it with shape {}", checkpoint_->directory,
               quote_name(name), shape_text(shape));
  }
  const std::string& file = checkpoint_->files()[static_cast<size_t>(info->file)].name;
  if (info->shape != shape) {
    user_error("{}/{}: tensor {} has shape {}, expected {} from config.json",
               checkpoint_->directory, file, quote_name(name), shape_text(info->shape),
               shape_text(shape));
  }
  if (info->dtype != DType::bf16 && info->dtype != DType::f16 && info->dtype != DType::f32) {
    user_error("{}/{}: tensor {} is {}; weights must be bf16, f16 or f32", checkpoint_->directory,
               file, quote_name(name), dtype_name(info->dtype));
  }
  used_.insert(name);
  return info->dtype;
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

Value* Weights::load(const std::string& name, int64_t stack, DType dtype, const Shape& shape) {
  return builder_.value(OpKind::checkpoint, {},
                        ir::CheckpointAttrs{name, stack, dtype, dims_of(shape)});
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
  value = tensor_source_ != nullptr ? tensor_source_->load(builder_, name, stored)
                                    : load(name, 0, check(name, stored), stored);
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
  const DType dtype = check(first, shape);
  for (int64_t i = 1; i < count; ++i) {
    const std::string name = numbered(pattern, i);
    if (const DType other = check(name, shape); other != dtype) {
      user_error("{}: tensor {} is {}, but {} is {}; experts of a layer must have one type",
                 checkpoint_->directory, quote_name(name), dtype_name(other), quote_name(first),
                 dtype_name(dtype));
    }
  }
  return store(param, load(pattern, count, dtype, all));
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

void Weights::ignore_prefixes(const std::vector<std::string>& prefixes) {
  if (is_dummy()) return;
  for (const TensorInfo& info : checkpoint_->tensors()) {
    for (const std::string& prefix : prefixes) {
      if (info.name.starts_with(prefix)) used_.insert(info.name);
    }
  }
}

std::vector<std::string> Weights::unused() const {
  std::vector<std::string> names;
  if (is_dummy()) return names;
  if (tensor_source_ != nullptr) return tensor_source_->unused();
  const auto add = [&](const std::string& name) {
    if (!used_.contains(name) && !is_needless_buffer(name)) names.push_back(name);
  };
  for (const TensorInfo& info : checkpoint_->tensors()) add(info.name);
  for (const UnreadableTensor& tensor : checkpoint_->unreadable()) add(tensor.name);
  return names;
}

}  // namespace shunt
