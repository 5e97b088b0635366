// The table behind SHUNT_OPS. Tested through every .mir case.
#include "ir/ops.h"

#include "ir/error.h"

namespace shunt::ir {

namespace {

constexpr bool has_effect(OpKind kind) {
  return kind == OpKind::store || kind == OpKind::kv_append || kind == OpKind::rope_append ||
         kind == OpKind::causal_conv || kind == OpKind::gated_delta_rule;
}

constexpr OpInfo kOps[] = {
#define SHUNT_OP_ROW(name, attrs) \
  {OpKind::name, #name, &infer_##name, &cost_##name, has_effect(OpKind::name)},
    SHUNT_OPS(SHUNT_OP_ROW)
#undef SHUNT_OP_ROW
};

}  // namespace

const OpInfo& op_info(OpKind kind) { return kOps[static_cast<int>(kind)]; }

const OpInfo* find_op(std::string_view name) {
  for (const OpInfo& info : kOps) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

Attrs default_attrs(OpKind kind) {
  switch (kind) {
#define SHUNT_OP_DEFAULT(name, attrs) \
  case OpKind::name: return attrs{};
    SHUNT_OPS(SHUNT_OP_DEFAULT)
#undef SHUNT_OP_DEFAULT
  }
  internal_error(__FILE__, __LINE__, "op kind {} is not in the list", static_cast<int>(kind));
}

}  // namespace shunt::ir
