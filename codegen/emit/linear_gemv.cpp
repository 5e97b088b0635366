// Rows linear.gemv and routed_linear.gemv: few rows of x, weights streamed once (kernels/gemv.cuh).
// Entry point: linear_gemv_kernels. Covered by tests/codegen/linear_rows_test.cpp,
// linear_nvrtc_test.cpp and, on a GPU, by the test that compares every row with the evaluator.
#include <algorithm>

#include "codegen/emit/families.h"
#include "codegen/emit/linear_shared.h"

namespace shunt::codegen {

namespace {

constexpr int64_t kWarps = 8;
constexpr int64_t kBlocksPerSm = 2;     // what the registers allow: see __launch_bounds__ below
constexpr int64_t kMaxRows = 16;        // beyond, tensor cores win even when the weights dominate
constexpr int64_t kMaxRowsOfBlock = 8;  // more would not fit the registers

struct GemvConfig {
  int64_t rows = 1;     // of a block
  int64_t vec = 1;      // elements of w a lane reads at once
  int64_t unroll = 1;   // such reads of one column in flight
  int64_t columns = 1;  // of the result, a warp
  int64_t split = 1;    // warps that share columns, each with its part of K
  int64_t padded_depth = 0;
  int64_t tiles = 0;  // of the columns
  int64_t smem = 0;
};

/// Elements of K that all reads of a column cover, padding included.
int64_t padded_depth(int64_t depth, const GemvConfig& c) {
  return round_up(depth, 32 * c.vec * c.unroll * c.split);
}

/// The longest unroll up to `most` among those that read the least padding.
int64_t best_unroll(int64_t depth, GemvConfig c, int64_t most) {
  int64_t best = 1, least = padded_depth(depth, c);
  for (c.unroll = 2; c.unroll <= most; ++c.unroll) {
    if (padded_depth(depth, c) > least) continue;
    least = padded_depth(depth, c);
    best = c.unroll;
  }
  return best;
}

/// `matrices`: how many products of this shape run side by side (the routes).
GemvConfig choose(const Product& p, int64_t rows, int64_t matrices, const Target& target) {
  GemvConfig c;
  c.rows = std::min(rows, kMaxRowsOfBlock);
  c.vec = vector_width(p.depth, 16 / dtype_bytes(p.w_type()));
  // Sixteen-byte reads in flight a lane, and how many rows of w share a read of x. Both live in
  // registers, next to one sum for every row of x and of w.
  const int64_t reads = c.rows <= 4 ? 8 : 4;
  c.columns = c.rows <= 2 ? 1 : std::max<int64_t>(1, 2 / p.parts());
  const int64_t chunks = ceil_div(p.depth, 32 * c.vec);
  while (2 * c.columns * p.parts() * c.rows <= 16 && chunks * c.columns * p.parts() < reads)
    c.columns *= 2;
  // Enough warps to fill the machine: share columns among warps if there are too few of them.
  const int64_t wanted = target.sm_count * kBlocksPerSm * kWarps;
  while (c.split < kWarps && chunks >= 2 * c.split &&
         ceil_div(p.columns, c.columns) * matrices * c.split < wanted) {
    c.split *= 2;
  }
  c.unroll = best_unroll(p.depth, c, std::max<int64_t>(1, reads / (c.columns * p.parts())));
  c.padded_depth = padded_depth(p.depth, c);
  c.tiles = ceil_div(p.columns, kWarps / c.split * c.columns);
  c.smem = round_up(c.rows * c.padded_depth * dtype_bytes(p.x_type()), 16) +
           2 * kWarps * c.columns * p.parts() * c.rows * 4;
  return c;
}

/// Blocks that share the column tiles of one matrix: what fits the machine at once, in whole waves.
int64_t column_blocks(const GemvConfig& c, int64_t matrices, const Target& target) {
  const int64_t resident =
      std::min(kBlocksPerSm, std::max<int64_t>(1, target.smem_per_block / c.smem));
  // With more matrices than room, a few blocks for each even out the last wave.
  const int64_t share = target.sm_count * resident / matrices;
  return std::clamp<int64_t>(share > 0 ? share : 4, 1, c.tiles);
}

void add_config(LaunchBuilder& launch, const Product& p, const GemvConfig& c) {
  launch.type("X", p.x_type())
      .type("W", p.w_type())
      .type("Out", p.out_type())
      .number("kRows", c.rows)
      .number("kDepth", p.depth)
      .number("kOutColumns", p.columns)
      .boolean("kGlu", p.glu)
      .number("kVec", c.vec)
      .number("kUnroll", c.unroll)
      .number("kColumns", c.columns)
      .number("kSplit", c.split)
      .number("kWarps", kWarps)
      .number("kSmemBytes", c.smem)
      .extra(epilogue_text(p));
}

/// The larger of reading everything once and issuing the multiply-adds, conversions included.
/// `passes`: how often a block goes over the weights, again from the cache but with all the
/// arithmetic.
double gemv_seconds(const Product& p, const Context& context, int64_t rows, double passes) {
  const double weight_elements = product_flops(p, 1) / 2;
  const double block_rows = static_cast<double>(rows);
  const double lane_operations = weight_elements * passes * (1 + 1.5 * block_rows);
  const double move = product_bytes(p, context) / (context.target.memory_bytes_per_s * 0.75);
  const double compute = lane_operations / (context.target.vector_flops_per_s / 2 * 0.75);
  return context.target.launch_seconds + kRampSeconds + std::max(move, compute);
}

// ---- linear ----

bool supports_linear(const ir::Op& op, const Context& context) {
  const Product p = describe_product(op);
  const int64_t rows = context.bound(p.rows);
  if (!has_device_types(p, context) || !p.weights_are_ready() || rows < 1 || rows > kMaxRows)
    return false;
  return choose(p, rows, 1, context.target).smem <= context.target.smem_per_block;
}

double seconds_linear(const ir::Op& op, const Context& context) {
  const Product p = describe_product(op);
  const int64_t rows = context.bound(p.rows);
  const int64_t block_rows = std::min(rows, kMaxRowsOfBlock);
  return gemv_seconds(p, context, block_rows, static_cast<double>(ceil_div(rows, block_rows)));
}

void emit_linear(const ir::Op& op, StepBuilder& steps) {
  const Product p = describe_product(op);
  const Context& context = steps.context();
  const GemvConfig c = choose(p, context.bound(p.rows), 1, context.target);
  LaunchBuilder launch(steps, "linear_gemv", "gemv.cuh", "gemv");
  add_config(launch, p, c);
  launch.in("x", p.x).in("w", p.w).out("out", op.result()).i32("rows", p.rows);
  add_extra_operands(p, launch);
  launch.launch(
      {DimExpr(column_blocks(c, 1, context.target)), DimExpr::ceildiv(p.rows, c.rows), DimExpr(1)},
      kWarps * 32, c.smem, kBlocksPerSm);
}

// ---- routed_linear ----

bool supports_routed(const ir::Op& op, const Context& context) {
  const Product p = describe_product(op);
  const int64_t routes = context.bound(p.rows);
  if (!has_device_types(p, context) || !p.weights_are_ready() || routes < 1) return false;
  return choose(p, 1, routes, context.target).smem <= context.target.smem_per_block;
}

double seconds_routed(const ir::Op& op, const Context& context) {
  const Product p = describe_product(op);
  return gemv_seconds(p, context, 1, static_cast<double>(context.bound(p.rows)));
}

void emit_routed(const ir::Op& op, StepBuilder& steps) {
  const Product p = describe_product(op);
  const Context& context = steps.context();
  const int64_t routes = context.bound(p.rows);
  const GemvConfig c = choose(p, 1, routes, context.target);
  const Type& ids = op.operand(2)->type;
  const bool shared_x =
      p.x->type.shape[0] == ids.shape[0];  // one row of x for all routes of a token
  LaunchBuilder launch(steps, "routed_linear_gemv", "gemv.cuh", "routed_gemv");
  add_config(launch, p, c);
  launch.number("kRoutesPerRow", shared_x ? ids.last().constant() : 1);
  launch.in("x", p.x).in("w", p.w).in("ids", op.operand(2)).out("out", op.result());
  add_extra_operands(p, launch);
  launch.launch({p.rows, DimExpr(column_blocks(c, routes, context.target)), DimExpr(1)},
                kWarps * 32, c.smem, kBlocksPerSm);
}

}  // namespace

std::vector<KernelImpl> linear_gemv_kernels() {
  return {
      {"linear.gemv", ir::OpKind::linear, supports_linear, seconds_linear, emit_linear},
      {"routed_linear.gemv", ir::OpKind::routed_linear, supports_routed, seconds_routed,
       emit_routed},
  };
}

}  // namespace shunt::codegen
