// What the builder makes of an Architecture that no family needs all of: scalars, layer norms,
// several ropes.
#include "frontends/builder.h"

#include <gtest/gtest.h>

namespace shunt {
namespace {

Architecture tiny() {
  Architecture a;
  a.family = "tiny";
  a.vocab_size = 32;
  a.hidden_size = 16;
  Layer layer;
  layer.attention.heads = 2;
  layer.attention.kv_heads = 1;
  layer.attention.head_dim = 8;
  layer.attention.rope = Rope{.rotary_dim = 8};
  layer.mlp = DenseMlp{.width = 24};
  a.layers = {layer, layer};
  return a;
}

std::string build(const Architecture& a) {
  const BuiltModule built = build_module(a, nullptr, {{64, 4, 32, 4, 16}, DType::f32, false});
  ir::verify(*built.module);
  return ir::print(*built.module);
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Builder, scalars) {
  Architecture a = tiny();
  EXPECT_FALSE(has(build(a), "raw_logits"));
  a.embedding_scale = 4;
  a.residual_scale = 0.5;
  a.logit_scale = 0.25;
  a.logit_softcap = 30;
  const std::string text = build(a);
  EXPECT_TRUE(has(text, "%hidden.0 = pointwise %embedded {expr = \"x0 * 4\", out = f32}"));
  EXPECT_TRUE(
      has(text, "%l0.mid = pointwise %hidden.0, %l0.o_proj {expr = \"x0 + 0.5 * x1\", out = f32}"));
  EXPECT_TRUE(has(
      text, "%logits = pointwise %raw_logits {expr = \"30 * tanh((x0 * 0.25) / 30)\", out = f32}"));
}

TEST(Builder, layer_norms_with_bias) {
  Architecture a = tiny();
  a.layers[1].mlp_norm = {ir::NormKind::layer, 1e-6, false, true};
  EXPECT_TRUE(
      has(build(a),
          "%l1.mlp_norm = layer_norm %l1.mid, @l1.mlp_norm, @l1.mlp_norm_bias {eps = 1e-06}"));
}

TEST(Builder, equal_ropes_share_a_table_and_layers_may_have_none) {
  Architecture a = tiny();
  EXPECT_FALSE(has(build(a), "inv_freq.1"));
  a.layers[1].attention.rope->theta = 5;
  EXPECT_TRUE(has(build(a), "rope %l1.q_heads, %positions, @inv_freq.1"));
  a.layers[1].attention.rope.reset();
  EXPECT_TRUE(has(build(a), "kv_append %l1.k_heads, %l1.v_heads"));
}

}  // namespace
}  // namespace shunt
