// infer_ and cost_ of the ops of a mixture of experts: topk_gate, norm_gate, routed_linear,
// route_sort, grouped_linear, combine_routes. Tested by tests/ir/ops/moe.mir.
#include <cmath>

#include "ir/ops/linear.h"

namespace shunt::ir {

namespace {

/// Rule `number`: the router's attributes fit `experts`.
void check_router(const Op& op, int number, const TopkGateAttrs& a, int64_t experts) {
  SHUNT_RULE(number, a.k >= 1 && a.k <= experts, "k = {} of {} experts", a.k, experts);
  SHUNT_RULE(number, a.groups >= 1 && experts % a.groups == 0,
             "groups = {} does not divide {} experts", a.groups, experts);
  const int64_t group = experts / a.groups;
  SHUNT_RULE(number,
             a.keep_groups >= 1 && a.keep_groups <= a.groups && a.k <= a.keep_groups * group,
             "keep_groups = {} of groups = {}, with {} experts each, for k = {}", a.keep_groups,
             a.groups, group, a.k);
  SHUNT_RULE(number, a.group_score == GroupScore::max || group >= 2,
             "group_score = top2_sum with groups of {} expert", group);
  SHUNT_RULE(number, a.norm != RouteNorm::softmax || a.score == ScoreFunction::identity,
             "norm = softmax needs score = identity");
  SHUNT_RULE(number,
             std::isfinite(a.norm_eps) && a.norm_eps >= 0 && std::isfinite(a.norm_min) &&
                 a.norm_min >= 0 && std::isfinite(a.scale),
             "norm_eps = {}, norm_min = {}, scale = {}", a.norm_eps, a.norm_min, a.scale);
  const bool mixer = a.score == ScoreFunction::sparse_mixer;
  SHUNT_RULE(number, std::isfinite(a.jitter) && a.jitter >= 0 && (mixer || a.jitter == 0),
             "jitter = {} with score = {}", a.jitter,
             enum_names(a.score)[static_cast<size_t>(a.score)]);
  SHUNT_RULE(number, !mixer || (a.norm == RouteNorm::none && a.groups == 1),
             "score = sparse_mixer with groups = {} or a norm", a.groups);
}

/// Rule `number`: a sparse mixer has no selection bias.
void check_mixer_bias(const Op& op, int number, const TopkGateAttrs& a, size_t i) {
  SHUNT_RULE(number, a.score != ScoreFunction::sparse_mixer || !has(op, i),
             "score = sparse_mixer with a selection_bias {}", str(type_of(op, i)));
}

/// Rule `number`: capacity, where the gate has one.
void check_capacity(const Op& op, int number, const TopkGateAttrs& a) {
  SHUNT_RULE(number,
             std::isfinite(a.capacity_factor) && a.capacity_factor >= 0 &&
                 a.capacity_factor <= 1e6 && a.min_capacity >= 0,
             "capacity_factor = {}, min_capacity = {}", a.capacity_factor, a.min_capacity);
  SHUNT_RULE(number, a.drop != Drop::none || (a.capacity_factor == 0 && a.min_capacity == 0),
             "a capacity without drop");
  SHUNT_RULE(number, !a.depends_on_batch() || a.norm != RouteNorm::softmax,
             "drop or sample_second with norm = softmax");
  SHUNT_RULE(number,
             !a.depends_on_batch() || a.norm != RouteNorm::sum || a.norm_eps > 0 || a.norm_min > 0,
             "drop with norm = sum may divide by 0: it needs norm_eps or norm_min");
  SHUNT_RULE(number, !a.sample_second || (a.k == 2 && a.score == ScoreFunction::softmax),
             "sample_second with k = {}, or a score that is not softmax", a.k);
}

/// Rule `number`: operand `i` is none or a real [E]; operand `i + 1` is none or i32[T, k].
void check_bias_and_forced(const Op& op, int number, size_t i, const Dim& tokens, int64_t experts,
                           int64_t k) {
  SHUNT_RULE(number, !has(op, i) || is_vector(type_of(op, i), experts),
             "selection_bias {} is not float [{}]", str(type_of(op, i)), experts);
  const Type forced{DType::i32, {tokens, k}};
  SHUNT_RULE(number, !has(op, i + 1) || type_of(op, i + 1) == forced, "forced {} is not {}",
             str(type_of(op, i + 1)), str(forced));
}

/// Rule `number`: ids are i32[T, k].
const Type& check_ids(const Op& op, int number, size_t i) {
  const Type& ids = type_of(op, i);
  SHUNT_RULE(number, is_i32(ids, 2) && ids.last().is_constant(), "ids {} are not i32[T, k]",
             str(ids));
  return ids;
}

/// C2: an expert weight is a real [E, N, K], K the last dim of x.
const Type& check_experts(const Op& op) {
  const Type& x = type_of(op, 0);
  const Type& w = type_of(op, 1);
  SHUNT_RULE(2, is_real(w, 3) && w.elements().is_constant() && w.last() == x.last(),
             "weight {} is not [E, N, K] for the last dim of x {}", str(w), str(x));
  return w;
}

/// C6: extra operands are real [E, N'].
void check_expert_extras(const Op& op, size_t first, const Dim& experts, const Dim& columns) {
  for (size_t i = first; i < op.operands.size(); ++i) {
    const Type& t = type_of(op, i);
    SHUNT_RULE(6, is_real(t, 2) && t.shape[0] == experts && t.last() == columns,
               "extra operand x{} {} is not float [{}, {}]", i - first, str(t), str(experts),
               str(columns));
  }
}

constexpr int64_t kGateFlops = 20;  // a logit: score, and the passes of a small top-k

}  // namespace

// C1 logits are f32[T, E], E a number. C2 k, groups, keep_groups, norm and scale fit E. C3
// selection_bias is a real [E], forced i32[T, k]. C4 capacity and drop fit k and norm.
std::vector<Type> infer_topk_gate(const Op& op) {
  const auto& a = op.as<TopkGateAttrs>();
  check_operands(op, {"logits", "selection_bias?", "forced?"});
  const Type& logits = type_of(op, 0);
  SHUNT_RULE(1, is_f32(logits, 2) && logits.last().is_constant(), "logits {} are not f32[T, E]",
             str(logits));
  const Dim& tokens = logits.shape[0];
  const int64_t experts = logits.last().constant();
  check_router(op, 2, a, experts);
  check_bias_and_forced(op, 3, 1, tokens, experts, a.k);
  check_capacity(op, 4, a);
  check_mixer_bias(op, 2, a, 1);
  return {{DType::f32, {tokens, a.k}}, {DType::i32, {tokens, a.k}}};
}
Cost cost_topk_gate(const Op& op) { return {io_bytes(op), type_of(op, 0).elements() * kGateFlops}; }

// C1 x is a real [T, H]; y, where there is one, a real of the same shape. C2 k, groups,
// keep_groups, norm and scale fit E. C3 selection_bias is a real [E], forced i32[T, k]. C4 norm_w
// is a real [H]; eps is finite and not negative. C5 router is a real [E, H] of numbers, router_bias
// a real [E]. C6 no capacity: it needs all tokens at once.
std::vector<Type> infer_norm_gate(const Op& op) {
  const auto& a = op.as<NormGateAttrs>();
  check_operands(op, {"x", "y?", "norm_w", "router", "router_bias?", "selection_bias?", "forced?"});
  const Type& x = type_of(op, 0);
  SHUNT_RULE(1, is_real(x, 2), "x {} is not a float [T, H]", str(x));
  SHUNT_RULE(1, !has(op, 1) || (is_real(type_of(op, 1).dtype) && type_of(op, 1).shape == x.shape),
             "y {} does not match x {}", str(type_of(op, 1)), str(x));
  SHUNT_RULE(4, is_vector(type_of(op, 2), x.last()) && std::isfinite(a.eps) && a.eps >= 0,
             "norm_w {} for x {}, eps = {}", str(type_of(op, 2)), str(x), a.eps);
  const Type& router = type_of(op, 3);
  SHUNT_RULE(5, is_real(router, 2) && router.elements().is_constant() && router.last() == x.last(),
             "router {} does not match the last dim of x {}", str(router), str(x));
  const int64_t experts = router.shape[0].constant();
  SHUNT_RULE(5, !has(op, 4) || is_vector(type_of(op, 4), experts),
             "router_bias {} is not float [{}]", str(type_of(op, 4)), experts);
  check_router(op, 2, a, experts);
  const Dim& tokens = x.shape[0];
  check_bias_and_forced(op, 3, 5, tokens, experts, a.k);
  SHUNT_RULE(6, !a.depends_on_batch(), "drop or sample_second; use topk_gate");
  check_mixer_bias(op, 2, a, 5);
  return {x,
          x,
          {DType::f32, {tokens, experts}},
          {DType::f32, {tokens, a.k}},
          {DType::i32, {tokens, a.k}}};
}
Cost cost_norm_gate(const Op& op) {
  const Type& x = type_of(op, 0);
  const int64_t experts = type_of(op, 3).shape[0].constant();
  return {io_bytes(op), x.elements() * (2 * experts + 6) + x.shape[0] * (experts * kGateFlops)};
}

// C1 x is a real [T, K] or [k*T, K], T of ids. C2 w is a real [E, N, K] of numbers. C3 with glu, N
// is even. C4 the epilogue, as linear. C5 out is real. C6 extra operands are real [E, N']. C7 ids
// are i32[T, k].
std::vector<Type> infer_routed_linear(const Op& op) {
  const auto& a = op.as<LinearAttrs>();
  check_operands(op, {"x", "w", "ids", "extra*"});
  const Type& x = type_of(op, 0);
  const Type& ids = check_ids(op, 7, 2);
  const Dim routes = ids.elements();
  SHUNT_RULE(1, is_real(x, 2) && (x.shape[0] == ids.shape[0] || x.shape[0] == routes),
             "x {} is not a float [{}, K] or [{}, K]", str(x), str(ids.shape[0]), str(routes));
  const Type& w = check_experts(op);
  const Dim columns = check_columns(op, w, a.glu);
  check_epilogue(op, a.epilogue, a.glu, a.out, 3);
  check_expert_extras(op, 3, w.shape[0], columns);
  return {{a.out, {routes, columns}}};
}
/// Weights: one expert a route. The true figure is at most min(E, routes) experts, and no Dim
/// expresses a minimum; readers with numbers at hand (codegen, bench) cap it at the whole weight.
Cost cost_routed_linear(const Op& op) {
  const Type& w = type_of(op, 1);
  const Dim routes = type_of(op, 2).elements();
  const int64_t expert_bytes = w.bytes().constant() / w.shape[0].constant();
  return {io_bytes(op) - w.bytes() + routes * expert_bytes,
          linear_flops(op, routes, w, op.as<LinearAttrs>().epilogue)};
}

// C1 ids are i32[T, k]. C2 experts is positive.
std::vector<Type> infer_route_sort(const Op& op) {
  const int64_t experts = op.as<RouteSortAttrs>().experts;
  check_operands(op, {"ids"});
  const Type& ids = check_ids(op, 1, 0);
  SHUNT_RULE(2, experts >= 1, "experts = {}", experts);
  return {{DType::i32, {experts + 1}}, {DType::i32, {ids.elements()}}};
}
Cost cost_route_sort(const Op& op) { return {io_bytes(op), type_of(op, 0).elements() * 4}; }

// C1 x is a real [M, K], or [T, K] with gather * T == M, M the number of rows. C2 w is a real [E,
// N, K] of numbers. C3 with glu, N is even. C4 the epilogue, as linear. C5 out is real. C6 extra
// operands are real [E, N']. C7 offsets are i32[E+1], rows i32[M]. C8 gather is not negative.
std::vector<Type> infer_grouped_linear(const Op& op) {
  const auto& a = op.as<GroupedLinearAttrs>();
  check_operands(op, {"x", "w", "offsets", "rows", "extra*"});
  const Type& x = type_of(op, 0);
  const Type& offsets = type_of(op, 2);
  const Type& rows = type_of(op, 3);
  SHUNT_RULE(8, a.gather >= 0, "gather = {}", a.gather);
  SHUNT_RULE(7, is_i32(rows, 1), "rows {} are not i32[k*T]", str(rows));
  SHUNT_RULE(1, is_real(x, 2) && x.shape[0] * (a.gather > 0 ? a.gather : 1) == rows.shape[0],
             "x {} does not match rows {} with gather = {}", str(x), str(rows), a.gather);
  const Type& w = check_experts(op);
  SHUNT_RULE(7, is_i32(offsets, 1) && offsets.shape[0] == w.shape[0] + 1,
             "offsets {} are not i32[{}]", str(offsets), str(w.shape[0] + 1));
  const Dim columns = check_columns(op, w, a.glu);
  check_epilogue(op, a.epilogue, a.glu, a.out, 4);
  check_expert_extras(op, 4, w.shape[0], columns);
  return {{a.out, {rows.shape[0], columns}}};
}
/// Weights: all experts.
Cost cost_grouped_linear(const Op& op) {
  return {io_bytes(op), linear_flops(op, type_of(op, 3).shape[0], type_of(op, 1),
                                     op.as<GroupedLinearAttrs>().epilogue)};
}

// C1 ids are i32[T, k], w f32[T, k]. C2 y is a real [k*T, H]. C3 residual is a real [T, H].
std::vector<Type> infer_combine_routes(const Op& op) {
  check_operands(op, {"y", "w", "ids", "residual?"});
  const Type& y = type_of(op, 0);
  const Type& w = type_of(op, 1);
  const Type& ids = check_ids(op, 1, 2);
  SHUNT_RULE(1, is_f32(w, 2) && w.shape == ids.shape, "w {} does not match ids {}", str(w),
             str(ids));
  SHUNT_RULE(2, is_real(y, 2) && y.shape[0] == ids.elements(), "y {} is not a float [{}, H]",
             str(y), str(ids.elements()));
  const Type out{has(op, 3) ? type_of(op, 3).dtype : y.dtype, {ids.shape[0], y.last()}};
  SHUNT_RULE(3, is_real(out.dtype) && (!has(op, 3) || type_of(op, 3) == out),
             "residual {} is not float [{}, {}]", str(type_of(op, 3)), str(ids.shape[0]),
             str(y.last()));
  return {out};
}
Cost cost_combine_routes(const Op& op) { return {io_bytes(op), type_of(op, 0).elements() * 2}; }

}  // namespace shunt::ir
