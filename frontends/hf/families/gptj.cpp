// GPT-J: attention and MLP read one norm and are added together; part of a head rotates, by
// neighbours.
#include <algorithm>

#include "frontends/hf/common.h"

namespace shunt::hf {

Architecture read_gptj(const Config& config) {
  const FamilyDefaults defaults{
      .norm_eps = 1e-5, .norm = ir::NormKind::layer, .norm_bias = true, .activation = "gelu_new"};
  Architecture a = read_decoder(config, defaults);
  a.lm_head_bias = true;
  Layer layer = read_layer_without_rope(config, a, defaults);
  Rope rope;
  rope.rotary_dim = config.has("rotary_dim")
                        ? config.integer({"rotary_dim"}, 2, layer.attention.head_dim)
                        : std::min<int64_t>(64, layer.attention.head_dim);
  if (rope.rotary_dim % 2 != 0) config.fail("rotary_dim", "is odd: rotary embedding needs pairs");
  rope.interleaved = true;
  layer.attention.rope = rope;
  layer.parallel = true;
  layer.mlp_norm.reset();
  layer.mlp = DenseMlp{config.integer_or({"n_inner"}, 4 * a.hidden_size, 1, kMaxWidth),
                       read_activation(config, defaults.activation), false, true};
  a.layers.assign(static_cast<size_t>(read_layer_count(config)), layer);
  CheckpointNames& n = a.names;
  n.embedding = "transformer.wte.weight";
  n.final_norm = "transformer.ln_f";
  n.lm_head_bias = "lm_head.bias";
  n.layer = "transformer.h.";
  n.attention_norm = "ln_1";
  n.attention = "attn";
  n.q = "attn.q_proj";
  n.k = "attn.k_proj";
  n.v = "attn.v_proj";
  n.o = "attn.out_proj";
  n.dense = {"", "mlp.fc_in", "mlp.fc_out", ""};
  return a;
}

}  // namespace shunt::hf
