// Entry points: match_names(), belongs_to_model(). Tested by tests/frontends/layouts_test.cpp and
// refusals_test.cpp.
#include "frontends/checkpoint_names.h"

#include <algorithm>
#include <array>
#include <functional>

#include "runtime/checkpoint/checkpoint.h"

namespace shunt {

namespace {

/// Every name that is a whole path.
std::array<std::string*, 11> whole_names(CheckpointNames& n) {
  return {&n.embedding,  &n.positions,   &n.token_types, &n.embedding_norm,
          &n.project_in, &n.project_out, &n.final_norm,  &n.lm_head,
          &n.head_dense, &n.head_norm,   &n.layer};
}

/// "a.b.c" -> "a.b"; "" without a dot.
std::string parent(const std::string& path) {
  const size_t dot = path.rfind('.');
  return dot == path.npos ? "" : path.substr(0, dot);
}

using Rename = std::function<std::string(const std::string&)>;

}  // namespace

void match_names(Architecture& arch, const Checkpoint& checkpoint) {
  CheckpointNames& n = arch.names;
  if (checkpoint.find(n.embedding) != nullptr) return;
  const std::string base = n.embedding.substr(0, n.embedding.find('.') + 1);  // "model."
  const auto in_base = [&](const std::string& name) {
    return !base.empty() && name.starts_with(base);
  };
  const Rename renames[] = {
      [&](const std::string& name) { return "language_model." + name; },
      [&](const std::string& name) {
        return in_base(name) ? base + "language_model." + name.substr(base.size()) : name;
      },
      [&](const std::string& name) { return in_base(name) ? name.substr(base.size()) : name; },
  };
  for (const Rename& rename : renames) {
    if (checkpoint.find(rename(n.embedding)) == nullptr) continue;
    for (std::string* name : whole_names(n)) {
      if (!name->empty()) *name = rename(*name);
    }
    if (!n.lm_head_bias.empty()) n.lm_head_bias = rename(n.lm_head_bias);
    for (std::string& prefix : arch.ignored_prefixes) prefix = rename(prefix);
    return;
  }
}

bool belongs_to_model(const CheckpointNames& names, const std::string& tensor) {
  CheckpointNames n = names;
  const std::string list = n.layer.substr(0, n.layer.size() - 1);  // "model.layers"
  const std::string around = list.find('.') == list.npos ? list : parent(list);
  if (tensor.starts_with(around + ".")) return true;
  const std::string module = parent(tensor);
  const auto whole = whole_names(n);
  return std::ranges::any_of(whole, [&](const std::string* name) {
    return !name->empty() && (*name == module || parent(*name) == module);
  });
}

}  // namespace shunt
