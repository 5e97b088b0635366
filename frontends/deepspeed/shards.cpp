// Joins the parts of a Megatron-DeepSpeed checkpoint. Entry point: class Shards. Tested by
// tests/frontends/deepspeed_test.cpp.
#include "frontends/deepspeed/shards.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "ir/error.h"
#include "runtime/checkpoint/strict_json.h"
#include "runtime/checkpoint/torch_file.h"

namespace shunt::deepspeed {

using ir::GraphBuilder;
using ir::OpKind;
using ir::Value;

namespace {

std::vector<Dim> dims(const std::vector<int64_t>& shape) { return {shape.begin(), shape.end()}; }

/// "layers.12.rest" -> 12 and "rest"; -1 for other names.
int64_t layer_of(const std::string& name, std::string* rest) {
  if (!name.starts_with("layers.")) return -1;
  int64_t layer = -1;
  const char* end = name.data() + name.size();
  const auto parsed = std::from_chars(name.data() + 7, end, layer);
  if (parsed.ec != std::errc() || parsed.ptr == end || *parsed.ptr != '.') return -1;
  *rest = std::string(parsed.ptr + 1, end);
  return layer;
}

/// The pattern's {layer}, {expert} and {rank} (with ":02d": two digits) filled in.
std::string fill(std::string pattern, int64_t layer, int64_t expert, size_t rank) {
  const auto replace = [&](const std::string& key, int64_t value) {
    for (const bool wide : {true, false}) {
      const std::string text = wide ? fmt::format("{{{}:02d}}", key) : fmt::format("{{{}}}", key);
      for (size_t at; (at = pattern.find(text)) != std::string::npos;) {
        pattern.replace(at, text.size(),
                        wide ? fmt::format("{:02}", value) : fmt::format("{}", value));
      }
    }
  };
  replace("layer", layer);
  replace("expert", expert);
  replace("rank", static_cast<int64_t>(rank));
  return pattern;
}

size_t find_file(const Checkpoint& checkpoint, const std::string& name) {
  const auto& files = checkpoint.files();
  const auto it = std::ranges::find(files, name, &CheckpointFile::name);
  if (it == files.end()) {
    user_error("{}: file {} is missing; check that the download is complete", checkpoint.directory,
               quote_name(name));
  }
  return static_cast<size_t>(it - files.begin());
}

}  // namespace

Shards::Shards(const Checkpoint& checkpoint, const CheckpointSpec& spec, int64_t heads)
    : checkpoint_(checkpoint), spec_(spec), heads_(heads) {
  for (const std::string& file : spec.files) ranks_.push_back(find_file(checkpoint, file));
  const auto choose = [&](const std::vector<std::string>& options, const std::string& before,
                          const std::string& after, std::string* out) {
    for (const std::string& option : options) {
      if (find(0, before + option + after) == nullptr) continue;
      *out = option;
      return true;
    }
    return false;
  };
  const auto require = [&](bool found, const std::string& what) {
    if (found) return;
    user_error("{}/{}: tensor {} is missing under the names of Megatron-DeepSpeed",
               checkpoint.directory, spec.files[0], quote_name(what));
  };
  require(choose({"module.language_model.", "model.language_model.", "language_model.",
                  "module.module.language_model."},
                 "", "embedding.word_embeddings.weight", &prefix_),
          "embedding.word_embeddings.weight");
  require(choose({"encoder.", "transformer."}, prefix_, "layers.0.input_layernorm.weight", &stack_),
          "layers.0.input_layernorm.weight");
  const std::string layer = prefix_ + stack_ + "layers.0.";
  require(choose({"attention", "self_attention"}, layer, ".query_key_value.weight", &attention_),
          "layers.0.attention.query_key_value.weight");
  moe_ = "mlp.deepspeed_moe";
  for (int64_t i = 0;
       find(0, fmt::format("{}{}layers.{}.input_layernorm.weight", prefix_, stack_, i)) != nullptr;
       ++i) {
    const std::string other =
        fmt::format("{}{}layers.{}.mlp.moe.deepspeed_moe.gate.wg.weight", prefix_, stack_, i);
    if (find(0, other) != nullptr) moe_ = "mlp.moe.deepspeed_moe";
  }
  version_ = spec.version;
  if (version_ < 0) {
    const TorchValue* v = checkpoint.torch_files()[ranks_[0]].find_value("checkpoint_version");
    version_ = v != nullptr && v->real ? *v->real : 0;
  }
}

/// The tensor of one rank's main file; throws UserError where it depends on a foreign object.
const TensorInfo* Shards::find(size_t rank, const std::string& path) const {
  const TorchFile& file = checkpoint_.torch_files()[ranks_[rank]];
  if (file.find(path) == nullptr) return nullptr;
  return checkpoint_.find(spec_.files[rank] + ":" + path);
}

Shards::Part Shards::main_part(size_t rank, const std::string& path) const {
  const TensorInfo* info = find(rank, path);
  if (info == nullptr) {
    user_error("{}/{}: tensor {} is missing", checkpoint_.directory, spec_.files[rank],
               quote_name(path));
  }
  return {info->name, info};
}

std::vector<Shards::Part> Shards::all_ranks(const std::string& path) const {
  std::vector<Part> parts;
  for (size_t r = 0; r < ranks_.size(); ++r) parts.push_back(main_part(r, path));
  return parts;
}

/// Expert files count MoE layers only; their keys hold the layer's own number.
Shards::Part Shards::expert_part(size_t rank, int64_t layer, int64_t expert,
                                 const std::string& leaf) const {
  int64_t number = 0;
  for (int64_t i = 0; i < layer; ++i) number += is_moe(i) ? 1 : 0;
  const std::string name = fill(spec_.experts, number, expert, rank);
  const TorchFile& file = checkpoint_.torch_files()[find_file(checkpoint_, name)];
  const std::string tail =
      fmt::format("layers.{}.{}.experts.deepspeed_experts.{}.{}", layer, moe_, expert, leaf);
  for (const std::string& front :
       {prefix_ + stack_, "language_model." + stack_, "module.language_model." + stack_, stack_}) {
    if (file.find(front + tail) == nullptr) continue;
    const TensorInfo* info = checkpoint_.find(name + ":" + front + tail);
    return {info->name, info};
  }
  user_error("{}/{}: tensor {} is missing", checkpoint_.directory, name, quote_name(tail));
}

bool Shards::is_moe(int64_t layer) const {
  return find(0, fmt::format("{}{}layers.{}.{}.gate.wg.weight", prefix_, stack_, layer, moe_)) !=
         nullptr;
}

int64_t Shards::vocabulary() const {
  int64_t rows = 0;
  for (const Part& part : all_ranks(prefix_ + "embedding.word_embeddings.weight")) {
    rows += part.info->shape.empty() ? 0 : part.info->shape[0];
  }
  return rows;
}

DType Shards::dtype() const {
  return main_part(0, prefix_ + "embedding.word_embeddings.weight").info->dtype;
}

/// The path in a main file of a tensor that is there under a name of its own.
std::string Shards::path_of(const std::string& name) const {
  if (name == "embedding") return prefix_ + "embedding.word_embeddings.weight";
  if (name == "lm_head") return prefix_ + "output_layer.weight";
  if (name.starts_with("positions."))
    return prefix_ + "embedding.position_embeddings." + name.substr(10);
  if (name.starts_with("final_norm."))
    return prefix_ + stack_ + "final_layernorm." + name.substr(11);
  std::string rest;
  const int64_t layer = layer_of(name, &rest);
  if (rest.starts_with("attention.")) rest = attention_ + rest.substr(9);
  if (rest.starts_with("router")) rest = moe_ + ".gate.wg" + rest.substr(6);
  return fmt::format("{}{}layers.{}.{}", prefix_, stack_, layer, rest);
}

bool Shards::has(const std::string& name) const {
  std::string rest;
  const int64_t layer = layer_of(name, &rest);
  if (layer >= 0 && rest.starts_with("experts.")) return is_moe(layer);
  return find(0, path_of(name)) != nullptr;
}

// ---- @load ----

Value* Shards::read(GraphBuilder& builder, const Part& part, const Shape& shape) {
  const TensorInfo& t = *part.info;
  if (t.shape != shape) {
    user_error("{}: tensor {} has shape [{}], expected [{}] from ds_inference_config.json",
               checkpoint_.directory, quote_name(t.name), fmt::join(t.shape, ", "),
               fmt::join(shape, ", "));
  }
  if (t.dtype != DType::bf16 && t.dtype != DType::f16 && t.dtype != DType::f32) {
    user_error("{}: tensor {} is {}; weights must be bf16, f16 or f32", checkpoint_.directory,
               quote_name(t.name), dtype_name(t.dtype));
  }
  used_.insert(t.name);
  return builder.value(OpKind::checkpoint, {},
                       ir::CheckpointAttrs{t.name, 0, t.dtype, dims(shape)});
}

/// `shape` from parts that are equal along `axis`. `may_be_whole`: every rank may hold all of it.
Value* Shards::read_first(GraphBuilder& builder, const std::vector<Part>& parts,
                          const Shape& shape) {
  for (const Part& part : parts) copies_.insert(part.name);
  return read(builder, parts[0], shape);
}

Value* Shards::join(GraphBuilder& builder, const std::vector<Part>& parts, int64_t axis,
                    const Shape& shape, bool may_be_whole) {
  const auto n = static_cast<int64_t>(parts.size());
  if (n == 1 || (may_be_whole && parts[0].info->shape == shape)) {
    return read_first(builder, parts, shape);
  }
  const auto at = static_cast<size_t>(axis);
  if (shape[at] % n != 0) {
    user_error("{}: tensor {}: {} rows or columns do not divide over {} shards",
               checkpoint_.directory, quote_name(parts[0].name), shape[at], n);
  }
  Shape part_shape = shape;
  part_shape[at] /= n;
  std::vector<Value*> values;
  for (const Part& part : parts) {
    if (part.info->dtype != parts[0].info->dtype) {
      user_error("{}: tensors {} and {} differ in type", checkpoint_.directory,
                 quote_name(parts[0].name), quote_name(part.name));
    }
    values.push_back(read(builder, part, part_shape));
  }
  return builder.value(OpKind::concat, values, ir::AxisAttrs{axis});
}

/// q (0), k (1) or v (2). Rows of a rank: version 0 [3, heads, head_dim], 1 [heads, head_dim, 3],
/// from 2 on [heads, 3, head_dim].
Value* Shards::load_qkv(GraphBuilder& builder, const std::string& path, int64_t which,
                        const Shape& shape) {
  const auto n = static_cast<int64_t>(ranks_.size());
  const int64_t heads = heads_ / n, width = shape[0] / heads_;
  std::vector<Value*> values;
  for (const Part& part : all_ranks(path)) {
    Shape whole = shape, mine = shape;
    whole[0] = 3 * shape[0] / n;
    mine[0] = shape[0] / n;
    Value* all = read(builder, part, whole);
    Shape split = version_ >= 2   ? Shape{heads, 3, width}
                  : version_ >= 1 ? Shape{heads, width, 3}
                                  : Shape{3, heads, width};
    const int64_t axis = version_ >= 2 ? 1 : version_ >= 1 ? 2 : 0;
    for (size_t i = 1; i < shape.size(); ++i) split.push_back(shape[i]);
    all = builder.value(OpKind::reshape, {all}, ir::ReshapeAttrs{dims(split)});
    all = builder.value(OpKind::slice, {all}, ir::SliceAttrs{axis, which, which + 1});
    values.push_back(builder.value(OpKind::reshape, {all}, ir::ReshapeAttrs{dims(mine)}));
  }
  return values.size() == 1 ? values[0] : builder.value(OpKind::concat, values, ir::AxisAttrs{0});
}

/// Up (0) or gate (1) of a gated matrix: DeepSpeed's kernels take the first half of the rows as up.
Value* Shards::load_half(GraphBuilder& builder, const std::string& path, int64_t which,
                         const Shape& shape) {
  const auto n = static_cast<int64_t>(ranks_.size());
  std::vector<Value*> values;
  for (const Part& part : all_ranks(path)) {
    Shape whole = shape;
    whole[0] = 2 * shape[0] / n;
    const int64_t half = shape[0] / n;
    values.push_back(builder.value(OpKind::slice, {read(builder, part, whole)},
                                   ir::SliceAttrs{0, which * half, (which + 1) * half}));
  }
  return values.size() == 1 ? values[0] : builder.value(OpKind::concat, values, ir::AxisAttrs{0});
}

/// All experts of a layer, [E, ...]. `leaf` is "dense_h_to_4h.weight" and so on.
Value* Shards::load_experts(GraphBuilder& builder, int64_t layer, const std::string& leaf,
                            const Shape& shape) {
  const Shape one(shape.begin() + 1, shape.end());
  Shape row = one;
  row.insert(row.begin(), 1);
  const bool up = leaf.starts_with("dense_h_to_4h");
  std::vector<Value*> values;
  for (int64_t e = 0; e < shape[0]; ++e) {
    std::vector<Part> parts;
    for (size_t r = 0; r < ranks_.size(); ++r) parts.push_back(expert_part(r, layer, e, leaf));
    Value* v = nullptr;
    if (!up && one.size() == 1) {  // the output's bias is added once
      v = read_first(builder, parts, one);
    } else {
      v = join(builder, parts, up ? 0 : 1, one, true);
    }
    values.push_back(builder.value(OpKind::reshape, {v}, ir::ReshapeAttrs{dims(row)}));
  }
  return values.size() == 1 ? values[0] : builder.value(OpKind::concat, values, ir::AxisAttrs{0});
}

/// A table split by rows, whose end may be padding.
Value* Shards::load_vocabulary(GraphBuilder& builder, const std::string& path, const Shape& shape) {
  const std::vector<Part> parts = all_ranks(path);
  int64_t rows = 0;
  for (const Part& part : parts) rows += part.info->shape.empty() ? 0 : part.info->shape[0];
  Shape whole = shape;
  whole[0] = std::max(rows, shape[0]);
  Value* all = join(builder, parts, 0, whole, false);
  if (whole == shape) return all;
  return builder.value(OpKind::slice, {all}, ir::SliceAttrs{0, 0, shape[0]});
}

Value* Shards::load(GraphBuilder& builder, const std::string& name, const Shape& shape) {
  if (name == "embedding" || name == "lm_head")
    return load_vocabulary(builder, path_of(name), shape);
  std::string rest;
  const int64_t layer = layer_of(name, &rest);
  const std::string leaf = rest.substr(rest.rfind('.') + 1);  // weight or bias
  if (rest.starts_with("experts.*.")) {
    const bool up = rest.starts_with("experts.*.up");
    return load_experts(builder, layer, (up ? "dense_h_to_4h." : "dense_4h_to_h.") + leaf, shape);
  }
  const std::string front = fmt::format("layers.{}.", layer);
  for (int64_t which = 0; which < 3; ++which) {
    if (rest == fmt::format("attention.{}.{}", "qkv"[which], leaf)) {
      return load_qkv(builder, path_of(front + "attention.query_key_value." + leaf), which, shape);
    }
  }
  if (rest == "mlp.up." + leaf || rest == "mlp.gate." + leaf) {
    const std::string path = path_of(front + "mlp.dense_h_to_4h." + leaf);
    return load_half(builder, path, rest.starts_with("mlp.gate") ? 1 : 0, shape);
  }
  const std::vector<Part> parts = all_ranks(path_of(name));
  const std::string_view path = rest;
  if (path.find("dense_h_to_4h.") != path.npos) return join(builder, parts, 0, shape, false);
  if (path == "attention.dense.weight" || path.ends_with("dense_4h_to_h.weight"))
    return join(builder, parts, 1, shape, false);
  return read_first(builder, parts, shape);
}

std::vector<UnusedTensor> Shards::unused() const {
  std::vector<UnusedTensor> all;
  for (const TensorInfo& t : checkpoint_.tensors()) {
    if (used_.contains(t.name)) continue;
    const std::string& file = checkpoint_.files()[static_cast<size_t>(t.file)].name;
    const bool main = std::ranges::find(spec_.files, file) != spec_.files.end();
    if (copies_.contains(t.name)) {
      all.push_back({t.name, "is the same on every rank: the first one's is read", true});
    } else if (main && !t.name.starts_with(file + ":" + prefix_)) {
      // Of random generators and the like.
      all.push_back({t.name, "is a state of the training beside the model", true});
    } else {
      all.push_back({t.name, "no part of the model asks for it"});
    }
  }
  return all;
}

}  // namespace shunt::deepspeed
