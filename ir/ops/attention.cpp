// infer_ and cost_ of rope, kv_append, rope_append and attention. Tested by
// tests/ir/ops/attention.mir.
#include <cmath>

#include "ir/ops/check.h"

namespace shunt::ir {

namespace {

constexpr int64_t kPageRows =
    64;  // rows of a page assumed by costs: the op does not know its module's page size

std::string rows_text(const Type& state) { return "rows of the state are " + str(state); }

/// Rule `number`: seq_starts are i32[S+1] and block_tables i32[S, B]. Returns S.
Dim check_sequences(const Op& op, int number, size_t starts, size_t tables) {
  const Type& s = type_of(op, starts);
  const Type& b = type_of(op, tables);
  SHUNT_RULE(
      number,
      is_i32(s, 1) && is_i32(b, 2) && s.shape[0] == b.shape[0] + 1 && b.shape[1].is_constant(),
      "seq_starts {} and block_tables {} are not i32[S+1] and i32[S, B]", str(s), str(b));
  return b.shape[0];
}

/// Rule `number`: a state whose rows are real [heads, dim].
void check_rows(const Op& op, int number, size_t state, const Dim& heads, const Dim& dim) {
  const Type& t = type_of(op, state);
  SHUNT_RULE(number, is_real(t, 2) && t.shape[0] == heads && t.shape[1] == dim,
             "{}, not float [{}, {}]", rows_text(t), str(heads), str(dim));
}

/// Rule `number`: inv_freq is f32[r/2] with r <= head_dim.
void check_inv_freq(const Op& op, int number, size_t i, const Dim& head_dim) {
  const Type& t = type_of(op, i);
  SHUNT_RULE(number,
             is_f32(t, 1) && t.shape[0].is_constant() && head_dim.is_constant() &&
                 t.shape[0].constant() * 2 <= head_dim.constant(),
             "inv_freq {} is not f32[r/2] with r <= {} (the head size)", str(t), str(head_dim));
}

/// Bytes of one row of a state; 0 if there is none.
int64_t row_bytes(const Op& op, size_t state) {
  return has(op, state) ? type_of(op, state).bytes().constant() : 0;
}

}  // namespace

// C1 x is a real [T, heads, D]. C2 positions are i32[T]. C3 inv_freq is f32[r/2], r <= D. C4 scale
// is finite.
std::vector<Type> infer_rope(const Op& op) {
  check_operands(op, {"x", "positions", "inv_freq"});
  const Type& x = type_of(op, 0);
  SHUNT_RULE(1, is_real(x, 3), "{} is not a float [T, heads, D]", str(x));
  check_positions(op, 2, 1, x.shape[0]);
  check_inv_freq(op, 3, 2, x.last());
  SHUNT_RULE(4, std::isfinite(op.as<RopeAttrs>().scale), "scale = {}", op.as<RopeAttrs>().scale);
  return {x};
}
Cost cost_rope(const Op& op) { return {io_bytes(op), type_of(op, 0).elements() * 6}; }

// C1 k and v are real [T, heads, D] and [T, heads, Dv]. C2 positions are i32[T].
// C3 seq_starts are i32[S+1], block_tables i32[S, B]. C4 the states' rows are [heads, D] and
// [heads, Dv]. C5 v and its state are both there or both none.
std::vector<Type> infer_kv_append(const Op& op) {
  check_operands(op, {"k", "v?", "positions", "seq_starts", "block_tables", "@k", "@v?"});
  const Type& k = type_of(op, 0);
  const Type& v = has(op, 1) ? type_of(op, 1) : k;
  SHUNT_RULE(1,
             is_real(k, 3) && is_real(v, 3) && k.shape[0] == v.shape[0] && k.shape[1] == v.shape[1],
             "k {} and v {} are not float [T, heads, D]", str(k), str(v));
  SHUNT_RULE(5, has(op, 1) == has(op, 6), "{} without {}", has(op, 1) ? "v" : "@v",
             has(op, 1) ? "@v" : "v");
  check_positions(op, 2, 2, k.shape[0]);
  check_sequences(op, 3, 3, 4);
  check_rows(op, 4, 5, k.shape[1], k.shape[2]);
  if (has(op, 6)) check_rows(op, 4, 6, v.shape[1], v.shape[2]);
  return {};
}
Cost cost_kv_append(const Op& op) {
  return {io_bytes(op) + type_of(op, 0).shape[0] * (row_bytes(op, 5) + row_bytes(op, 6)), 0};
}

// C1 heads, kv_heads and head_dim are positive, kv_heads divides heads. C2 qkv is a real [T,
// (heads+2*kv_heads)*head_dim]. C3 positions are i32[T]. C4 inv_freq is none or f32[r/2], r <=
// head_dim; scale is finite. C5 q_norm and k_norm are none with norm = none, real [head_dim] with
// head, [heads*head_dim] and [kv_heads*head_dim] with full; eps is finite and not negative. C6
// seq_starts are i32[S+1], block_tables i32[S, B]. C7 the states' rows are [kv_heads, head_dim].
std::vector<Type> infer_rope_append(const Op& op) {
  const auto& a = op.as<RopeAppendAttrs>();
  check_operands(op, {"qkv", "positions", "inv_freq?", "q_norm?", "k_norm?", "seq_starts",
                      "block_tables", "@k", "@v"});
  SHUNT_RULE(1, a.heads > 0 && a.kv_heads > 0 && a.head_dim > 0 && a.heads % a.kv_heads == 0,
             "heads = {}, kv_heads = {}, head_dim = {}", a.heads, a.kv_heads, a.head_dim);
  const Type& qkv = type_of(op, 0);
  const int64_t width = (a.heads + 2 * a.kv_heads) * a.head_dim;
  SHUNT_RULE(2, is_real(qkv, 2) && qkv.last() == Dim(width), "qkv {} is not a float [T, {}]",
             str(qkv), width);
  check_positions(op, 3, 1, qkv.shape[0]);
  if (has(op, 2)) check_inv_freq(op, 4, 2, a.head_dim);
  SHUNT_RULE(4, std::isfinite(a.scale), "scale = {}", a.scale);
  SHUNT_RULE(5, std::isfinite(a.eps) && a.eps >= 0, "eps = {}", a.eps);
  for (size_t i : {3, 4}) {
    const int64_t full = (i == 3 ? a.heads : a.kv_heads) * a.head_dim;
    const int64_t n = a.norm == HeadNorm::full ? full : a.head_dim;
    const bool fits = has(op, i) ? a.norm != HeadNorm::none && is_vector(type_of(op, i), n)
                                 : a.norm == HeadNorm::none;
    SHUNT_RULE(5, fits, "{} {} with norm = {}, head_dim = {}", i == 3 ? "q_norm" : "k_norm",
               has(op, i) ? str(type_of(op, i)) : "none",
               enum_names(a.norm)[static_cast<size_t>(a.norm)], a.head_dim);
  }
  check_sequences(op, 6, 5, 6);
  check_rows(op, 7, 7, a.kv_heads, a.head_dim);
  check_rows(op, 7, 8, a.kv_heads, a.head_dim);
  return {{qkv.dtype, {qkv.shape[0], a.heads, a.head_dim}}};
}
Cost cost_rope_append(const Op& op) {
  return {io_bytes(op) + type_of(op, 0).shape[0] * (row_bytes(op, 7) + row_bytes(op, 8)),
          type_of(op, 0).elements() * (op.as<RopeAppendAttrs>().norm == HeadNorm::none ? 6 : 11)};
}

// C1 q is a real [T, heads, D]. C2 seq_starts are i32[S+1], block_tables i32[S, B]. C3 kv_lens are
// i32[S]. C4 the rows of @k are real [kv_heads, D], of @v [kv_heads, Dv]; kv_heads divides heads.
// C5 sinks and slopes are real [heads]. C6 scale is finite; window, chunk and softcap are not
// negative. C7 value_dim is 0 with @v, and Dv, from 1 to D, without.
std::vector<Type> infer_attention(const Op& op) {
  const auto& a = op.as<AttentionAttrs>();
  check_operands(op,
                 {"q", "seq_starts", "kv_lens", "block_tables", "@k", "@v?", "sinks?", "slopes?"});
  const Type& q = type_of(op, 0);
  SHUNT_RULE(1, is_real(q, 3) && q.shape[1].is_constant() && q.shape[2].is_constant(),
             "q {} is not a float [T, heads, D]", str(q));
  const Dim sequences = check_sequences(op, 2, 1, 3);
  SHUNT_RULE(3, is_i32(type_of(op, 2), 1) && type_of(op, 2).shape[0] == sequences,
             "kv_lens {} are not i32[{}]", str(type_of(op, 2)), str(sequences));
  const Type& k = type_of(op, 4);
  const int64_t heads = q.shape[1].constant();
  SHUNT_RULE(4,
             k.rank() == 2 && k.shape[0].is_constant() && k.shape[0].constant() > 0 &&
                 heads % k.shape[0].constant() == 0,
             "{}, whose heads do not divide those of q {}", rows_text(k), str(q));
  check_rows(op, 4, 4, k.shape[0], q.last());
  Dim value_dim = a.value_dim;
  if (has(op, 5)) {
    const Type& v = type_of(op, 5);
    SHUNT_RULE(4, v.rank() == 2 && v.last().is_constant(), "{}, not float [{}, Dv]", rows_text(v),
               str(k.shape[0]));
    check_rows(op, 4, 5, k.shape[0], v.last());
    SHUNT_RULE(7, a.value_dim == 0, "value_dim = {} with @v", a.value_dim);
    value_dim = v.last();
  } else {
    SHUNT_RULE(7, a.value_dim >= 1 && a.value_dim <= q.last().constant(),
               "value_dim = {} without @v, of {}", a.value_dim, str(q.last()));
  }
  SHUNT_RULE(5, !has(op, 6) || is_vector(type_of(op, 6), heads), "sinks {} are not float [{}]",
             str(type_of(op, 6)), heads);
  SHUNT_RULE(5, !has(op, 7) || is_vector(type_of(op, 7), heads), "slopes {} are not float [{}]",
             str(type_of(op, 7)), heads);
  SHUNT_RULE(6,
             std::isfinite(a.scale) && a.window >= 0 && a.chunk >= 0 && std::isfinite(a.softcap) &&
                 a.softcap >= 0,
             "scale = {}, window = {}, chunk = {}, softcap = {}", a.scale, a.window, a.chunk,
             a.softcap);
  return {{q.dtype, {q.shape[0], Dim(heads) * value_dim}}};
}
/// An upper bound: every block table full, with pages of kPageRows rows, and no window. What a step
/// really reads depends on kv_lens, which no Dim expresses.
Cost cost_attention(const Op& op) {
  const Type& tables = type_of(op, 3);
  const Dim context = tables.shape[1] * kPageRows;  // rows a sequence
  const Dim rows = tables.shape[0] * context;
  const Type& q = type_of(op, 0);
  return {io_bytes(op) + rows * (row_bytes(op, 4) + row_bytes(op, 5)),
          (q.elements() + op.result()->type.elements()) * context * 2};
}

// C1 q, k and v are real [T, heads, D], [T, kv_heads, D] and [T, kv_heads, Dv]; kv_heads divides
// heads. C2 seq_starts are i32[S+1]. C3 scale is finite.
std::vector<Type> infer_encoder_attention(const Op& op) {
  check_operands(op, {"q", "k", "v", "seq_starts"});
  const Type &q = type_of(op, 0), &k = type_of(op, 1), &v = type_of(op, 2);
  const auto sized = [](const Type& t) {
    return is_real(t, 3) && t.shape[1].is_constant() && t.shape[2].is_constant();
  };
  const bool fits = sized(q) && sized(k) && sized(v) && q.shape[0] == k.shape[0] &&
                    q.shape[0] == v.shape[0] && q.last() == k.last() && k.shape[1] == v.shape[1] &&
                    k.shape[1].constant() > 0 && q.shape[1].constant() % k.shape[1].constant() == 0;
  SHUNT_RULE(1, fits, "q {}, k {} and v {} are not float [T, heads, D]", str(q), str(k), str(v));
  SHUNT_RULE(2, is_i32(type_of(op, 3), 1), "seq_starts {} are not i32[S+1]", str(type_of(op, 3)));
  SHUNT_RULE(3, std::isfinite(op.as<EncoderAttentionAttrs>().scale), "scale = {}",
             op.as<EncoderAttentionAttrs>().scale);
  return {{q.dtype, {q.shape[0], q.shape[1] * v.last().constant()}}};
}
/// As if all tokens were of one sequence of kPageRows tokens: how they are cut no Dim expresses.
Cost cost_encoder_attention(const Op& op) {
  return {io_bytes(op),
          (type_of(op, 0).elements() + op.result()->type.elements()) * (2 * kPageRows)};
}

}  // namespace shunt::ir
