// Tiled products: the choice of a tile for the tensor cores, and the launches of kernels/gemm.cuh
// and gemm_simt.cuh. Entry points: choose_mma, emit_mma, emit_simt. Covered by
// tests/codegen/linear_rows_test.cpp and linear_nvrtc_test.cpp.
#include "codegen/emit/linear_tiles.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "ir/error.h"
#include "ir/expert_load.h"

namespace shunt::codegen {

namespace {

constexpr int64_t kSimtTile = 64;  // rows, and rows of w, of a block of kernels/gemm_simt.cuh
constexpr int64_t kMaxGridY = 65535;
constexpr int64_t kMmaDepth = 64;        // of K, a stage of kernels/gemm.cuh
constexpr int64_t kReservedSmem = 1024;  // of every block, by the driver

constexpr MmaTile kMmaTiles[] = {
    // Where the estimates are equal the first is taken.
    {16, 64, 1, 4, 10, 0.10},  {16, 32, 1, 2, 10, 0.08}, {32, 64, 1, 4, 8, 0.18},
    {32, 128, 1, 4, 5, 0.22},  {64, 64, 2, 2, 4, 0.30},  {64, 128, 2, 2, 4, 0.38},
    {128, 128, 2, 4, 3, 0.45},
};
constexpr int64_t kMostStages = 16;  // of a block that has a multiprocessor for itself

bool is_grouped(const Product& p) { return p.op.kind == ir::OpKind::grouped_linear; }

/// Products of a head_linear, side by side.
int64_t matrices(const Product& p) { return std::max<int64_t>(1, p.heads); }

/// Rows that there are to be expected: of experts that are a part of the model's, those of the
/// routes that come to them, which the sizes of tensors do not tell.
int64_t expected_rows(const Product& p, const Context& context) {
  const int64_t bound = std::max<int64_t>(1, context.bound(p.rows));
  const ir::Value* ids = is_grouped(p) ? ir::route_ids(p.op) : nullptr;
  if (ids == nullptr) return bound;
  const double rows = ir::expert_load(p.op).local_routes(context.bound(ids->type.shape[0]));
  return std::clamp<int64_t>(std::llround(rows), 1, bound);
}

double rows_share(const Product& p, const Context& context) {
  return static_cast<double>(expected_rows(p, context)) /
         static_cast<double>(std::max<int64_t>(1, context.bound(p.rows)));
}

/// Row tiles over all experts: with rows spread unevenly, one has about half a tile too much.
double expected_row_tiles(const Product& p, int64_t rows, int64_t block_m) {
  if (!is_grouped(p)) return static_cast<double>(ceil_div(rows, block_m));
  const auto groups = static_cast<double>(std::min(p.experts, rows));  // that have rows at all
  const double full = static_cast<double>(rows) / static_cast<double>(block_m);
  return std::max(groups, full + 0.5 * groups);
}

double expected_tiles(const Product& p, const Context& context, const MmaTile& t) {
  return expected_row_tiles(p, expected_rows(p, context), t.block_m) *
         static_cast<double>(ceil_div(p.columns, t.columns(p)) * matrices(p));
}

/// No more tiles than multiprocessors: each block has one for itself.
bool alone(const Product& p, const Context& context, const MmaTile& t) {
  return expected_tiles(p, context, t) <= static_cast<double>(context.target.sm_count);
}

/// Shared memory of one of two blocks on a multiprocessor.
int64_t half_smem(const Target& target) { return (block_smem(target) - kReservedSmem) / 2; }

int64_t steps_of(const Product& p) { return ceil_div(p.depth, kMmaDepth); }

/// Stages of a block's ring: as many as its share of a multiprocessor's memory holds and it has use
/// for; with few steps of K fewer, that more blocks fit. Measured with bench/expert_bench.cpp.
int64_t ring(const Product& p, const Context& context, const MmaTile& t) {
  const int64_t whole = block_smem(context.target), half = half_smem(context.target);
  const int64_t steps = steps_of(p);
  if (alone(p, context, t))
    return std::min({whole / t.stage_bytes(), kMostStages, std::max<int64_t>(2, steps)});
  const int64_t stages = (half >= 3 * t.stage_bytes() ? half : whole) / t.stage_bytes();
  return std::min({stages, t.stages, std::max<int64_t>(4, steps * 5 / 8)});
}

/// What a launch asks for. A block that has a multiprocessor for itself for long leaves no room for
/// another: blocks that start early, while the predecessor ends, would gather on the
/// multiprocessors that become free first and leave others without any.
int64_t launch_smem(const Product& p, const Context& context, const MmaChoice& choice) {
  const bool keep_apart = alone(p, context, choice.tile) && steps_of(p) > choice.stages;
  const int64_t more_than_half = half_smem(context.target) + kReservedSmem;
  return keep_apart ? std::max(choice.smem(), more_than_half) : choice.smem();
}

double tile_seconds(const Product& p, const Context& context, const MmaTile& t) {
  const Target& target = context.target;
  const double tiles = expected_tiles(p, context, t);
  const double sms = static_cast<double>(target.sm_count);
  const double busy = std::min(1.0, tiles / sms);  // share of the machine that has work
  // A multiprocessor can read faster than with its share of the memory's rate.
  const double reads = std::min(1.0, 1.25 * tiles / sms);
  const double depth = static_cast<double>(steps_of(p) * kMmaDepth);
  const double area = static_cast<double>(t.block_m * t.block_n);
  const double edges = static_cast<double>(t.block_m + t.block_n);
  const double compute =
      2 * tiles * area * depth / (target.matmul_flops_per_s * t.compute_share * busy);
  // Every tile pulls its part of x and w through the L2 cache.
  const double l2 = 2 * tiles * edges * depth / (target.memory_bytes_per_s * 1.2 * reads);
  const double move =
      product_bytes(p, context, rows_share(p, context)) / (target.memory_bytes_per_s * 0.7 * reads);
  const double slow_copies = p.depth % 8 == 0 ? 1.0 : 6.0;
  return target.launch_seconds + kRampSeconds + std::max({compute, l2, move}) * slow_copies;
}

/// Blocks that share the row tiles of one expert. One expert may get all rows, so blocks loop; this
/// only spreads the usual case.
int64_t row_blocks(const Product& p, const Context& context, int64_t block_m) {
  const double share =
      static_cast<double>(expected_rows(p, context)) / static_cast<double>(p.experts * block_m);
  return std::clamp<int64_t>(static_cast<int64_t>(2 * share + 0.5), 1, 64);
}

/// The parts of a launch that the dense and the grouped kernels of both headers have in common.
void add_product(LaunchBuilder& launch, const Product& p) {
  launch.type("Out", p.out_type())
      .number("kDepth", p.depth)
      .number("kOutColumns", p.columns)
      .boolean("kGlu", p.glu)
      .boolean("kGrouped", is_grouped(p))
      .number("kHeads", p.heads);
  const bool grouped = is_grouped(p);
  launch.number("kGather", grouped ? p.op.as<ir::GroupedLinearAttrs>().gather : 0)
      .boolean("kScatter", grouped && p.op.as<ir::GroupedLinearAttrs>().scatter);
  launch.extra(epilogue_text(p));
  launch.in("x", p.x).in("w", p.w);
  if (grouped) {
    launch.in("offsets", p.op.operand(2)).in("rows", p.op.operand(3)).out("out", p.op.result());
  } else {
    launch.out("out", p.op.result()).i32("count", p.rows);
  }
  add_extra_operands(p, launch);
}

std::array<DimExpr, 3> grid_of(const Product& p, const Context& context, int64_t block_m,
                               int64_t columns) {
  const DimExpr column_tiles(ceil_div(p.columns, columns));
  if (is_grouped(p))
    return {column_tiles, DimExpr(p.experts), DimExpr(row_blocks(p, context, block_m))};
  return {column_tiles, DimExpr::ceildiv(p.rows, block_m), DimExpr(matrices(p))};
}

bool fits_grid(const Product& p, const Context& context, int64_t block_m) {
  const int64_t rows = context.bound(p.rows);
  return rows >= 1 && (is_grouped(p) ? p.experts : ceil_div(rows, block_m)) <= kMaxGridY &&
         p.heads <= kMaxGridY;
}

}  // namespace

bool supports_mma(const Product& p, const Context& context) {
  return has_device_types(p, context) && p.weights_are_ready() && is_half(p.x_type()) &&
         p.x_type() == p.w_type() && context.target.sm >= 80 && fits_grid(p, context, 16);
}

MmaChoice choose_mma(const Product& p, const Context& context) {
  std::optional<MmaChoice> best;
  for (const MmaTile& tile : kMmaTiles) {
    const MmaChoice choice{tile, ring(p, context, tile), tile_seconds(p, context, tile)};
    if (choice.stages >= 2 && (!best || choice.seconds < best->seconds)) best = choice;
  }
  SHUNT_CHECK(best.has_value(), "no tile fits {} bytes of shared memory",
              context.target.smem_per_block);
  return *best;
}

void emit_mma(const Product& p, StepBuilder& steps) {
  const Context& context = steps.context();
  const MmaChoice choice = choose_mma(p, context);
  const MmaTile& tile = choice.tile;
  LaunchBuilder launch(steps, std::string(p.op.info().name) + "_mma", "gemm.cuh",
                       is_grouped(p) ? "grouped_gemm" : "gemm");
  launch.type("T", p.x_type())
      .number("kBlockM", tile.block_m)
      .number("kBlockN", tile.block_n)
      .number("kWarpsM", tile.warps_m)
      .number("kWarpsN", tile.warps_n)
      .number("kStages", choice.stages)
      .number("kSmemBytes", choice.smem())
      .boolean("kAligned", p.depth % 8 == 0);
  add_product(launch, p);
  launch.launch(grid_of(p, context, tile.block_m, tile.columns(p)), tile.threads(),
                launch_smem(p, context, choice),
                context.target.smem_per_block >= 2 * choice.smem() ? 2 : 1);
}

bool supports_simt(const Product& p, const Context& context) {
  return has_device_types(p, context) && fits_grid(p, context, kSimtTile);
}

double simt_seconds(const Product& p, const Context& context) {
  const Target& target = context.target;
  const int64_t rows = expected_rows(p, context);
  const double tiles = expected_row_tiles(p, rows, kSimtTile) *
                       static_cast<double>(ceil_div(p.weight_rows(), kSimtTile) * matrices(p));
  const double busy = std::min(1.0, tiles / static_cast<double>(target.sm_count));
  const double flops =
      2 * tiles * kSimtTile * kSimtTile * static_cast<double>(round_up(p.depth, 16));
  const double compute = flops / (target.vector_flops_per_s * 0.2 * busy);
  const double move =
      product_bytes(p, context, rows_share(p, context)) / (target.memory_bytes_per_s * 0.3 * busy);
  return target.launch_seconds + kRampSeconds + std::max(compute, move);
}

void emit_simt(const Product& p, StepBuilder& steps) {
  const Context& context = steps.context();
  LaunchBuilder launch(steps, std::string(p.op.info().name) + "_simt", "gemm_simt.cuh",
                       is_grouped(p) ? "grouped_simt_gemm" : "simt_gemm");
  launch.type("X", p.x_type()).type("W", p.w_type());
  add_product(launch, p);
  launch.launch(grid_of(p, context, kSimtTile, kSimtTile / p.parts()), 256, 0, 2);
}

}  // namespace shunt::codegen
