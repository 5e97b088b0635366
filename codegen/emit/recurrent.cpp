// Rows of the ops with slot states: causal_conv (kernels/causal_conv.cuh) and gated_delta_rule
// (kernels/gated_delta_rule.cuh). Entry point recurrent_kernels(); tested by
// tests/codegen/recurrent_nvrtc_test.cpp (compiles) and tests/kernels (values).
#include <algorithm>

#include "codegen/emit/families.h"
#include "codegen/emit/launch.h"

namespace shunt::codegen {

namespace {

// ---- causal_conv ----

constexpr int64_t kMaxWeights = 64;  // of a thread, in registers

bool supports_causal_conv(const ir::Op& op, const Context& context) {
  return is_cuda(context) && has_plain_types(op);
}

void emit_causal_conv(const ir::Op& op, StepBuilder& steps) {
  const Type &x = op.operand(0)->type, &w = op.operand(1)->type;
  const ir::Value* bias = op.operand(2);
  const DType state = op.operand(6)->type.dtype;
  const int64_t channels = w.shape[0].constant(), taps = w.shape[1].constant();
  int64_t vec = vector_width(channels);
  while (vec > 1 && vec * taps > kMaxWeights) vec /= 2;
  const int64_t threads = std::clamp<int64_t>(round_up(ceil_div(channels, vec), 32), 32, 128);
  const int64_t chunks = ceil_div(channels, vec * threads);
  const bool decode = steps.context().decode;
  const auto shape = [&](LaunchBuilder& launch) {
    launch.type("X", x.dtype).type("State", state);
    launch.number("kChannels", channels).number("kTaps", taps).number("kVec", vec);
    launch.number("kThreads", threads);
  };
  const std::string& epilogue = op.as<ir::CausalConvAttrs>().epilogue;
  LaunchBuilder launch(steps, "causal_conv", "causal_conv.cuh", "causal_conv");
  shape(launch);
  launch.type("W", w.dtype).type("B", bias == nullptr ? DType::f32 : bias->type.dtype);
  launch.boolean("kBias", bias != nullptr).boolean("kDecode", decode);
  launch.extra(apply_function(epilogue.empty() ? "acc" : epilogue, {"acc"}));
  launch.in("x", op.operand(0)).in("w", op.operand(1)).in("bias", bias);
  launch.in("positions", op.operand(3)).in("seq_starts", op.operand(4));
  launch.in("state_slots", op.operand(5)).out("state", op.operand(6)).out("out", op.result());
  launch.size("T", x.shape[0]).size("S", op.operand(5)->type.shape[0]);
  launch.launch({DimExpr(x.shape[0]), DimExpr(chunks), DimExpr(1)}, threads);
  if (decode) return;
  LaunchBuilder update(steps, "causal_conv_state", "causal_conv.cuh", "causal_conv_state");
  shape(update);
  update.in("x", op.operand(0)).in("positions", op.operand(3)).in("seq_starts", op.operand(4));
  update.in("state_slots", op.operand(5)).out("state", op.operand(6));
  update.launch({DimExpr(op.operand(5)->type.shape[0]), DimExpr(chunks), DimExpr(1)}, threads);
}

double conv_seconds(const ir::Op& op, const Context& context) {
  return roofline_seconds(op, context, false, 0.6, 0.3);
}

// ---- gated_delta_rule ----

constexpr int64_t kMaxDim = 2048;     // 64 registers of state a lane, 32 lanes a column
constexpr int64_t kMaxPart = 32;      // with fewer lanes
constexpr int64_t kMaxStage = 16;     // tokens whose q and k lie in shared memory
constexpr int64_t kStageSize = 2048;  // elements of q among them

bool supports_gated_delta_rule(const ir::Op& op, const Context& context) {
  return is_cuda(context) && has_plain_types(op) &&
         op.operand(6)->type.shape[1].constant() <= kMaxDim;
}

void emit_gated_delta_rule(const ir::Op& op, StepBuilder& steps) {
  const auto& a = op.as<ir::GatedDeltaRuleAttrs>();
  const Type& state = op.operand(6)->type;
  const Dim sequences = op.operand(5)->type.shape[0];
  const int64_t heads = state.shape[0].constant(), dim = state.shape[1].constant();
  const int64_t dim_v = state.shape[2].constant();
  int64_t lanes = 4;
  while (lanes < 32 && ceil_div(dim, lanes) > kMaxPart) lanes *= 2;
  // Narrow blocks where there are few: more of the GPU takes part.
  const Context& context = steps.context();
  const int64_t wide = context.bound(sequences) * heads * ceil_div(dim_v * lanes, 128);
  const int64_t threads = wide >= 2 * context.target.sm_count ? 128 : 64;
  const int64_t cols = threads / lanes;
  LaunchBuilder launch(steps, "gated_delta_rule", "gated_delta_rule.cuh", "gated_delta_rule");
  launch.type("X", op.operand(0)->type.dtype).type("State", state.dtype);
  launch.number("kKeyHeads", a.key_heads).number("kHeads", heads);
  launch.number("kDim", dim).number("kDimV", dim_v);
  launch.number("kKeyLanes", lanes).number("kCols", cols);
  const int64_t most = std::clamp<int64_t>(kStageSize / round_up(dim, 4 * lanes), 1, kMaxStage);
  launch.number("kStage", context.decode ? 1 : most).number("kThreads", threads);
  launch.real("kScale", a.scale).boolean("kNorm", a.qk_l2norm).real("kEps", a.eps);
  launch.in("qkv", op.operand(0)).in("g", op.operand(1)).in("beta", op.operand(2));
  launch.in("positions", op.operand(3)).in("seq_starts", op.operand(4));
  launch.in("state_slots", op.operand(5)).out("state", op.operand(6)).out("out", op.result());
  launch.launch(DimExpr(sequences * (heads * ceil_div(dim_v, cols))), threads);
}

/// Tokens follow each other, a fraction of a microsecond each.
double delta_seconds(const ir::Op& op, const Context& context) {
  constexpr double kToken = 0.15e-6;
  const double tokens =
      context.decode ? 1 : static_cast<double>(context.bound(op.operand(0)->type.shape[0]));
  return std::max(roofline_seconds(op, context, false, 0.6, 0.3), tokens * kToken);
}

}  // namespace

std::vector<KernelImpl> recurrent_kernels() {
  using ir::OpKind;
  return {
      {"causal_conv.token", OpKind::causal_conv, supports_causal_conv, conv_seconds,
       emit_causal_conv},
      {"gated_delta_rule.recurrent", OpKind::gated_delta_rule, supports_gated_delta_rule,
       delta_seconds, emit_gated_delta_rule},
  };
}

}  // namespace shunt::codegen
