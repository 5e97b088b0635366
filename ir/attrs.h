// Attribute structs: what an op needs to know besides its operands. Each has one fields() list,
// from which printing, parsing, JSON, ==, and hashing derive; an attribute equal to its default is
// not printed.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "ir/mesh.h"
#include "ir/types.h"

namespace shunt::ir {

template <class Struct, class Member>
struct Field {
  const char* name;
  Member Struct::*member;
};
template <class Struct, class Member>
Field(const char*, Member Struct::*) -> Field<Struct, Member>;

enum class NormKind { rms, layer };
enum class ScoreFunction { softmax, sigmoid, sqrt_softplus, identity, sparse_mixer };
enum class RouteNorm { none, sum, softmax };
enum class GroupScore { max, top2_sum };
enum class HeadNorm { none, head, full };
enum class Drop { none, order, score, random };

/// An enum attribute prints as one of these names, in the order of its values.
constexpr auto enum_names(NormKind) { return std::array<std::string_view, 2>{"rms", "layer"}; }
constexpr auto enum_names(ScoreFunction) {
  return std::array<std::string_view, 5>{"softmax", "sigmoid", "sqrt_softplus", "identity",
                                         "sparse_mixer"};
}
constexpr auto enum_names(RouteNorm) {
  return std::array<std::string_view, 3>{"none", "sum", "softmax"};
}
constexpr auto enum_names(GroupScore) { return std::array<std::string_view, 2>{"max", "top2_sum"}; }
constexpr auto enum_names(HeadNorm) {
  return std::array<std::string_view, 3>{"none", "head", "full"};
}

constexpr auto enum_names(Drop) {
  return std::array<std::string_view, 4>{"none", "order", "score", "random"};
}

/// For ops with no attributes.
struct NoAttrs {
  static constexpr auto fields() { return std::tuple{}; }
  bool operator==(const NoAttrs&) const = default;
};

// ---- @load ----

struct CheckpointAttrs {
  std::string tensor;  // name in the checkpoint; '*' is replaced by 0..stack-1
  int64_t stack = 0;   // 0: one tensor as it is; n: n tensors stacked on a new first axis
  DType dtype = DType::bf16;
  std::vector<Dim> shape;  // of the result, the stacked axis included
  static constexpr auto fields() {
    return std::tuple{
        Field{"tensor", &CheckpointAttrs::tensor}, Field{"stack", &CheckpointAttrs::stack},
        Field{"dtype", &CheckpointAttrs::dtype}, Field{"shape", &CheckpointAttrs::shape}};
  }
  bool operator==(const CheckpointAttrs&) const = default;
};

/// A weight stored as payload and scales: element (n, k) is the payload's times the scale of group
/// (n / group_rows, k / group_columns); groups at the edges may be partial.
struct DequantizeAttrs {
  int64_t group_rows = 1;
  int64_t group_columns = 1;
  DType dtype = DType::bf16;  // of the result
  static constexpr auto fields() {
    return std::tuple{Field{"group_rows", &DequantizeAttrs::group_rows},
                      Field{"group_columns", &DequantizeAttrs::group_columns},
                      Field{"dtype", &DequantizeAttrs::dtype}};
  }
  bool operator==(const DequantizeAttrs&) const = default;
};

struct DummyAttrs {  // --dummy-weights: normal numbers from a counter-based generator
  int64_t seed = 0;
  double mean = 0;
  double stddev = 0.02;
  DType dtype = DType::bf16;
  std::vector<Dim> shape;
  static constexpr auto fields() {
    return std::tuple{Field{"seed", &DummyAttrs::seed}, Field{"mean", &DummyAttrs::mean},
                      Field{"stddev", &DummyAttrs::stddev}, Field{"dtype", &DummyAttrs::dtype},
                      Field{"shape", &DummyAttrs::shape}};
  }
  bool operator==(const DummyAttrs&) const = default;
};

struct ConstantAttrs {
  std::vector<double> values;  // rounded to float32
  static constexpr auto fields() { return std::tuple{Field{"values", &ConstantAttrs::values}}; }
  bool operator==(const ConstantAttrs&) const = default;
};

struct AxisAttrs {
  int64_t axis = 0;
  static constexpr auto fields() { return std::tuple{Field{"axis", &AxisAttrs::axis}}; }
  bool operator==(const AxisAttrs&) const = default;
};

struct SliceAttrs {
  int64_t axis = 0;
  int64_t begin = 0;
  int64_t end = 0;
  static constexpr auto fields() {
    return std::tuple{Field{"axis", &SliceAttrs::axis}, Field{"begin", &SliceAttrs::begin},
                      Field{"end", &SliceAttrs::end}};
  }
  bool operator==(const SliceAttrs&) const = default;
};

struct ReshapeAttrs {
  std::vector<Dim> shape;
  static constexpr auto fields() { return std::tuple{Field{"shape", &ReshapeAttrs::shape}}; }
  bool operator==(const ReshapeAttrs&) const = default;
};

// ---- @step ----

struct EmbeddingAttrs {
  DType out = DType::bf16;
  int64_t offset = 0;  // added to every id (learned positions of OPT start at 2)
  // Not empty: the table is the rank's part of a larger one, whose rows from begins[index along
  // `over`] on it holds; an id of another rank gives a row of zeros.
  MeshAxis over = MeshAxis::tp;
  std::vector<int64_t> begins = {};
  static constexpr auto fields() {
    using A = EmbeddingAttrs;
    return std::tuple{Field{"out", &A::out}, Field{"offset", &A::offset}, Field{"over", &A::over},
                      Field{"begins", &A::begins}};
  }
  bool operator==(const EmbeddingAttrs&) const = default;
};

/// Shared by linear, routed_linear and grouped_linear. The epilogue is an Expr over `acc` (or
/// `gate` and `up` with glu) and the extra operands, named x0, x1, ... in operand order; empty
/// means the accumulator itself.
struct LinearAttrs {
  std::string epilogue;
  bool glu =
      false;  // the weight's first N/2 rows are `gate`, the rest `up`; the result has N/2 columns
  DType out = DType::bf16;
  static constexpr auto fields() {
    return std::tuple{Field{"epilogue", &LinearAttrs::epilogue}, Field{"glu", &LinearAttrs::glu},
                      Field{"out", &LinearAttrs::out}};
  }
  bool operator==(const LinearAttrs&) const = default;
};

struct HeadLinearAttrs {
  DType out = DType::bf16;
  static constexpr auto fields() { return std::tuple{Field{"out", &HeadLinearAttrs::out}}; }
  bool operator==(const HeadLinearAttrs&) const = default;
};

struct GroupedLinearAttrs {
  std::string epilogue;
  bool glu = false;
  DType out = DType::bf16;
  int64_t gather = 0;  // k > 0: sorted row r reads x[rows[r] / k]; 0: x is already in sorted order
  bool scatter = false;  // sorted row r is written to rows[r]; otherwise to r
  static constexpr auto fields() {
    return std::tuple{
        Field{"epilogue", &GroupedLinearAttrs::epilogue}, Field{"glu", &GroupedLinearAttrs::glu},
        Field{"out", &GroupedLinearAttrs::out}, Field{"gather", &GroupedLinearAttrs::gather},
        Field{"scatter", &GroupedLinearAttrs::scatter}};
  }
  bool operator==(const GroupedLinearAttrs&) const = default;
};

struct PointwiseAttrs {
  std::string expr;  // Expr over x0, x1, ... in operand order
  DType out = DType::bf16;
  static constexpr auto fields() {
    return std::tuple{Field{"expr", &PointwiseAttrs::expr}, Field{"out", &PointwiseAttrs::out}};
  }
  bool operator==(const PointwiseAttrs&) const = default;
};

/// Expr over `gate` (columns [0, N/2)) and `up` (columns [N/2, N)) of the one operand.
struct GluAttrs {
  std::string expr = "silu(gate) * up";
  static constexpr auto fields() { return std::tuple{Field{"expr", &GluAttrs::expr}}; }
  bool operator==(const GluAttrs&) const = default;
};

struct NormAttrs {
  double eps = 1e-5;
  bool plus_one = false;  // scale by (1 + weight), as Gemma
  static constexpr auto fields() {
    return std::tuple{Field{"eps", &NormAttrs::eps}, Field{"plus_one", &NormAttrs::plus_one}};
  }
  bool operator==(const NormAttrs&) const = default;
};

struct AddNormAttrs {
  NormKind kind = NormKind::rms;
  double eps = 1e-5;
  bool plus_one = false;
  static constexpr auto fields() {
    return std::tuple{Field{"kind", &AddNormAttrs::kind}, Field{"eps", &AddNormAttrs::eps},
                      Field{"plus_one", &AddNormAttrs::plus_one}};
  }
  bool operator==(const AddNormAttrs&) const = default;
};

struct RopeAttrs {
  bool interleaved = false;  // pairs (2i, 2i+1) instead of (i, i + rotary/2)
  double scale = 1;          // multiplies cos and sin (YaRN's attention factor)
  static constexpr auto fields() {
    return std::tuple{Field{"interleaved", &RopeAttrs::interleaved},
                      Field{"scale", &RopeAttrs::scale}};
  }
  bool operator==(const RopeAttrs&) const = default;
};

struct RopeAppendAttrs {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  HeadNorm norm =
      HeadNorm::none;  // RMS norm of q and k before rotation, over a head or the full width
  double eps = 1e-5;
  bool plus_one = false;
  bool interleaved = false;
  double scale = 1;
  static constexpr auto fields() {
    using A = RopeAppendAttrs;
    return std::tuple{Field{"heads", &A::heads},
                      Field{"kv_heads", &A::kv_heads},
                      Field{"head_dim", &A::head_dim},
                      Field{"norm", &A::norm},
                      Field{"eps", &A::eps},
                      Field{"plus_one", &A::plus_one},
                      Field{"interleaved", &A::interleaved},
                      Field{"scale", &A::scale}};
  }
  bool operator==(const RopeAppendAttrs&) const = default;
};

struct AttentionAttrs {
  double scale = 1;       // multiplies q . k
  int64_t window = 0;     // > 0: key j is visible to query i if i - window < j <= i
  int64_t chunk = 0;      // > 0: only keys of the same chunk of positions (Llama 4)
  double softcap = 0;     // > 0: softcap * tanh(score / softcap)
  int64_t value_dim = 0;  // without @v: a key's value is its row's first so many elements
  static constexpr auto fields() {
    using A = AttentionAttrs;
    return std::tuple{Field{"scale", &A::scale}, Field{"window", &A::window},
                      Field{"chunk", &A::chunk}, Field{"softcap", &A::softcap},
                      Field{"value_dim", &A::value_dim}};
  }
  bool operator==(const AttentionAttrs&) const = default;
};

/// Every token sees all tokens of its sequence that are in the batch: no state.
struct EncoderAttentionAttrs {
  double scale = 1;  // multiplies q . k
  static constexpr auto fields() {
    return std::tuple{Field{"scale", &EncoderAttentionAttrs::scale}};
  }
  bool operator==(const EncoderAttentionAttrs&) const = default;
};

/// A depthwise convolution over a sequence's tokens, past ones included.
struct CausalConvAttrs {
  std::string epilogue;  // Expr over `acc`, bias included; empty: acc itself
  static constexpr auto fields() {
    return std::tuple{Field{"epilogue", &CausalConvAttrs::epilogue}};
  }
  bool operator==(const CausalConvAttrs&) const = default;
};

/// Linear attention by the gated delta rule. A row of qkv is q and k of key_heads heads of D
/// elements, then v of `heads` heads of Dv; value head n reads key head n / (heads / key_heads).
/// Per token and value head, on the state s [D, Dv]:
///   s *= exp(g);  s += k (x) (beta * (v - k . s));  result = scale * (q . s)
/// With qk_l2norm, q and k are first divided by sqrt(sum of squares + eps).
struct GatedDeltaRuleAttrs {
  int64_t key_heads = 0;
  double scale = 1;
  bool qk_l2norm = false;
  double eps = 1e-6;
  static constexpr auto fields() {
    using A = GatedDeltaRuleAttrs;
    return std::tuple{Field{"key_heads", &A::key_heads}, Field{"scale", &A::scale},
                      Field{"qk_l2norm", &A::qk_l2norm}, Field{"eps", &A::eps}};
  }
  bool operator==(const GatedDeltaRuleAttrs&) const = default;
};

/// The router, from logits to weights and expert ids. Everything in float32; ties go to the lowest
/// expert id.
///   score = function(logits); choose = score + selection_bias; groups, then the k largest of
///   `choose`; w = score of the chosen (with `identity` and RouteNorm::softmax: softmax over the
///   chosen logits); RouteNorm::sum: w / max(sum(w) + norm_eps, norm_min); finally w * scale.
/// ScoreFunction::sparse_mixer (Phi-3.5-MoE) chooses one after another: the j-th is the largest of
/// the logits not yet chosen, top; its weight is its softmax among those logits x, not yet chosen,
/// for which (top - x) / max(|x|, top) <= jitter.
struct TopkGateAttrs {
  int64_t k = 1;
  ScoreFunction score = ScoreFunction::softmax;
  RouteNorm norm = RouteNorm::none;
  double norm_eps = 0;
  double norm_min = 0;
  double scale = 1;
  double jitter = 0;   // sparse_mixer
  int64_t groups = 1;  // experts in equal groups; only the best keep_groups groups take part
  int64_t keep_groups = 1;
  GroupScore group_score = GroupScore::max;
  // DeepSpeed's capacity: an expert keeps max(min_capacity, ceil(T / E * k * capacity_factor))
  // routes of a step of T tokens, computed in float32; the others get id -1 and weight 0, and
  // RouteNorm::sum is over what is left. Who stays: `order`: all first choices in token order, then
  // the second ones (k <= 2; else token order); `score`: the highest scores, then token order;
  // `random`: by a number made from seed, token and expert. sample_second (k = 2): the second
  // expert is chosen by logit plus Gumbel noise from the same numbers, unless it is forced.
  Drop drop = Drop::none;
  double capacity_factor = 0;
  int64_t min_capacity = 0;
  bool sample_second = false;
  int64_t seed = 0;
  /// True if a route's fate depends on the other tokens of the step, or on chance.
  bool depends_on_batch() const { return drop != Drop::none || sample_second; }
  static constexpr auto fields() {
    using A = TopkGateAttrs;
    return std::tuple{Field{"k", &A::k},
                      Field{"score", &A::score},
                      Field{"norm", &A::norm},
                      Field{"norm_eps", &A::norm_eps},
                      Field{"norm_min", &A::norm_min},
                      Field{"scale", &A::scale},
                      Field{"jitter", &A::jitter},
                      Field{"groups", &A::groups},
                      Field{"keep_groups", &A::keep_groups},
                      Field{"group_score", &A::group_score},
                      Field{"drop", &A::drop},
                      Field{"capacity_factor", &A::capacity_factor},
                      Field{"min_capacity", &A::min_capacity},
                      Field{"sample_second", &A::sample_second},
                      Field{"seed", &A::seed}};
  }
  bool operator==(const TopkGateAttrs&) const = default;
};

/// norm_gate: residual add, RMS norm, router matmul and top-k in one.
struct NormGateAttrs : TopkGateAttrs {
  double eps = 1e-5;
  bool plus_one = false;
  static constexpr auto fields() {
    return std::tuple_cat(
        TopkGateAttrs::fields(),
        std::tuple{Field{"eps", &NormGateAttrs::eps}, Field{"plus_one", &NormGateAttrs::plus_one}});
  }
  bool operator==(const NormGateAttrs&) const = default;
};

// ---- many ranks (stage placed): docs/placement.md ----

/// Half-open runs of indices [begin, end), one after another as begin0, end0, begin1, end1, ...
using Runs = std::vector<int64_t>;

/// What a rank holds of an axis of a tensor: the runs of its position along `over`, joined, then
/// zeros up to `size`.
struct ShardAttrs {
  int64_t axis = 0;
  MeshAxis over = MeshAxis::tp;
  int64_t size = 0;
  std::vector<Runs> runs = {};  // by position along `over`
  static constexpr auto fields() {
    using A = ShardAttrs;
    return std::tuple{Field{"axis", &A::axis}, Field{"over", &A::over}, Field{"size", &A::size},
                      Field{"runs", &A::runs}};
  }
  bool operator==(const ShardAttrs&) const = default;
};

/// A sum over the ranks of a group, or (reduce_scatter) each rank's part of it.
struct ReduceAttrs {
  MeshAxis over = MeshAxis::tp;
  int64_t ranks = 1;  // of the group: the mesh's size along `over`
  static constexpr auto fields() {
    return std::tuple{Field{"over", &ReduceAttrs::over}, Field{"ranks", &ReduceAttrs::ranks}};
  }
  bool operator==(const ReduceAttrs&) const = default;
};

/// The group's parts joined along `axis`, by position. With `sizes` only the first sizes[i] indices
/// of part i count.
struct GatherAttrs {
  int64_t axis = 0;
  MeshAxis over = MeshAxis::tp;
  int64_t ranks = 1;
  std::vector<int64_t> sizes = {};
  static constexpr auto fields() {
    using A = GatherAttrs;
    return std::tuple{Field{"axis", &A::axis}, Field{"over", &A::over}, Field{"ranks", &A::ranks},
                      Field{"sizes", &A::sizes}};
  }
  bool operator==(const GatherAttrs&) const = default;
};

/// Which of a token's routes are this rank's, as slots of its experts. An expert's replicas are
/// rows (ep position, slot, upper end of its share of [0, 1)) of the table; the first that token t
/// with u = route_share(t) (ir/random.h) falls under takes the route, the same on all ranks.
struct LocalRoutesAttrs {
  int64_t experts = 0;   // of the model
  int64_t replicas = 1;  // rows of the table an expert; unused ones have a share of 0
  static constexpr auto fields() {
    return std::tuple{Field{"experts", &LocalRoutesAttrs::experts},
                      Field{"replicas", &LocalRoutesAttrs::replicas}};
  }
  bool operator==(const LocalRoutesAttrs&) const = default;
};

/// Which ranks of the group `over` a token goes to: those whose experts its routes take, chosen as
/// in LocalRoutesAttrs, by the token's number among the sender's.
struct DispatchAttrs : LocalRoutesAttrs {
  MeshAxis over = MeshAxis::dp;
  int64_t ranks = 1;
  static constexpr auto fields() {
    return std::tuple_cat(
        LocalRoutesAttrs::fields(),
        std::tuple{Field{"over", &DispatchAttrs::over}, Field{"ranks", &DispatchAttrs::ranks}});
  }
  bool operator==(const DispatchAttrs&) const = default;
};

struct RouteSortAttrs {
  int64_t experts = 0;
  static constexpr auto fields() { return std::tuple{Field{"experts", &RouteSortAttrs::experts}}; }
  bool operator==(const RouteSortAttrs&) const = default;
};

}  // namespace shunt::ir
