// infer_ and cost_ of the ops with slot states: causal_conv and gated_delta_rule. Tested by
// tests/ir/ops/recurrent.mir.
#include <cmath>

#include "ir/ops/check.h"

namespace shunt::ir {

namespace {

/// Rule `number`: seq_starts are i32[S+1] and state_slots i32[S].
void check_slots(const Op& op, int number, size_t starts, size_t slots) {
  const Type& s = type_of(op, starts);
  const Type& n = type_of(op, slots);
  SHUNT_RULE(number, is_i32(s, 1) && is_i32(n, 1) && s.shape[0] == n.shape[0] + 1,
             "seq_starts {} and state_slots {} are not i32[S+1] and i32[S]", str(s), str(n));
}

/// A state's row of every sequence, read and written.
Dim state_bytes(const Op& op, size_t slots, size_t state) {
  return type_of(op, slots).shape[0] * (2 * type_of(op, state).bytes().constant());
}

}  // namespace

// C1 x is a real [T, C]. C2 w is a real [C, W] with W >= 2. C3 bias is none or real [C]. C4
// positions are i32[T]. C5 seq_starts are i32[S+1], state_slots i32[S]. C6 the state's rows are
// real [W-1, C]. C7 epilogue is an expression of acc.
std::vector<Type> infer_causal_conv(const Op& op) {
  check_operands(op, {"x", "w", "bias?", "positions", "seq_starts", "state_slots", "@inputs#"});
  const Type &x = type_of(op, 0), &w = type_of(op, 1), &rows = type_of(op, 6);
  SHUNT_RULE(1, is_real(x, 2) && x.last().is_constant(), "{} is not a float [T, C]", str(x));
  SHUNT_RULE(
      2,
      is_real(w, 2) && w.shape[0] == x.last() && w.last().is_constant() && w.last().constant() >= 2,
      "w {} is not a float [{}, W] with W >= 2", str(w), str(x.last()));
  SHUNT_RULE(3, !has(op, 2) || is_vector(type_of(op, 2), x.last()), "bias {} is not float [{}]",
             str(type_of(op, 2)), str(x.last()));
  check_positions(op, 4, 3, x.shape[0]);
  check_slots(op, 5, 4, 5);
  SHUNT_RULE(6, is_real(rows, 2) && rows.shape[0] == w.last() - 1 && rows.last() == x.last(),
             "rows of the state are {}, not float [{}, {}]", str(rows), str(w.last() - 1),
             str(x.last()));
  const std::string& epilogue = op.as<CausalConvAttrs>().epilogue;
  if (!epilogue.empty()) check_expr(op, 7, "epilogue", epilogue, {"acc"}, op.operands.size());
  return {x};
}
Cost cost_causal_conv(const Op& op) {
  return {io_bytes(op) + state_bytes(op, 5, 6),
          type_of(op, 0).elements() * (2 * type_of(op, 1).last().constant())};
}

// C1 the state's rows are real [heads, D, Dv]; key_heads is positive and divides heads. C2 qkv is a
// real [T, 2*key_heads*D + heads*Dv]. C3 g and beta are f32[T, heads]. C4 positions are i32[T]. C5
// seq_starts are i32[S+1], state_slots i32[S]. C6 scale and eps are finite, eps is not negative.
std::vector<Type> infer_gated_delta_rule(const Op& op) {
  const auto& a = op.as<GatedDeltaRuleAttrs>();
  check_operands(op, {"qkv", "g", "beta", "positions", "seq_starts", "state_slots", "@state#"});
  const Type &qkv = type_of(op, 0), &rows = type_of(op, 6);
  SHUNT_RULE(1,
             is_real(rows, 3) && has_elements(rows) && rows.elements().is_constant() &&
                 rows.elements().constant() > 0 && a.key_heads > 0 &&
                 rows.shape[0].constant() % a.key_heads == 0,
             "rows of the state are {}, not float [heads, D, Dv] with heads a multiple of "
             "key_heads = {}",
             str(rows), a.key_heads);
  const Dim &heads = rows.shape[0], &d = rows.shape[1], &dv = rows.shape[2];
  const Dim width = d * (2 * a.key_heads) + heads * dv;
  SHUNT_RULE(2, is_real(qkv, 2) && qkv.last() == width, "qkv {} is not a float [T, {}]", str(qkv),
             str(width));
  for (size_t i : {1, 2}) {
    const Type& t = type_of(op, i);
    SHUNT_RULE(3, is_f32(t, 2) && t.shape[0] == qkv.shape[0] && t.last() == heads,
               "{} {} is not f32[{}, {}]", i == 1 ? "g" : "beta", str(t), str(qkv.shape[0]),
               str(heads));
  }
  check_positions(op, 4, 3, qkv.shape[0]);
  check_slots(op, 5, 4, 5);
  SHUNT_RULE(6, std::isfinite(a.scale) && std::isfinite(a.eps) && a.eps >= 0,
             "scale = {}, eps = {}", a.scale, a.eps);
  return {{qkv.dtype, {qkv.shape[0], heads, dv}}};
}
Cost cost_gated_delta_rule(const Op& op) {
  // An element of the state: decay, k . s, the update, q . s.
  return {io_bytes(op) + state_bytes(op, 5, 6),
          type_of(op, 0).shape[0] * (7 * type_of(op, 6).elements().constant())};
}

}  // namespace shunt::ir
