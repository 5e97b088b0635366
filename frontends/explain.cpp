// Explains a model directory. Entry point: explain_model(). Tested by
// tests/frontends/explain_test.cpp.
#include "frontends/explain.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

#include "frontends/import.h"
#include "ir/error.h"

namespace shunt {

namespace {

using State = hf::Config::KeyReport::State;

/// Everything that `config` says of the model.
std::vector<Attribute> attributes_of(const ModelDescription& model, const hf::Config& config,
                                     const FrontendOptions& options) {
  const Architecture arch = model.read(config);
  std::vector<Attribute> all = describe(arch);
  const ModelFacts facts = read_facts(config, options, arch);
  all.push_back({"eos_ids", {fmt::format("[{}]", fmt::join(facts.eos_ids, ", "))}});
  all.push_back({"bos_id", {fmt::format("{}", facts.bos_id)}});
  if (model.is_deepspeed) {
    const deepspeed::CheckpointSpec spec = deepspeed::read_checkpoint_spec(config);
    all.push_back({"checkpoint.files", {fmt::format("[{}]", fmt::join(spec.files, ", "))}});
    all.push_back({"checkpoint.experts", {spec.experts}});
    all.push_back({"checkpoint.version", {fmt::format("{}", spec.version)}});
  }
  return all;
}

/// Names of the attributes in `base` that differ in `other`. Layers that only one of them has, and
/// what only they had, do not count.
std::set<std::string> differences(const std::vector<Attribute>& base,
                                  const std::vector<Attribute>& other) {
  std::map<std::string, const Attribute*> others;
  for (const Attribute& a : other) others.emplace(a.name, &a);
  const auto layers = [](const std::vector<Attribute>& all) {
    return std::ranges::find(all, "layers", &Attribute::name)->values;
  };
  const bool same_layers = layers(base) == layers(other);
  std::set<std::string> names;
  for (const Attribute& a : base) {
    const auto it = others.find(a.name);
    if (it == others.end()) {
      if (same_layers || a.values.size() == 1) names.insert(a.name);
      continue;
    }
    const std::vector<std::string>& values = it->second->values;
    const auto common = static_cast<std::ptrdiff_t>(std::min(a.values.size(), values.size()));
    if (!std::equal(a.values.begin(), a.values.begin() + common, values.begin()))
      names.insert(a.name);
  }
  return names;
}

/// Adds what the key decides: the attributes that other values of it change.
void find_attributes(const ModelDescription& model, const std::vector<std::string>& path,
                     const std::vector<Attribute>& base, const FrontendOptions& options,
                     KeyUse& use) {
  std::set<std::string> changed;
  use.fixed = true;
  for (const hf::Config& varied : model.config.variations(path)) {
    try {
      changed.merge(differences(base, attributes_of(model, varied, options)));
      use.fixed = false;
    } catch (const UserError&) {
      // Not a legal value here.
    }
  }
  for (const Attribute& a : base) {
    if (changed.contains(a.name)) {
      use.attributes.push_back(fmt::format("{} = {}", a.name, a.text()));
    }
  }
}

std::string why_ignored(const hf::Config::KeyReport& key) {
  switch (key.state) {
    case State::read: return "";
    case State::inert:
      return key.remark ? "has no effect on what is computed here: code and other modalities in a "
                          "model directory are never run"
                        : "has no effect on inference";
    case State::neutral: return "unknown, and its value turns nothing on";
    case State::unknown: return "not understood";  // finish() has refused it
  }
  return "";
}

std::vector<KeyUse> explain_keys(const ModelDescription& model, const std::vector<Attribute>& base,
                                 const FrontendOptions& options) {
  std::vector<KeyUse> keys;
  for (const hf::Config::KeyReport& key : model.config.report()) {
    KeyUse use = {key.name(), key.value, {}, false, why_ignored(key)};
    if (key.path == std::vector<std::string>{"model_type"} && !model.is_deepspeed) {
      use.attributes = {"family = " + model.config.text({"model_type"})};
    } else if (key.state == State::read) {
      find_attributes(model, key.path, base, options, use);
    }
    keys.push_back(std::move(use));
  }
  return keys;
}

std::string shape_text(const ir::Value& value) {
  std::string text;
  for (const Dim& dim : value.type.shape) {
    text += fmt::format("{}{}", text.empty() ? "" : ", ", dim.to_string());
  }
  return "[" + text + "]";
}

/// Follows `value` to the parameters it becomes part of; `steps` led to it.
void follow(const ir::Value& value, const TensorUse& use, std::vector<TensorUse>& uses) {
  std::vector<const ir::Op*> users(value.users.begin(), value.users.end());
  users.erase(std::unique(users.begin(), users.end()), users.end());
  for (const ir::Op* op : users) {
    if (op->kind == ir::OpKind::store) {
      uses.push_back(use);
      uses.back().parameter = op->operand(1)->name;
      continue;
    }
    TensorUse next = use;
    std::string step(op->info().name);
    if (const std::string attrs = ir::print_attrs(op->attrs); !attrs.empty()) step += " " + attrs;
    if (op->operands.size() > 1) {
      const auto at = std::ranges::find(op->operands, &value) - op->operands.begin();
      step += fmt::format(" as part {} of {}", at + 1, op->operands.size());
    }
    next.steps.push_back(std::move(step));
    for (const auto& result : op->results) follow(*result, next, uses);
  }
}

std::vector<TensorUse> explain_tensors(const ir::Module& module) {
  std::vector<TensorUse> uses;
  for (const auto& op : module.find_graph("load")->ops) {
    if (op->kind != ir::OpKind::checkpoint) continue;
    const auto& read = op->as<ir::CheckpointAttrs>();
    TensorUse use;
    use.tensor = read.tensor;
    use.stack = read.stack;
    use.dtype = dtype_name(read.dtype);
    use.shape = shape_text(*op->result());
    follow(*op->result(), use, uses);
  }
  return uses;
}

}  // namespace

Explanation explain_model(const FrontendOptions& given, const Checkpoint* checkpoint) {
  FrontendOptions options = given;
  options.allow_unused_tensors = true;  // they are part of the explanation
  ImportedModel imported = import_model(options, checkpoint);
  const ModelDescription model(options, options.dummy_weights ? nullptr : checkpoint);
  Explanation out;
  out.file = model.config.file();
  out.model = attributes_of(model, model.config, options);
  out.keys = explain_keys(model, out.model, options);
  out.tensors = explain_tensors(*imported.module);
  out.unused = std::move(imported.unused_tensors);
  std::ranges::move(imported.needless_tensors, std::back_inserter(out.unused));
  return out;
}

}  // namespace shunt
