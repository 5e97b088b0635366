// Rows of routed_linear, whose routes are not sorted: routed_linear.gemv, a block for every route
// (kernels/gemv.cuh), and routed_linear.grouped_gemv, where blocks share the routes that are there
// (kernels/grouped_gemv.cuh). Entry point: linear_routed_kernels. Covered by
// tests/codegen/linear_rows_test.cpp, linear_nvrtc_test.cpp and, on a GPU, by the test that
// compares every row with the evaluator; timed by bench/expert_bench.cpp.
#include <algorithm>
#include <cmath>

#include "codegen/emit/families.h"
#include "codegen/emit/gemv_config.h"
#include "ir/expert_load.h"

namespace shunt::codegen {

namespace {

// ---- a block for every route ----

bool supports_routed(const ir::Op& op, const Context& context) {
  const Product p = describe_product(op);
  const int64_t routes = context.bound(p.rows);
  if (!has_device_types(p, context) || !p.weights_are_ready() || routes < 1) return false;
  return choose_gemv(p, 1, routes, context.target).smem <= block_smem(context.target);
}

/// Tokens of a step, whose choices the routes are.
int64_t tokens_bound(const ir::Op& op, const Context& context) {
  return std::max<int64_t>(1, context.bound(op.operand(2)->type.shape[0]));
}

/// Every route reads its expert's weights. Blocks are launched for all routes; those of routes that
/// are another rank's leave at once, and the others do not get more of the machine for it.
double seconds_routed(const ir::Op& op, const Context& context) {
  const Product p = describe_product(op);
  const ir::ExpertLoad load = ir::expert_load(op);
  const int64_t routes = context.bound(p.rows);
  const double local = load.local_routes(tokens_bound(op, context));
  const GemvConfig c = choose_gemv(p, 1, routes, context.target);
  const double blocks = local * static_cast<double>(column_blocks(c, routes, context.target));
  const double busy =
      std::clamp(blocks / static_cast<double>(resident_blocks(c.smem, context.target)), 1e-3, 1.0);
  const double elements = product_flops(p, local) / 2;
  return gemv_seconds(context, elements * static_cast<double>(dtype_bytes(p.w_type())), elements, 1,
                      busy);
}

/// Rows of the result's routes behind one row of x: k where all routes of a token share it.
int64_t routes_per_row(const ir::Op& op, const Product& p) {
  const Type& ids = op.operand(2)->type;
  return p.x->type.shape[0] == ids.shape[0] ? ids.last().constant() : 1;
}

/// True if the ids are older than any kernel that can run right before this op's: an earlier
/// routed_linear used them to make x.
bool ids_are_early(const ir::Op& op) {
  const ir::Op* before = op.operand(0)->def;
  return before != nullptr && before->kind == ir::OpKind::routed_linear &&
         before->operand(2) == op.operand(2);
}

void emit_routed(const ir::Op& op, StepBuilder& steps) {
  const Product p = describe_product(op);
  const Context& context = steps.context();
  const int64_t routes = context.bound(p.rows);
  const GemvConfig c = choose_gemv(p, 1, routes, context.target);
  LaunchBuilder launch(steps, "routed_linear_gemv", "gemv.cuh", "routed_gemv");
  add_gemv_config(launch, p, c);
  launch.number("kRoutesPerRow", routes_per_row(op, p)).boolean("kEarlyIds", ids_are_early(op));
  launch.in("x", p.x).in("w", p.w).in("ids", op.operand(2)).out("out", op.result());
  add_extra_operands(p, launch);
  launch.launch({p.rows, DimExpr(column_blocks(c, routes, context.target)), DimExpr(1)},
                kGemvWarps * 32, c.smem, kGemvBlocksPerSm);
}

// ---- routes grouped by expert ----

constexpr int64_t kMaxListedRoutes = 512;    // beyond, making the list in every block would show
constexpr int64_t kMaxListedExperts = 2048;  // for the list's memory
constexpr int64_t kMaxRowsOfGroup = 4;       // beyond, arithmetic outweighs the memory
constexpr double kListSeconds = 0.5e-6;      // from the ids to the list, before any weight is read
constexpr double kGroupedRate = 0.87;        // of routed_linear.gemv's, where both fill the machine

struct GroupedConfig {
  GemvConfig gemv;
  double groups = 1;       // expected
  int64_t list_bytes = 0;  // of shared memory
  int64_t blocks = 1;

  int64_t smem() const { return gemv.smem + list_bytes; }
};

/// Rows that share a read: more as long as that saves a twentieth of the reads.
int64_t rows_of_group(const ir::ExpertLoad& load, int64_t tokens) {
  int64_t rows = 1;
  while (rows < kMaxRowsOfGroup &&
         load.groups(tokens, 2 * rows) < 0.95 * load.groups(tokens, rows)) {
    rows *= 2;
  }
  return rows;
}

GroupedConfig choose_grouped(const ir::Op& op, const Product& p, const Context& context) {
  const ir::ExpertLoad load = ir::expert_load(op);
  const int64_t tokens = tokens_bound(op, context), routes = context.bound(p.rows);
  const Target& target = context.target;
  GroupedConfig g;
  GemvConfig& c = g.gemv;
  c.rows = rows_of_group(load, tokens);
  c.buffers = 2;  // a block's part of the tiles seldom touches a third group
  g.groups = std::max(1.0, load.groups(tokens, c.rows));
  g.list_bytes = 4 + 12 * routes + 8 * load.local;
  c.vec = vector_width(p.depth, 16 / dtype_bytes(p.w_type()));
  c.columns = std::max<int64_t>(1, 2 / p.parts());
  const int64_t reads = c.rows <= 2 ? kGemvReads : kGemvReads * 3 / 4;  // or registers are short
  const auto tile = [&] {
    c.unroll = best_unroll(p.depth, c, std::max<int64_t>(1, reads / (c.columns * p.parts())));
    c.padded_depth = padded_depth(p.depth, c);
    c.tiles = ceil_div(p.columns, kGemvWarps / c.split * c.columns);
    c.smem = gemv_smem(p, c);
  };
  tile();
  // A short K leaves room for more columns in flight.
  while (2 * c.columns * p.parts() * c.rows <= kGemvSums &&
         2 * c.columns * p.parts() * c.unroll <= reads) {
    c.columns *= 2;
  }
  tile();
  // Two tiles a block or more, so that their number evens out, unless K is too short to be shared.
  const int64_t chunks = ceil_div(p.depth, 32 * c.vec);
  while (c.split < kGemvWarps && chunks >= 2 * c.split &&
         g.groups * static_cast<double>(c.tiles) <
             2 * static_cast<double>(target.sm_count * kGemvBlocksPerSm)) {
    c.split *= 2;
    tile();
  }
  if (2 * g.smem() > target.smem_per_block) {
    c.buffers = 1;
    tile();
  }
  const int64_t most = std::min(routes, tokens * std::min(load.local, load.choices)) * c.tiles;
  g.blocks = std::clamp<int64_t>(most, 1, resident_blocks(g.smem(), target));
  return g;
}

bool supports_grouped(const ir::Op& op, const Context& context) {
  const Product p = describe_product(op);
  const int64_t routes = context.bound(p.rows);
  if (!has_device_types(p, context) || !p.weights_are_ready() || routes < 1 ||
      routes > kMaxListedRoutes || p.experts > kMaxListedExperts) {
    return false;
  }
  return choose_grouped(op, p, context).smem() <= block_smem(context.target);
}

double seconds_grouped(const ir::Op& op, const Context& context) {
  const Product p = describe_product(op);
  const ir::ExpertLoad load = ir::expert_load(op);
  const GroupedConfig g = choose_grouped(op, p, context);
  // The block with the most tiles is the last to end.
  const double tiles = g.groups * static_cast<double>(g.gemv.tiles) / static_cast<double>(g.blocks);
  const double elements = product_flops(p, g.groups) / 2 / kGroupedRate;
  const double rows = load.local_routes(tokens_bound(op, context)) / g.groups;
  return kListSeconds + gemv_seconds(context,
                                     elements * static_cast<double>(dtype_bytes(p.w_type())),
                                     elements, rows, tiles / std::ceil(tiles));
}

void emit_grouped(const ir::Op& op, StepBuilder& steps) {
  const Product p = describe_product(op);
  const GroupedConfig g = choose_grouped(op, p, steps.context());
  LaunchBuilder launch(steps, "routed_linear_grouped_gemv", "grouped_gemv.cuh", "grouped_gemv");
  add_gemv_config(launch, p, g.gemv);
  launch.number("kExperts", p.experts)
      .number("kMaxRoutes", steps.context().bound(p.rows))
      .number("kRoutesPerRow", routes_per_row(op, p))
      .number("kListBytes", g.list_bytes)
      .boolean("kEarlyIds", ids_are_early(op));
  launch.in("x", p.x).in("w", p.w).in("ids", op.operand(2)).out("out", op.result());
  launch.i32("routes", p.rows);
  add_extra_operands(p, launch);
  launch.launch(DimExpr(g.blocks), kGemvWarps * 32, g.smem(), kGemvBlocksPerSm);
}

}  // namespace

std::vector<KernelImpl> linear_routed_kernels() {
  return {
      {"routed_linear.gemv", ir::OpKind::routed_linear, supports_routed, seconds_routed,
       emit_routed},
      {"routed_linear.grouped_gemv", ir::OpKind::routed_linear, supports_grouped, seconds_grouped,
       emit_grouped},
  };
}

}  // namespace shunt::codegen
