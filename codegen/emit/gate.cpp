// Rows of topk_gate and norm_gate (kernels/gate.cuh, capacity.cuh). Entry point gate_kernels();
// tested by tests/codegen/gate_nvrtc_test.cpp (compiles) and tests/kernels (values).
#include <algorithm>

#include "codegen/emit/families.h"
#include "codegen/emit/launch.h"

namespace shunt::codegen {

namespace {

void add_gate_config(LaunchBuilder& launch, const ir::TopkGateAttrs& a, int64_t experts,
                     const ir::Value* selection_bias, const ir::Value* forced, bool counts) {
  launch.type("SelectionBias", selection_bias ? selection_bias->type.dtype : DType::f32);
  launch.number("kExperts", experts).number("kTop", a.k);
  launch.number("kScore", static_cast<int64_t>(a.score))
      .number("kRouteNorm", static_cast<int64_t>(a.norm));
  launch.real("kNormEps", a.norm_eps).real("kNormMin", a.norm_min);
  launch.real("kRouteScale", a.scale).real("kJitter", a.jitter);
  launch.number("kGroups", a.groups).number("kKeepGroups", a.keep_groups);
  launch.boolean("kGroupTop2", a.group_score == ir::GroupScore::top2_sum);
  launch.boolean("kHasSelectionBias", selection_bias != nullptr)
      .boolean("kHasForced", forced != nullptr)
      .boolean("kCounts", counts);
}

/// Where the routes are counted, by the kernel that has the last word on them.
LaunchBuilder& route_counts(LaunchBuilder& launch, StepBuilder& steps, int64_t experts,
                            bool counts) {
  return launch.parameter("shunt::int64* counts", counts ? steps.route_counts(experts) : Arg{});
}

LaunchBuilder& forced_ids(LaunchBuilder& launch, const ir::Value* forced) {
  return forced != nullptr ? launch.in("forced", forced)
                           : launch.parameter("const int* forced", Arg{});
}

constexpr int64_t kMaxExperts = 1024, kMaxTop = 32;

// ---- topk_gate ----

bool supports_topk_gate(const ir::Op& op, const Context& context) {
  return is_cuda(context) && has_plain_types(op) &&
         op.operand(0)->type.last().constant() <= kMaxExperts &&
         op.as<ir::TopkGateAttrs>().k <= kMaxTop;
}

double seconds_topk_gate(const ir::Op& op, const Context& context) {
  return roofline_seconds(op, context, false, 0.5, 0.2);
}

void emit_choice(const ir::Op& op, const ir::TopkGateAttrs& a, StepBuilder& steps) {
  const Type& logits = op.operand(0)->type;
  const int64_t experts = logits.last().constant();
  const bool counts = !a.depends_on_batch();
  constexpr int64_t kThreads = 128;
  LaunchBuilder launch(steps, "topk_gate", "gate.cuh", "topk_gate");
  add_gate_config(launch, a, experts, op.operand(1), op.operand(2), counts);
  launch.number("kThreads", kThreads);
  launch.in("logits", op.operand(0)).in("selection_bias", op.operand(1));
  forced_ids(launch, op.operand(2)).out("w", op.result(0)).out("ids", op.result(1));
  route_counts(launch, steps, experts, counts).size("T", logits.shape[0]);
  launch.launch(DimExpr::ceildiv(logits.shape[0], kThreads / 32), kThreads);
}

void emit_sample_second(const ir::Op& op, const ir::TopkGateAttrs& a, StepBuilder& steps) {
  const Type& logits = op.operand(0)->type;
  const int64_t experts = logits.last().constant();
  const bool counts = a.drop == ir::Drop::none;
  constexpr int64_t kThreads = 128;
  LaunchBuilder launch(steps, "sample_second", "capacity.cuh", "sample_second");
  launch.number("kExperts", experts).number("kThreads", kThreads);
  launch.boolean("kHasForced", op.operand(2) != nullptr).boolean("kCounts", counts);
  forced_ids(launch.in("logits", op.operand(0)), op.operand(2));
  launch.out("w", op.result(0)).out("ids", op.result(1));
  route_counts(launch, steps, experts, counts).i64("seed", DimExpr(a.seed));
  launch.size("T", logits.shape[0]);
  launch.launch(DimExpr::ceildiv(logits.shape[0], kThreads / 32), kThreads);
}

void emit_drop(const ir::Op& op, const ir::TopkGateAttrs& a, StepBuilder& steps) {
  const Type& logits = op.operand(0)->type;
  constexpr int64_t kThreads = 256, kMost = int64_t{1} << 30;  // more slots than routes
  const int64_t experts = logits.last().constant();
  LaunchBuilder launch(steps, "drop_routes", "capacity.cuh", "drop_routes");
  launch.number("kExperts", experts).number("kTop", a.k);
  launch.number("kDrop", static_cast<int64_t>(a.drop));
  launch.real("kFactor", a.capacity_factor * static_cast<double>(a.k));
  launch.number("kMinCapacity", std::min(a.min_capacity, kMost));
  launch.number("kThreads", kThreads).number("kItems", 4);
  launch.out("w", op.result(0)).out("ids", op.result(1));
  route_counts(launch, steps, experts, true).i64("seed", DimExpr(a.seed));
  launch.size("T", logits.shape[0]);
  launch.launch(DimExpr(experts), kThreads);
}

void emit_finish(const ir::Op& op, const ir::TopkGateAttrs& a, StepBuilder& steps) {
  const Dim& tokens = op.operand(0)->type.shape[0];
  constexpr int64_t kThreads = 128;
  LaunchBuilder launch(steps, "finish_routes", "capacity.cuh", "finish_routes");
  launch.number("kTop", a.k).boolean("kSum", a.norm == ir::RouteNorm::sum);
  launch.real("kNormEps", a.norm_eps).real("kNormMin", a.norm_min);
  launch.real("kRouteScale", a.scale).number("kThreads", kThreads);
  launch.out("w", op.result(0)).in("ids", op.result(1)).size("T", tokens);
  launch.launch(DimExpr::ceildiv(tokens, kThreads), kThreads);
}

/// With a capacity or a random second choice, the gate proper leaves raw scores, which are
/// normalised once it is known which routes stay.
void emit_topk_gate(const ir::Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::TopkGateAttrs>();
  if (!a.depends_on_batch()) return emit_choice(op, a, steps);
  ir::TopkGateAttrs raw = a;  // depends on the batch still: does not count
  raw.norm = ir::RouteNorm::none;
  raw.scale = 1;
  emit_choice(op, raw, steps);
  if (a.sample_second) emit_sample_second(op, a, steps);
  if (a.drop != ir::Drop::none) emit_drop(op, a, steps);
  if (a.norm == ir::RouteNorm::sum || a.scale != 1) emit_finish(op, a, steps);
}

// ---- norm_gate ----

/// How norm_gate cuts tokens and experts into blocks.
struct GateCut {
  int64_t tokens;  // of a block
  int64_t threads;
  int64_t chunk_rows;  // router rows of a block
  int64_t chunks;
  int64_t warp_rows;  // router rows a warp takes at a time
  bool hold;          // a warp's rows fit in registers: read before the predecessor ends
  int64_t smem;

  GateCut(const ir::Op& op, const Context& context) {
    const Type& router = op.operand(3)->type;
    const int64_t experts = router.shape[0].constant(), cols = router.shape[1].constant();
    const int64_t bound = std::max<int64_t>(1, context.bound(op.operand(0)->type.shape[0]));
    constexpr int64_t kTileBytes = 96 << 10;  // two blocks a multiprocessor
    tokens = 1;
    while (tokens < 8 && tokens < bound && 2 * tokens * cols * 4 <= kTileBytes) tokens *= 2;
    smem = tokens * cols * 4;
    threads = tokens == 8 ? 256 : 128;
    const int64_t warps = threads / 32;
    const int64_t tiles = ceil_div(bound, tokens);
    chunks = std::clamp<int64_t>(context.target.sm_count / tiles, 1, ceil_div(experts, warps));
    chunk_rows = round_up(ceil_div(experts, chunks), warps);
    chunks = ceil_div(experts, chunk_rows);
    warp_rows = std::min<int64_t>({4, chunk_rows / warps, 32 / tokens});
    if (warp_rows == 3) warp_rows = 2;
    const int64_t vec = vector_width(cols);
    const int64_t row_bytes =
        ceil_div(cols / vec, 32) * vec * dtype_bytes(router.dtype);  // of a lane
    hold = chunk_rows == warps * warp_rows && warp_rows * row_bytes <= 256;
  }
};

bool gates_few_enough(const ir::Op& op, const Context& context) {
  return is_cuda(context) && has_plain_types(op) &&
         op.operand(3)->type.shape[0].constant() <= kMaxExperts &&
         op.as<ir::NormGateAttrs>().k <= kMaxTop;
}

bool supports_norm_gate(const ir::Op& op, const Context& context) {
  return gates_few_enough(op, context) &&
         op.operand(3)->type.shape[1].constant() * 4 <= block_smem(context.target) - 16 * 1024;
}

double seconds_norm_gate(const ir::Op& op, const Context& context) {
  return roofline_seconds(op, context, false, 0.6, 0.2);
}

/// Template and other arguments of both kernels of norm_gate, up to what each is cut by. `tiles` of
/// tokens have a counter each.
void add_norm_gate(LaunchBuilder& launch, const ir::Op& op, int64_t tiles, StepBuilder& steps) {
  const auto& a = op.as<ir::NormGateAttrs>();
  const ir::Value *x = op.operand(0), *y = op.operand(1), *weight = op.operand(2),
                  *router = op.operand(3);
  const ir::Value *router_bias = op.operand(4), *selection_bias = op.operand(5),
                  *forced = op.operand(6);
  const int64_t cols = x->type.last().constant(), experts = router->type.shape[0].constant();
  add_gate_config(launch, a, experts, selection_bias, forced, true);
  launch.type("X", x->type.dtype).type("Y", y ? y->type.dtype : DType::f32);
  launch.type("W", weight->type.dtype).type("Router", router->type.dtype);
  launch.type("RouterBias", router_bias ? router_bias->type.dtype : DType::f32);
  launch.number("kCols", cols).number("kVec", vector_width(cols));
  launch.boolean("kHasY", y != nullptr).boolean("kHasRouterBias", router_bias != nullptr);
  launch.boolean("kPlusOne", a.plus_one).real("kEps", a.eps);
  launch.number("kMaxCounters",
                round_up(std::max<int64_t>(tiles, 1), 1024));  // one kernel for more buckets
  launch.in("x", x).in("y", y).in("weight", weight).in("router", router);
  launch.in("router_bias", router_bias).in("selection_bias", selection_bias);
  forced_ids(launch, forced);
  launch.out("sum", op.result(0)).out("normed", op.result(1)).out("logits", op.result(2));
  launch.out("w", op.result(3)).out("ids", op.result(4));
  route_counts(launch, steps, experts, true);
}

void emit_norm_gate(const ir::Op& op, StepBuilder& steps) {
  const Dim& tokens = op.operand(0)->type.shape[0];
  const GateCut cut(op, steps.context());
  LaunchBuilder launch(steps, "norm_gate", "gate.cuh", "norm_gate");
  launch.number("kThreads", cut.threads).number("kTokens", cut.tokens);
  launch.number("kWarpRows", cut.warp_rows).boolean("kHold", cut.hold);
  add_norm_gate(launch, op, ceil_div(steps.context().bound(tokens), cut.tokens), steps);
  launch.i32("chunk_rows", cut.chunk_rows).size("T", tokens);
  launch.launch({DimExpr::ceildiv(tokens, cut.tokens), DimExpr(cut.chunks), DimExpr(1)},
                cut.threads, cut.smem);
}

// ---- norm_gate of few tokens ----

constexpr int64_t kFewTokens = 128;  // beyond, reading them once for every few experts costs more
constexpr int64_t kFewRows = 4;      // router rows of a block

bool supports_few(const ir::Op& op, const Context& context) {
  return gates_few_enough(op, context) &&
         vector_width(op.operand(3)->type.shape[1].constant()) >= 4 &&
         context.bound(op.operand(0)->type.shape[0]) <= kFewTokens;
}

double seconds_few(const ir::Op& op, const Context& context) {
  return roofline_seconds(op, context, false, 0.8, 0.3);  // before norm_gate.tile
}

void emit_few(const ir::Op& op, StepBuilder& steps) {
  constexpr int64_t kMostThreads = 384;  // with up to 168 registers each
  const Type& router = op.operand(3)->type;
  const Dim& tokens = op.operand(0)->type.shape[0];
  const int64_t experts = router.shape[0].constant(), cols = router.shape[1].constant();
  const int64_t bound = std::max<int64_t>(1, steps.context().bound(tokens));
  const int64_t vec = vector_width(cols), vectors = cols / vec;
  const int64_t passes = ceil_div(vectors, kMostThreads);
  const int64_t threads = round_up(ceil_div(vectors, passes), 32);
  int64_t tile = 1;
  while (tile < 8 && tile < bound) tile *= 2;
  const int64_t held_bytes =
      passes * vec *
      (kFewRows * dtype_bytes(router.dtype) + dtype_bytes(op.operand(2)->type.dtype));
  LaunchBuilder launch(steps, "norm_gate_few", "gate_few.cuh", "norm_gate_few");
  launch.number("kThreads", threads).number("kTokens", tile).number("kRows", kFewRows);
  launch.boolean("kHold", held_bytes <= (tile <= 2 ? 160 : 80));  // in registers
  add_norm_gate(launch, op, ceil_div(bound, tile), steps);
  launch.size("T", tokens);
  launch.launch({DimExpr::ceildiv(tokens, tile), DimExpr(ceil_div(experts, kFewRows)), DimExpr(1)},
                threads);
}

}  // namespace

std::vector<KernelImpl> gate_kernels() {
  using ir::OpKind;
  return {
      {"topk_gate.warp", OpKind::topk_gate, supports_topk_gate, seconds_topk_gate, emit_topk_gate},
      {"norm_gate.tile", OpKind::norm_gate, supports_norm_gate, seconds_norm_gate, emit_norm_gate},
      {"norm_gate.few", OpKind::norm_gate, supports_few, seconds_few, emit_few},
  };
}

}  // namespace shunt::codegen
