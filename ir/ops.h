// The one list of ops. An op's name is its token in text, its enum value, and the suffix of its
// functions (infer_rms_norm, cost_rms_norm, eval_rms_norm, and the codegen rows), so that a missing
// piece is a link error and one grep finds all. Constraints are labelled C1, C2, ... here, in
// ir/ops/*.cpp and in one negative test each (tests/ir/<op>.mir).
//
// Notation: T tokens of the batch, S sequences, R rows that need logits, H hidden, E experts, k
// routes a token. Float types may differ between operands; arithmetic is float32, the result is
// rounded once, to its type. A route is a pair (token t, choice j) with index t*k + j; an expert id
// of -1 is a dropped or padded route. "state" operands are paged (ir/module.h): row p of sequence s
// lives in page block_tables[s][p / page_size] at row p % page_size. Common step inputs: positions
// i32[T]; seq_starts i32[S+1], token offsets of each sequence in the batch; kv_lens i32[S], length
// of each sequence after this step; block_tables i32[S, B]; state_slots i32[S]. A "#" marks slot
// states: sequence s has row state_slots[s], which is read as zero where the sequence's first token
// of the step stands at position 0, and written unless the sequence has no token.
#pragma once

#include <array>
#include <string_view>
#include <variant>
#include <vector>

#include "ir/attrs.h"

namespace shunt::ir {

// clang-format off
#define SHUNT_OPS(X) \
  /* ---- @load: checkpoint tensors to parameters; runs once ---- */ \
  X(checkpoint,     CheckpointAttrs)    /* () -> dtype[shape]                                                    */ \
  X(dequantize,     DequantizeAttrs)    /* (payload f8e4m3[.., N, K] | u8[.., N, K/2]: two e2m1 a byte, low half first,  \
                                            scale[.., N/rows, K/columns] rounded up, float | u8: exponents e8m0)    \
                                            -> dtype[.., N, K]                                                   */ \
  X(dummy,          DummyAttrs)         /* () -> dtype[shape]                                                    */ \
  X(constant,       ConstantAttrs)      /* () -> f32[n]                                                          */ \
  X(transpose,      NoAttrs)            /* (x[.., a, b]) -> [.., b, a]                                           */ \
  X(store,          NoAttrs)            /* (x, @param) -> (): the parameter's value                              */ \
  /* ---- both ---- */ \
  X(concat,         AxisAttrs)          /* (x0, x1, ...) -> joined along axis                                    */ \
  X(slice,          SliceAttrs)         /* (x) -> x[.., begin:end, ..] along axis                                */ \
  X(reshape,        ReshapeAttrs)       /* (x) -> the same elements in row-major order                           */ \
  X(shard,          ShardAttrs)         /* (x) -> this rank's part of x along axis, padded with zeros to size    */ \
  /* ---- @step ---- */ \
  X(embedding,      EmbeddingAttrs)     /* (ids i32[T], table[V, H]) -> [T, H]                                   */ \
  X(pointwise,      PointwiseAttrs)     /* (x0[.., N], xi: same shape | [N] | [.., 1]) -> shape of x0            */ \
  X(glu,            GluAttrs)           /* (x[T, 2N]) -> [T, N]                                                  */ \
  X(rms_norm,       NormAttrs)          /* (x[.., N], weight[N]) -> [.., N]                                      */ \
  X(layer_norm,     NormAttrs)          /* (x[.., N], weight[N], bias[N]|none) -> [.., N]                        */ \
  X(add_norm,       AddNormAttrs)       /* (x[T, N], y[T, N], weight[N], bias[N]|none) -> x + y, norm(x + y)      */ \
  X(linear,         LinearAttrs)        /* (x[T, K], w[N, K], extra: [N'] | [T, N'] ...) -> [T, N']              */ \
  X(rope,           RopeAttrs)          /* (x[T, heads, D], positions, inv_freq f32[r/2], r <= D) -> same        */ \
  X(head_linear,    HeadLinearAttrs)    /* (x[T, heads, K], w[heads, N, K]) -> [T, heads, N]                     */ \
  X(kv_append,      NoAttrs)            /* (k[T,h,D], v[T,h,Dv]|none, positions, seq_starts, block_tables, @k,      \
                                            @v|none)                                                             */ \
  X(rope_append,    RopeAppendAttrs)    /* (qkv[T,(q+2kv)*D], positions, inv_freq|none, q_norm|none, k_norm|none,   \
                                            seq_starts, block_tables, @k, @v) -> q[T, heads, D]                  */ \
  X(attention,      AttentionAttrs)     /* (q[T, heads, D], seq_starts, kv_lens, block_tables, @k, @v|none,         \
                                            sinks[heads]|none, slopes[heads]|none) -> [T, heads*Dv]: slopes      \
                                            (ALiBi) add slope * (key - query position) to a score                */ \
  X(encoder_attention, EncoderAttentionAttrs) /* (q[T,heads,D], k[T,h,D], v[T,h,Dv], seq_starts) -> [T, heads*Dv] */ \
  X(causal_conv,    CausalConvAttrs)    /* (x[T, C], w[C, W], bias[C]|none, positions, seq_starts, state_slots,          \
                                            @last inputs [W-1, C] #) -> [T, C]: w[:, W-1] meets the token itself */ \
  X(gated_delta_rule, GatedDeltaRuleAttrs) /* (qkv[T, 2*h*D + heads*Dv], g f32[T, heads], beta f32[T, heads],       \
                                            positions, seq_starts, state_slots, @s[heads, D, Dv] #)                 \
                                            -> [T, heads, Dv]                                                    */ \
  X(topk_gate,      TopkGateAttrs)      /* (logits f32[T, E], selection_bias[E]|none, forced i32[T, k]|none)        \
                                            -> w f32[T, k], ids i32[T, k]                                        */ \
  X(norm_gate,      NormGateAttrs)      /* (x[T,H], y[T,H]|none, norm_w[H], router[E,H], router_bias[E]|none,       \
                                            selection_bias[E]|none, forced i32[T,k]|none) -> sum[T,H],              \
                                            normed[T,H], logits f32[T,E], w f32[T,k], ids i32[T,k]               */ \
  X(routed_linear,  LinearAttrs)        /* (x[T or k*T, K], w[E, N, K], ids i32[T, k], extra: [E, N'] ...)          \
                                            -> [k*T, N']: row r uses expert ids[r], input row r or r / k         */ \
  X(route_sort,     RouteSortAttrs)     /* (ids i32[T, k]) -> offsets i32[E+1], rows i32[k*T]                    */ \
  X(grouped_linear, GroupedLinearAttrs) /* (x, w[E, N, K], offsets, rows, extra: [E, N'] ...) -> [k*T, N']       */ \
  X(combine_routes, NoAttrs)            /* (y[k*T, H], w f32[T, k], ids i32[T, k], residual[T, H]|none) -> [T, H]*/ \
  X(gather_rows,    NoAttrs)            /* (x[T, H], rows i32[R]) -> [R, H]                                      */ \
  X(local_routes,   LocalRoutesAttrs)   /* (ids i32[T, k], table f32[E*replicas*3]) -> i32[T, k]: the slot of a     \
                                            route's expert if this rank takes it, else -1                        */ \
  X(dispatch,       DispatchAttrs)      /* (x[T, H], ids i32[T, k], w f32[T, k], table f32[E*replicas*3])           \
                                            -> x'[ranks*T, H], ids' i32[ranks*T, k], w' f32[ranks*T, k],            \
                                            places i32[T, ranks]: all_to_all of tokens, each once to every rank     \
                                            that has experts it takes. Rows p*T, p*T + 1, ... are those that the    \
                                            group's rank p sent; ids' are slots of this rank's experts, -1 of       \
                                            routes that others take and of rows that nobody sent; places[t, p]:     \
                                            the row of token t among those sent to rank p, or -1              */ \
  X(combine,        ReduceAttrs)        /* (y[ranks*T, H], places i32[T, ranks]) -> [T, H]: the way back; the sum   \
                                            of a token's rows over the ranks it was sent to                   */ \
  X(all_reduce,     ReduceAttrs)        /* (x) -> sum over the group                                             */ \
  X(all_gather,     GatherAttrs)        /* (x) -> the group's parts joined along axis                            */ \
  X(reduce_scatter, ReduceAttrs)        /* (x[ranks*M, ..]) -> [M, ..]: the sum's part of this rank              */ \
  /* ---- @sample ---- */ \
  X(sample,         NoAttrs)            /* (logits f32[R,V], temperature f32[R], top_k i32[R], top_p f32[R],        \
                                            uniform f32[R]) -> ids i32[R]                                        */
// clang-format on

enum class OpKind : uint8_t {
#define SHUNT_OP_ENUM(name, attrs) name,
  SHUNT_OPS(SHUNT_OP_ENUM)
#undef SHUNT_OP_ENUM
};

/// Every attribute type once.
using Attrs =
    std::variant<NoAttrs, CheckpointAttrs, DequantizeAttrs, DummyAttrs, ConstantAttrs, AxisAttrs,
                 SliceAttrs, ReshapeAttrs, EmbeddingAttrs, PointwiseAttrs, GluAttrs, NormAttrs,
                 AddNormAttrs, LinearAttrs, RopeAttrs, RopeAppendAttrs, AttentionAttrs,
                 EncoderAttentionAttrs, CausalConvAttrs, GatedDeltaRuleAttrs, TopkGateAttrs,
                 NormGateAttrs, RouteSortAttrs, HeadLinearAttrs, GroupedLinearAttrs, ShardAttrs,
                 ReduceAttrs, GatherAttrs, LocalRoutesAttrs, DispatchAttrs>;

struct Op;

/// What an op moves and computes, at symbolic sizes. Bytes count each operand and result once.
struct Cost {
  Dim bytes;
  Dim flops;
};

/// Result types of `op`, from its operands and attributes; also its verifier. Throws UserError
/// "rms_norm (C1): ...".
using InferFn = std::vector<Type> (*)(const Op& op);
using CostFn = Cost (*)(const Op& op);

struct OpInfo {
  OpKind kind;
  std::string_view name;
  InferFn infer;
  CostFn cost;
  bool has_effect;  // writes state or a parameter: never swept
};

/// True for an op that needs all ranks of a group.
constexpr bool is_collective(OpKind kind) {
  return kind == OpKind::all_reduce || kind == OpKind::all_gather ||
         kind == OpKind::reduce_scatter || kind == OpKind::dispatch || kind == OpKind::combine;
}

const OpInfo& op_info(OpKind kind);
/// nullptr if there is no such op.
const OpInfo* find_op(std::string_view name);
/// The op's attributes at their defaults.
Attrs default_attrs(OpKind kind);

#define SHUNT_OP_DECLARE(name, attrs)        \
  std::vector<Type> infer_##name(const Op&); \
  Cost cost_##name(const Op&);
SHUNT_OPS(SHUNT_OP_DECLARE)
#undef SHUNT_OP_DECLARE

}  // namespace shunt::ir
