// What is special about a family's config, one function each. Entry point: draw_family_keys().
#include "tests/meshes/family_keys.h"

#include <algorithm>

namespace shunt {

using nlohmann::json;

namespace {

void draw_dbrx(const DrawnSizes& n, Dice& dice, json& c) {
  c["attn_config"]["kv_n_heads"] = n.kv_heads;
  c["attn_config"]["clip_qkv"] = dice.coin() ? json(0.5) : json();
  json& ffn = c["ffn_config"];
  ffn["hidden_size"] = n.hidden;
  ffn["ffn_hidden_size"] = dice.number(1, 40);
  ffn["moe_num_experts"] = n.experts;
  ffn["moe_top_k"] = n.k;
  ffn["moe_normalize_expert_weights"] = dice.coin() ? json(1.0) : json();
}

void draw_falcon(const DrawnSizes&, Dice& dice, json& c) {
  c["num_ln_in_parallel_attn"] = dice.coin() ? json(dice.number(1, 2)) : json();
  if (c["new_decoder_architecture"]) c["parallel_attn"] = true;
}

void draw_gpt_neo(const DrawnSizes& n, Dice& dice, json& c) {
  std::vector<std::string> types;
  for (int64_t i = 0; i < n.layers; ++i) types.push_back(dice.coin() ? "global" : "local");
  c["attention_layers"] = types;
  c["attention_types"] = json::array({json::array({types, 1})});
  c["window_size"] = dice.number(1, 9);
}

void draw_llama4(const DrawnSizes& n, Dice& dice, json& c) {
  c["layer_types"] = of_layers(n.layers, {"chunked_attention", "full_attention"}, dice);
  c["attention_chunk_size"] = dice.number(2, 9);
  c["moe_layers"] = some_layers(n.layers, 2, dice);
  std::vector<int64_t> rotates;
  for (int64_t i = 0; i < n.layers; ++i) rotates.push_back(dice.number(0, 1));
  c["no_rope_layers"] = rotates;
  c["floor_scale"] = dice.number(1, 6);
}

void draw_qwen3_next(const DrawnSizes& n, Dice& dice, json& c) {
  c["layer_types"] = of_layers(n.layers, {"linear_attention", "full_attention"}, dice);
  const int64_t keys = dice.number(1, 3);
  c["linear_num_key_heads"] = keys;
  c["linear_num_value_heads"] = keys * dice.number(1, 3);
  c["linear_key_head_dim"] = dice.number(1, 12);
  c["linear_value_head_dim"] = dice.number(1, 12);
}

void draw_deepspeed(const DrawnSizes& n, Dice& dice, json& c) {
  c.erase("checkpoint");
  c["moe_experts"] = {n.experts + 1};
  c["expert_interval"] = dice.number(1, 2);
  c["k"] = dice.number(1, std::min<int64_t>(n.experts + 1, 3));
  c["eval_capacity_factor"] = dice.one_of({0.5, 0.75, 1.0, 2.0});
  c["min_capacity"] = dice.number(0, 4);
  c["drop_tokens"] = !dice.one_in(4);
  c["use_rts"] = dice.coin();
  c["top2_2nd_expert_sampling"] = dice.one_in(3);
  c["mlp_type"] = dice.one_of<std::string>({"standard", "residual"});
  c["mlp_act_func_type"] = dice.one_of<std::string>({"gelu", "relu"});
  c["pre_layer_norm"] = !dice.one_in(4);
  c["mlp_after_attn"] = !c["pre_layer_norm"] || dice.coin();
  c["norm_type"] = dice.one_of<std::string>({"LayerNorm", "RMSNorm"});
  c["rotary_dim"] = dice.coin() ? 2 * dice.number(1, n.head_dim / 2) : -1;
}

}  // namespace

std::vector<std::string> of_layers(int64_t layers, const std::vector<std::string>& types,
                                   Dice& dice) {
  std::vector<std::string> list;
  for (int64_t i = 0; i < layers; ++i) list.push_back(dice.one_of(types));
  return list;
}

std::vector<int64_t> some_layers(int64_t layers, int64_t n, Dice& dice) {
  std::vector<int64_t> list;
  for (int64_t i = 0; i < layers; ++i) {
    if (dice.one_in(n)) list.push_back(i);
  }
  return list;
}

void draw_family_keys(const std::string& family, const DrawnSizes& sizes, Dice& dice,
                      json& config) {
  if (family == "dbrx") draw_dbrx(sizes, dice, config);
  if (family == "falcon") draw_falcon(sizes, dice, config);
  if (family == "gpt_neo") draw_gpt_neo(sizes, dice, config);
  if (family == "llama4_text") draw_llama4(sizes, dice, config);
  if (family == "qwen3_next") draw_qwen3_next(sizes, dice, config);
  if (family == "deepspeed") draw_deepspeed(sizes, dice, config);
  if (family == "lfm2_moe")
    config["layer_types"] = of_layers(sizes.layers, {"conv", "full_attention"}, dice);
}

}  // namespace shunt
