// infer_ and cost_ of the ops that exist because there are many ranks: shard, local_routes,
// dispatch, combine, all_reduce, all_gather, reduce_scatter. That their groups fit the mesh is the
// verifier's rule V7. Tested by tests/ir/ops/collective.mir.
#include "ir/ops/check.h"

namespace shunt::ir {

namespace {

int64_t length(const Runs& runs) {
  int64_t n = 0;
  for (size_t i = 0; i + 1 < runs.size(); i += 2) n += runs[i + 1] - runs[i];
  return n;
}

/// Rule `number`: a group has ranks.
void check_ranks(const Op& op, int number, int64_t ranks) {
  SHUNT_RULE(number, ranks >= 1, "ranks = {}", ranks);
}

/// Rule `number`: experts and replicas are positive, operand i is f32[experts * replicas * 3].
void check_table(const Op& op, int number, size_t i, const LocalRoutesAttrs& a) {
  SHUNT_RULE(number, a.experts >= 1 && a.replicas >= 1, "experts = {}, replicas = {}", a.experts,
             a.replicas);
  const Type table{DType::f32, {Dim(a.experts * a.replicas * 3)}};
  SHUNT_RULE(number, type_of(op, i) == table, "table {} is not {}", str(type_of(op, i)),
             str(table));
}

}  // namespace

// C1 axis is one of the operand's, its size a number. C2 runs are pairs 0 <= begin <= end <= that
// size. C3 every rank's runs are at most `size` long together, which is positive.
std::vector<Type> infer_shard(const Op& op) {
  const auto& a = op.as<ShardAttrs>();
  check_operands(op, {"x"});
  Type type = type_of(op, 0);
  SHUNT_RULE(1, a.axis >= 0 && a.axis < type.rank(), "axis {} of {}", a.axis, str(type));
  Dim& size = type.shape[static_cast<size_t>(a.axis)];
  SHUNT_RULE(1, size.is_constant(), "axis {} of {} is not a number", a.axis, str(type));
  SHUNT_RULE(3, a.size >= 1, "size = {}", a.size);
  for (const Runs& runs : a.runs) {
    SHUNT_RULE(2, runs.size() % 2 == 0, "a run without an end");
    for (size_t i = 0; i + 1 < runs.size(); i += 2) {
      SHUNT_RULE(2, runs[i] >= 0 && runs[i] <= runs[i + 1] && runs[i + 1] <= size.constant(),
                 "run [{}, {}) of axis {} of {}", runs[i], runs[i + 1], a.axis, str(type));
    }
    SHUNT_RULE(3, length(runs) <= a.size, "{} indices do not fit size = {}", length(runs), a.size);
  }
  size = a.size;
  return {type};
}
Cost cost_shard(const Op& op) { return {op.result()->type.bytes() * 2, 0}; }

// C1 ids are i32[T, k]. C2 experts and replicas are positive, the table is f32[experts * replicas *
// 3].
std::vector<Type> infer_local_routes(const Op& op) {
  const auto& a = op.as<LocalRoutesAttrs>();
  check_operands(op, {"ids", "table"});
  const Type& ids = type_of(op, 0);
  SHUNT_RULE(1, is_i32(ids, 2) && ids.last().is_constant(), "ids {} are not i32[T, k]", str(ids));
  check_table(op, 2, 1, a);
  return {ids};
}
Cost cost_local_routes(const Op& op) { return {io_bytes(op), type_of(op, 0).elements() * 8}; }

// C1 x is a real [T, H]. C2 ids are i32[T, k], w f32[T, k]. C3 experts and replicas are positive,
// the table is f32[experts * replicas * 3]. C4 ranks is positive.
std::vector<Type> infer_dispatch(const Op& op) {
  const auto& a = op.as<DispatchAttrs>();
  check_operands(op, {"x", "ids", "w", "table"});
  Type x = type_of(op, 0), ids = type_of(op, 1), w = type_of(op, 2);
  SHUNT_RULE(1, is_real(x, 2), "x {} is not a float [T, H]", str(x));
  SHUNT_RULE(2, is_i32(ids, 2) && ids.last().is_constant() && ids.shape[0] == x.shape[0],
             "ids {} are not i32[{}, k]", str(ids), str(x.shape[0]));
  SHUNT_RULE(2, is_f32(w, 2) && w.shape == ids.shape, "w {} does not match ids {}", str(w),
             str(ids));
  check_table(op, 3, 3, a);
  check_ranks(op, 4, a.ranks);
  const Dim tokens = x.shape[0];
  for (Type* t : {&x, &ids, &w}) t->shape[0] = tokens * a.ranks;
  return {x, ids, w, {DType::i32, {tokens, Dim(a.ranks)}}};
}
Cost cost_dispatch(const Op& op) { return {io_bytes(op), type_of(op, 1).elements() * 8}; }

// C1 y is a real [ranks * T, H]. C2 places are i32[T, ranks]. C3 ranks is positive.
std::vector<Type> infer_combine(const Op& op) {
  check_operands(op, {"y", "places"});
  const int64_t ranks = op.as<ReduceAttrs>().ranks;
  check_ranks(op, 3, ranks);
  Type y = type_of(op, 0);
  SHUNT_RULE(1, is_real(y, 2) && y.shape[0].divisible_by(ranks), "y {} is not a float [{} * T, H]",
             str(y), ranks);
  y.shape[0] = y.shape[0].divided_by(ranks);
  const Type places{DType::i32, {y.shape[0], Dim(ranks)}};
  SHUNT_RULE(2, type_of(op, 1) == places, "places {} are not {}", str(type_of(op, 1)), str(places));
  return {y};
}
Cost cost_combine(const Op& op) { return {io_bytes(op), type_of(op, 0).elements()}; }

// C1 x is real. C2 ranks is positive.
std::vector<Type> infer_all_reduce(const Op& op) {
  check_operands(op, {"x"});
  SHUNT_RULE(1, is_real(type_of(op, 0).dtype), "x {} is not float", str(type_of(op, 0)));
  check_ranks(op, 2, op.as<ReduceAttrs>().ranks);
  return {type_of(op, 0)};
}
Cost cost_all_reduce(const Op& op) { return {io_bytes(op), type_of(op, 0).elements()}; }

// C1 x is real or i32, axis is one of its own. C2 ranks is positive. C3 sizes are none, or one a
// rank between 0 and the size of axis, which is then a number.
std::vector<Type> infer_all_gather(const Op& op) {
  const auto& a = op.as<GatherAttrs>();
  check_operands(op, {"x"});
  Type type = type_of(op, 0);
  SHUNT_RULE(1, is_real(type.dtype) || type.dtype == DType::i32, "x {} is not float or i32",
             str(type));
  SHUNT_RULE(1, a.axis >= 0 && a.axis < type.rank(), "axis {} of {}", a.axis, str(type));
  check_ranks(op, 2, a.ranks);
  Dim& size = type.shape[static_cast<size_t>(a.axis)];
  if (a.sizes.empty()) {
    size = size * a.ranks;
    return {type};
  }
  SHUNT_RULE(3, size.is_constant() && static_cast<int64_t>(a.sizes.size()) == a.ranks,
             "{} sizes for {} ranks along axis {} of {}", a.sizes.size(), a.ranks, a.axis,
             str(type));
  int64_t total = 0;
  for (const int64_t n : a.sizes) {
    SHUNT_RULE(3, n >= 0 && n <= size.constant(), "size {} of axis {} of {}", n, a.axis, str(type));
    total += n;
  }
  size = total;
  return {type};
}
Cost cost_all_gather(const Op& op) { return {io_bytes(op), 0}; }

// C1 x is real, with a first dim that ranks divides. C2 ranks is positive.
std::vector<Type> infer_reduce_scatter(const Op& op) {
  check_operands(op, {"x"});
  Type type = type_of(op, 0);
  const int64_t ranks = op.as<ReduceAttrs>().ranks;
  check_ranks(op, 2, ranks);
  SHUNT_RULE(1, is_real(type.dtype) && type.rank() >= 1 && type.shape[0].divisible_by(ranks),
             "x {} is not a float [{} * M, ..]", str(type), ranks);
  type.shape[0] = type.shape[0].divided_by(ranks);
  return {type};
}
Cost cost_reduce_scatter(const Op& op) { return {io_bytes(op), type_of(op, 0).elements()}; }

}  // namespace shunt::ir
