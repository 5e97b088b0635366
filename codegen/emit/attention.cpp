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

/// How attention_decode.cuh cuts the work.
struct DecodeCut {
  int64_t head_tiles, passes, threads, resident, stages, blocks, smem;
  bool splits;  // sequences may be split

  DecodeCut(const Attention& a, const Context& context) {
    head_tiles = a.group() > 8 ? 2 : 1;
    passes = ceil_div(a.group(), 8 * head_tiles);
    const int64_t sequences = std::max<int64_t>(1, context.bound(a.sequences));
    const int64_t heads = a.kv_heads * passes, sm_count = context.target.sm_count;
    // A multiprocessor has one block, large so that there are few splits to join. Where there is
    // work for all of them, it has smaller ones that even out what each waits for.
    const bool many = sequences * heads >= sm_count;
    threads = many ? 128 : 256;
    resident = many ? 2 : 1;
    const int64_t all = ceil_div(sequences * heads, sm_count);
    if (all > resident && all <= kMostResident && ring(a, context, all) >= 3) resident = all;
    // One tile at a time would leave nothing on its way while it is worked on.
    while (ring(a, context, resident) < 2 && (threads > 128 || resident > 1))
      (threads > 128 ? threads : resident) /= 2;
    stages = std::min<int64_t>(ring(a, context, resident), 4);
    blocks = std::clamp(resident * sm_count / heads, sequences, kMostSplits * sequences);
    if (sequences > kMostShared) blocks = sequences;
    splits = blocks > sequences;
    // attention::DecodeSmem.
    smem = std::max(stages * stage_bytes(a), threads / 32 * 8 * head_tiles * (a.dim_v + 4) * 4);
  }
  bool fits(const Context& context) const {
    return stages >= 1 && smem + kStaticSmem <= block_smem(context.target);
  }

 private:
  // Static shared memory, and for blocks of 128 threads what the system keeps, too.
  static constexpr int64_t kStaticSmem = 2048;
  static constexpr int64_t kMostSplits = 64;   // of a sequence on average
  static constexpr int64_t kMostShared = 64;   // attention::kMostShared
  static constexpr int64_t kMostResident = 4;  // each may have 128 registers a thread

  /// A tile of 16 keys for every warp.
  int64_t stage_bytes(const Attention& a) const {
    return threads / 32 * 16 * (a.dim + a.dim_v + 16) * 2;
  }
  /// Stages that fit if a multiprocessor has so many blocks.
  int64_t ring(const Attention& a, const Context& context, int64_t blocks_of_sm) const {
    return (block_smem(context.target) / blocks_of_sm - kStaticSmem) / stage_bytes(a);
  }
};

/// An upper bound of `dim` in all graphs of the module, so that kernels do not differ in it.
int64_t module_bound(const Context& context, const Dim& dim) {
  DimEnv upper = context.upper;
  for (const DimDecl& d : context.module.dims) upper[d.name] = std::max(upper[d.name], d.max);
  return dim.evaluate(upper);
}

bool supports_decode(const ir::Op& op, const Context& context) {
  if (!is_cuda(context) || !context.decode || !has_plain_types(op)) return false;
  const Attention a(op);
  // The kernel reads them before its predecessor has ended.
  if (a.kv_lens->def != nullptr || a.tables->def != nullptr) return false;
  return a.fits_tensor_cores() && DecodeCut(a, context).fits(context);
}

double seconds_decode(const ir::Op& op, const Context& context) {
  return roofline_seconds(op, context, true, 0.8, 0.5);
}

void emit_decode(const ir::Op& op, StepBuilder& steps) {
  const Attention a(op);
  const Context& context = steps.context();
  const DecodeCut cut(a, context);
  LaunchBuilder launch(steps, "attention_decode", "attention_decode.cuh", "attention_decode");
  launch.type("E", a.q->type.dtype);
  add_attention_config(a, launch, context, cut.threads);
  launch.number("kHeadTiles", cut.head_tiles).number("kPasses", cut.passes);
  launch.number("kStages", cut.stages);
  launch.number("kMaxCounters", module_bound(context, a.sequences) * a.kv_heads * cut.passes);
  launch.in("q", a.q).in("kv_lens", a.kv_lens).in("block_tables", a.tables);
  launch.in("k", a.k).in("v", a.v).in("sinks", a.sinks).out("out", a.out);
  // Outputs of the splits, and a (maximum, sum) for each.
  const int64_t rows = cut.blocks * a.kv_heads * cut.passes * 8 * cut.head_tiles;
  launch.parameter("float* partial", cut.splits ? steps.scratch(rows * (a.dim_v + 2) * 4) : Arg{});
  launch.size("S", a.sequences);
  launch.launch({DimExpr(a.kv_heads * cut.passes), DimExpr(cut.blocks), DimExpr(1)}, cut.threads,
                round_up(cut.smem, 16), static_cast<int>(cut.resident));
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
