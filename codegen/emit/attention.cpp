// Rows of attention and encoder_attention: split-KV decoding and tiled prefill on tensor cores, and
// a portable one for everything else. Entry point attention_kernels(); tested by
// tests/codegen/attention_nvrtc_test.cpp (compiles) and tests/kernels (values).
#include <algorithm>

#include "codegen/emit/attention_shared.h"
#include "codegen/emit/families.h"

namespace shunt::codegen {

void add_attention_config(const Attention& a, LaunchBuilder& launch, const Context& context,
                          int64_t threads) {
  const ir::AttentionAttrs& attrs = a.attrs;
  launch.type("Sink", a.sinks ? a.sinks->type.dtype : DType::f32);
  launch.number("kHeads", a.heads).number("kKvHeads", a.kv_heads);
  launch.number("kDim", a.dim).number("kDimV", a.dim_v);
  launch.number("kPageSize", context.page_size).number("kTableCols", a.table_cols);
  launch.number("kThreads", threads);
  launch.real("kScale", attrs.scale).real("kSoftcap", attrs.softcap);
  launch.number("kWindow", attrs.window).number("kChunk", attrs.chunk);
  launch.boolean("kHasSinks", a.sinks != nullptr).boolean("kEncoder", a.encoder);
}

namespace {

constexpr int64_t kThreads = 128;

/// The batch, as the kernels for any batch take it.
void add_batch(const Attention& a, LaunchBuilder& launch) {
  const auto ints = [&](const char* name, const ir::Value* value) {
    if (value != nullptr) {
      launch.in(name, value);
    } else {
      launch.parameter(std::string("const int* ") + name, Arg{});
    }
  };
  launch.in("q", a.q).in("seq_starts", a.seq_starts);
  ints("kv_lens", a.kv_lens);
  ints("block_tables", a.tables);
  launch.in("k", a.k).in("v", a.values()).in("sinks", a.sinks);
}

// ---- portable ----

bool supports_portable(const ir::Op& op, const Context& context) {
  if (!is_cuda(context) || !has_plain_types(op)) return false;
  const Attention a(op);
  return a.dim <= 1024 && a.dim_v <= 1024;
}

double seconds_portable(const ir::Op& op, const Context& context) {
  return roofline_seconds(op, context, false, 0.1, 0.1);
}

void emit_portable(const ir::Op& op, StepBuilder& steps) {
  const Attention a(op);
  LaunchBuilder launch(steps, "attention_portable", "attention_portable.cuh", "attention_portable");
  launch.type("Q", a.q->type.dtype).type("K", a.k->type.dtype).type("V", a.values()->type.dtype);
  launch.type("Out", a.out->type.dtype);
  add_attention_config(a, launch, steps.context(), kThreads);
  launch.type("Slope", a.slopes ? a.slopes->type.dtype : DType::f32);
  launch.boolean("kHasSlopes", a.slopes != nullptr).number("kRowV", a.value_stride());
  add_batch(a, launch);
  launch.in("slopes", a.slopes).out("out", a.out);
  launch.size("T", a.tokens).size("S", a.sequences);
  launch.launch({DimExpr(a.tokens), DimExpr(a.heads), DimExpr(1)}, kThreads);
}

// ---- prefill ----

bool supports_prefill(const ir::Op& op, const Context& context) {
  return is_cuda(context) && has_plain_types(op) && Attention(op).fits_tensor_cores();
}

double seconds_prefill(const ir::Op& op, const Context& context) {
  // With one token a sequence there are too few blocks to fill the machine.
  return roofline_seconds(op, context, true, context.decode ? 0.2 : 0.6, 0.4);
}

void emit_prefill(const ir::Op& op, StepBuilder& steps) {
  const Attention a(op);
  constexpr int64_t kRows = 64;  // kernels/attention_prefill.cuh
  const int64_t keys = std::max(a.dim, a.dim_v) <= 128 ? 64 : 32;
  LaunchBuilder launch(steps, "attention_prefill", "attention_prefill.cuh", "attention_prefill");
  launch.type("E", a.q->type.dtype).number("kKeys", keys);
  add_attention_config(a, launch, steps.context(), kThreads);
  add_batch(a, launch);
  launch.out("out", a.out).size("S", a.sequences);
  const int64_t smem =
      2 * (kRows * (a.dim + 8) + 2 * keys * (a.dim + 8) + 2 * keys * (a.dim_v + 8));
  // Each sequence has at most one tile that is not full.
  const DimExpr tiles = DimExpr::ceildiv(a.tokens * a.group(), kRows) + DimExpr(a.sequences);
  launch.launch({tiles, DimExpr(a.kv_heads), DimExpr(1)}, kThreads, round_up(smem, 16));
}

// ---- decode ----

constexpr int64_t kMaxSplits = 64;
constexpr int64_t kMaxPages = 4096;  // page numbers of a split in static shared memory: 16 KiB

/// How attention_decode.cuh cuts the work.
struct DecodeCut {
  int64_t head_tiles, passes, splits, max_pages;

  DecodeCut(const Attention& a, const Context& context) {
    constexpr int64_t kStep =
        kThreads / 32 * 16;  // keys of a block's step: a split is a multiple of it
    head_tiles = a.group() > 8 ? 2 : 1;
    passes = ceil_div(a.group(), 8 * head_tiles);
    const int64_t max_keys = a.table_cols * context.page_size;
    const int64_t units = std::max<int64_t>(1, context.bound(a.sequences)) * a.kv_heads * passes;
    const int64_t wanted = ceil_div(2 * context.target.sm_count, units);
    splits = std::clamp<int64_t>(std::min(wanted, ceil_div(max_keys, kStep)), 1, kMaxSplits);
    max_pages = a.table_cols + 1;  // any split; so that all buckets share one kernel
    if (max_pages > kMaxPages) {
      max_pages = ceil_div(round_up(ceil_div(max_keys, splits), kStep), context.page_size) + 1;
    }
  }
};

/// An upper bound of `dim` in all graphs of the module, so that their kernels can be the same.
int64_t module_bound(const Context& context, const Dim& dim) {
  DimEnv upper = context.upper;
  for (const DimDecl& d : context.module.dims) upper[d.name] = std::max(upper[d.name], d.max);
  return dim.evaluate(upper);
}

bool supports_decode(const ir::Op& op, const Context& context) {
  if (!is_cuda(context) || !context.decode || !has_plain_types(op)) return false;
  const Attention a(op);
  return a.fits_tensor_cores() && DecodeCut(a, context).max_pages <= kMaxPages;
}

double seconds_decode(const ir::Op& op, const Context& context) {
  return roofline_seconds(op, context, true, 0.8, 0.5);
}

void emit_decode(const ir::Op& op, StepBuilder& steps) {
  const Attention a(op);
  const Context& context = steps.context();
  const DecodeCut cut(a, context);
  const int64_t units = context.bound(a.sequences) * a.kv_heads * cut.passes;
  LaunchBuilder launch(steps, "attention_decode", "attention_decode.cuh", "attention_decode");
  launch.type("E", a.q->type.dtype);
  add_attention_config(a, launch, context, kThreads);
  launch.number("kHeadTiles", cut.head_tiles).number("kPasses", cut.passes);
  launch.number("kMaxSplits", kMaxSplits).number("kMaxPages", cut.max_pages);
  launch.number("kMaxCounters", module_bound(context, a.sequences) * a.kv_heads * cut.passes);
  launch.in("q", a.q).in("kv_lens", a.kv_lens).in("block_tables", a.tables);
  launch.in("k", a.k).in("v", a.v).in("sinks", a.sinks).out("out", a.out);
  // Outputs of the splits, and a (maximum, sum) for each; offsets follow from the S the kernel
  // gets.
  const int64_t pairs = units * cut.splits * 8 * cut.head_tiles;
  launch.parameter("float* partial",
                   cut.splits > 1 ? steps.scratch(pairs * (a.dim_v + 2) * 4) : Arg{});
  launch.size("S", a.sequences);
  launch.launch({DimExpr(cut.splits), DimExpr(a.kv_heads * cut.passes), DimExpr(a.sequences)},
                kThreads);
}

}  // namespace

std::vector<KernelImpl> attention_kernels() {
  using ir::OpKind;
  return {
      {"attention.decode", OpKind::attention, supports_decode, seconds_decode, emit_decode},
      {"attention.prefill", OpKind::attention, supports_prefill, seconds_prefill, emit_prefill},
      {"attention.portable", OpKind::attention, supports_portable, seconds_portable, emit_portable},
      {"encoder_attention.tiled", OpKind::encoder_attention, supports_prefill, seconds_prefill,
       emit_prefill},
      {"encoder_attention.portable", OpKind::encoder_attention, supports_portable, seconds_portable,
       emit_portable},
  };
}

}  // namespace shunt::codegen
