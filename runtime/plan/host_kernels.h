// The one list of host kernels: what the `cpu` target's launches may name. codegen emits these
// names, runtime/host implements every one (a missing implementation is a link error), the session
// finds them by name when it loads a plan.
//
// Each line gives a kernel's exact argument list, in order. Pointers are buffers or states, T S R
// and other capitals are integers (i64), `dtype` is the integer value of shunt::DType, [n] after a
// group means "n times". Activations, KV state and logits are float32; a pointer with a dtype
// beside it is a weight: bf16, f16 or f32. `|null` may be absent. An operand group "(p, dtype,
// mode)" is an extra operand of an expression, see HostOperandMode.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace shunt {

// clang-format off
#define SHUNT_HOST_KERNELS(X) \
  X(embedding)      /* ids, table, dtype, T, V, H, offset, begin, part, out[T,H]: part: rows of other ranks are 0  */ \
  X(pointwise)      /* expr, rows, N, out[rows,N], count, (p, dtype, mode)[count]                                */ \
  X(glu)            /* expr, x[rows,2N], rows, N, out[rows,N]                                                    */ \
  X(rms_norm)       /* x[rows,N], weight, dtype, rows, N, eps, plus_one, out                                     */ \
  X(layer_norm)     /* x[rows,N], weight, dtype, bias|null, bias_dtype, rows, N, eps, plus_one, out              */ \
  X(add_norm)       /* x, y, weight, dtype, bias|null, bias_dtype, rows, N, kind, eps, plus_one, sum, out        */ \
  X(linear)         /* x[M,K], w[N,K], dtype, M, N, K, glu, expr|null, out[M,N'], count, (p, dtype, mode)[count] */ \
  X(rope)           /* x[T,heads,D], positions, inv_freq, T, heads, D, half, interleaved, scale, out             */ \
  X(head_linear)    /* x[T,heads,K], w[heads,N,K], dtype, T, heads, N, K, out[T,heads,N]                         */ \
  X(kv_append)      /* k[T,h,D], v[T,h,Dv]|null, positions, seq_starts, block_tables, k_state, v_state|null,        \
                       T, S, B, h, D, Dv, page_size                                                              */ \
  X(rope_append)    /* qkv[T,(q+2h)*D], positions, inv_freq|null, q_norm|null, q_norm_dtype, k_norm|null,           \
                       k_norm_dtype, seq_starts, block_tables, k_state, v_state, T, S, B, q, h, D, half,            \
                       page_size, norm, eps, plus_one, interleaved, scale, out[T,q,D]                            */ \
  X(attention)      /* q[T,heads,D], seq_starts, kv_lens, block_tables, k_state, v_state|null, sinks|null,          \
                       sinks_dtype, slopes|null, slopes_dtype, T, S, B, heads, h, D, Dv, page_size, scale, window,  \
                       chunk, softcap, out[T,heads*Dv]; without v_state the first Dv elements of a key's row        \
                       are its value                                                                             */ \
  X(encoder_attention) /* q[T,heads,D], k[T,h,D], v[T,h,Dv], seq_starts, T, S, heads, h, D, Dv, scale,              \
                       out[T,heads*Dv]                                                                              */ \
  X(causal_conv)    /* x[T,C], w[C,W], w_dtype, bias|null, bias_dtype, positions, seq_starts, state_slots,           \
                       state[.,W-1,C], S, C, W, expr|null, out[T,C]                                              */ \
  X(gated_delta_rule) /* qkv[T,2*k*D+v*Dv], g[T,v], beta[T,v], positions, seq_starts, state_slots,                  \
                       state[.,v,D,Dv], S, k, v, D, Dv, scale, qk_l2norm, eps, out[T,v,Dv]                       */ \
  X(topk_gate)      /* logits[T,E], selection_bias|null, bias_dtype, forced|null, T, valid|null (tokens before padding, an i32 in memory), E, k, score, norm, norm_eps,   \
                       norm_min, scale, jitter, groups, keep_groups, group_score, w[T,k], ids[T,k], counts[E], drop, k * capacity_factor, \
                       min_capacity, sample_second, seed; counts is i64: the routes with an id are added         */ \
  X(norm_gate)      /* x[T,H], y|null, norm_w, norm_dtype, router[E,H], router_dtype, router_bias|null,             \
                       router_bias_dtype, T, H, eps, plus_one, sum[T,H], normed[T,H], logits[T,E], then the         \
                       arguments of topk_gate after its logits: selection_bias|null ... counts                   */ \
  X(routed_linear)  /* x[M/divide,K], w[E,N,K], dtype, ids[M], M, divide, E, N, K, glu, expr|null, out[M,N'],       \
                       count, (p, dtype, mode)[count]                                                            */ \
  X(route_sort)     /* ids[M], M, E, offsets[E+1], rows[M]                                                       */ \
  X(grouped_linear) /* x, w[E,N,K], dtype, offsets, rows, M, gather, scatter, E, N, K, glu, expr|null, out[M,N'],   \
                       count, (p, dtype, mode)[count]                                                            */ \
  X(combine_routes) /* y[k*T,H], w[T,k], ids[T,k], residual|null, T, k, H, out[T,H]                              */ \
  X(gather_rows)    /* x[n,H], rows[R], n, R, H, out[R,H]                                                        */ \
  X(shard)          /* x[outer,width,inner], outer, width, inner, begin, count, size, out[outer,size,inner]      */ \
  X(local_routes)   /* ids[T,k], table[E,replicas,3], T, k, E, replicas, position, out[T,k]                      */ \
  X(dispatch_pack)  /* x[T,H], ids[T,k], w[T,k], table[E,replicas,3], T, true T|null (an i32 in memory), k, H, E,          \
                       replicas, ranks, first rank, rank step, etp, payload, row (bytes), places[T,ranks],          \
                       messages[ranks,T,row]                                                                     */ \
  X(dispatch_unpack) /* messages[rows,row], rows, k, H, payload, row, x[rows,H], ids[rows,k], w[rows,k]           */ \
  X(combine_places) /* received[ranks,T,H], places[T,ranks], T, ranks, H, out[T,H]                               */ \
  X(sample)         /* logits[R,V], temperature, top_k, top_p, uniform, R, V, ids[R]                             */ \
  X(copy_2d)        /* from, from_offset, from_pitch, to, to_offset, to_pitch, rows, row_bytes (all in bytes)    */ \
  X(transpose)      /* x[batch,a,b], batch, a, b, element_bytes, out[batch,b,a]                                  */ \
  X(dummy)          /* out, dtype, n, seed, mean, stddev                                                         */
// clang-format on

enum class HostKernelId : uint8_t {
#define SHUNT_HOST_ENUM(name) name,
  SHUNT_HOST_KERNELS(SHUNT_HOST_ENUM)
#undef SHUNT_HOST_ENUM
};

inline constexpr auto kHostKernelNames = std::to_array<std::string_view>({
#define SHUNT_HOST_NAME(name) #name,
    SHUNT_HOST_KERNELS(SHUNT_HOST_NAME)
#undef SHUNT_HOST_NAME
});

/// Index into kHostKernelNames (== the HostKernelId), or -1 if no host kernel has this name.
constexpr int find_host_kernel_index(std::string_view name) {
  for (size_t i = 0; i < kHostKernelNames.size(); ++i) {
    if (kHostKernelNames[i] == name) return static_cast<int>(i);
  }
  return -1;
}

/// Shape of an extra operand of an epilogue or pointwise expression over rows of N columns.
enum class HostOperandMode : int {
  vector,      // [N]: the same for every row
  full,        // [rows, N]
  column,      // [rows, 1]
  per_expert,  // [E, N]: routed_linear and grouped_linear
};

/// More extra operands than this are not supported by the host kernels (codegen checks).
inline constexpr int kMaxHostOperands = 8;

/// Values of the enum attributes, as the integers that host kernels take (the order of ir/attrs.h,
/// which codegen asserts).
enum class HostNorm : int { rms, layer };
enum class HostScore : int { softmax, sigmoid, sqrt_softplus, identity, sparse_mixer };
enum class HostRouteNorm : int { none, sum, softmax };
enum class HostGroupScore : int { max, top2_sum };
enum class HostHeadNorm : int { none, head, full };
enum class HostDrop : int { none, order, score, random };

}  // namespace shunt
