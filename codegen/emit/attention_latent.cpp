// Row attention.latent: values that begin the rows of the keys (kernels/attention_latent.cuh).
// Entry point attention_latent_kernels(); tested by tests/codegen/attention_nvrtc_test.cpp
// (compiles) and tests/kernels (values).
#include <algorithm>

#include "codegen/emit/attention_shared.h"
#include "codegen/emit/families.h"

namespace shunt::codegen {

namespace {

constexpr int64_t kKeys = 32;  // of a tile
constexpr int64_t kMaxSplits = 64;

/// How attention_latent.cuh cuts the work.
struct LatentCut {
  int64_t row_groups, column_groups, splits;

  LatentCut(const Attention& a, const Context& context) {
    // A decode step has one token a sequence, hence a.group() rows.
    row_groups = !context.decode || a.group() > 32 ? 4 : a.group() > 16 ? 2 : 1;
    column_groups = row_groups == 4 ? 2 : 4;
    const int64_t blocks = std::max<int64_t>(1, context.bound(a.sequences)) * tiles(a) * a.kv_heads;
    const int64_t resident = row_groups == 1 ? 2 : 1;  // on a multiprocessor, for shared memory
    const int64_t wanted = ceil_div(resident * context.target.sm_count, blocks);
    // Fewer than four tiles a split are not worth joining.
    const int64_t most = ceil_div(a.table_cols * context.page_size, 4 * kKeys);
    splits = context.decode ? std::clamp<int64_t>(std::min(wanted, most), 1, kMaxSplits) : 1;
  }
  int64_t rows() const { return 16 * row_groups; }
  int64_t threads() const { return 32 * row_groups * column_groups; }
  /// Tiles of one token.
  int64_t tiles(const Attention& a) const { return ceil_div(a.group(), rows()); }
  /// attention::Latent::Smem.
  int64_t smem(const Attention& a) const {
    return 2 * ((rows() + 2 * kKeys) * (a.dim + 8) + rows() * (kKeys + 8)) +
           2 * column_groups * rows() * 4;
  }
};

bool supports(const ir::Op& op, const Context& context) {
  if (!is_cuda(context) || !has_plain_types(op)) return false;
  const Attention a(op);
  if (a.v != nullptr || !a.is_half_typed()) return false;
  const LatentCut cut(a, context);
  return a.dim % 32 == 0 && a.dim_v % (16 * cut.column_groups) == 0 &&
         a.dim_v <= 256 * cut.column_groups && cut.smem(a) <= context.target.smem_per_block;
}

double seconds(const ir::Op& op, const Context& context) {
  return roofline_seconds(op, context, true, 0.7, 0.3);
}

void add_config(const Attention& a, const LatentCut& cut, LaunchBuilder& launch,
                const Context& context) {
  launch.type("E", a.q->type.dtype);
  add_attention_config(a, launch, context, cut.threads());
  launch.number("kRowGroups", cut.row_groups).number("kColumnGroups", cut.column_groups);
  launch.boolean("kDecode", context.decode);
}

/// Joins the splits of each (sequence, head).
void emit_merge(const Attention& a, const LatentCut& cut, const Arg& partial, const Arg& pairs,
                StepBuilder& steps) {
  constexpr int64_t kMergeThreads = 128;
  LaunchBuilder launch(steps, "attention_latent_merge", "attention_latent.cuh",
                       "attention_latent_merge");
  add_config(a, cut, launch, steps.context());
  launch.number("kMaxSplits", cut.splits).number("kMergeThreads", kMergeThreads);
  launch.in("kv_lens", a.kv_lens).in("sinks", a.sinks);
  launch.parameter("const float* partial", partial).parameter("const float2* pairs", pairs);
  launch.out("out", a.out).size("S", a.sequences);
  launch.launch({DimExpr(a.heads), DimExpr(a.sequences), DimExpr(1)}, kMergeThreads);
}

void emit(const ir::Op& op, StepBuilder& steps) {
  const Attention a(op);
  const Context& context = steps.context();
  const LatentCut cut(a, context);
  LaunchBuilder launch(steps, "attention_latent", "attention_latent.cuh", "attention_latent");
  add_config(a, cut, launch, context);
  launch.in("q", a.q).in("seq_starts", a.seq_starts).in("kv_lens", a.kv_lens);
  launch.in("block_tables", a.tables).in("k", a.k).in("sinks", a.sinks).out("out", a.out);
  const int64_t partial_rows =
      context.bound(a.sequences) * cut.tiles(a) * a.kv_heads * cut.splits * cut.rows();
  const Arg partial = cut.splits > 1 ? steps.scratch(partial_rows * a.dim_v * 4) : Arg{};
  const Arg pairs = cut.splits > 1 ? steps.scratch(partial_rows * 8) : Arg{};
  launch.parameter("float* partial", partial).parameter("float2* pairs", pairs);
  launch.size("S", a.sequences);
  // Each sequence of a batch has at most one tile that is not full.
  const DimExpr tiles =
      context.decode ? DimExpr(a.sequences * cut.tiles(a))
                     : DimExpr::ceildiv(a.tokens * a.group(), cut.rows()) + DimExpr(a.sequences);
  launch.launch({tiles, DimExpr(a.kv_heads), DimExpr(cut.splits)}, cut.threads(),
                round_up(cut.smem(a), 16));
  if (cut.splits > 1) emit_merge(a, cut, partial, pairs, steps);
}

}  // namespace

std::vector<KernelImpl> attention_latent_kernels() {
  return {{"attention.latent", ir::OpKind::attention, supports, seconds, emit}};
}

}  // namespace shunt::codegen
