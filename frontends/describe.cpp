// Lists the fields of an Architecture. Entry point: describe(). Tested by
// tests/frontends/explain_test.cpp.
//
// Each function takes its struct apart by a structured binding: a field that is added to
// architecture.h does not compile here until it has a place in the list.
#include "frontends/describe.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "ir/attrs_text.h"

namespace shunt {

namespace {

/// Names and values of one struct and those within it; "attention.rope.theta".
class Lister {
 public:
  using Fields = std::vector<std::pair<std::string, std::string>>;
  Lister(std::string prefix, Fields& fields) : prefix_(std::move(prefix)), fields_(fields) {}

  template <class T>
  void add(const char* name, const T& value);
  template <class T>
  void add(const char* name, const std::optional<T>& value);
  template <class... T>
  void add(const char* name, const std::variant<T...>& value);

 private:
  std::string prefix_;
  Fields& fields_;
};

void list(Lister& l, const Rope& value);
void list(Lister& l, const Norm& value);
void list(Lister& l, const HeadNorms& value);
void list(Lister& l, const QueryTemperature& value);
void list(Lister& l, const LatentAttention& value);
void list(Lister& l, const Attention& value);
void list(Lister& l, const ShortConv& value);
void list(Lister& l, const GatedDeltaNet& value);
void list(Lister& l, const DenseMlp& value);
void list(Lister& l, const MoeMlp& value);
void list(Lister& l, const Layer& value);
void list(Lister& l, const HeadTransform& value);
void list(Lister& l, const Quantization& value);
void list(Lister& l, const ir::TopkGateAttrs& value);

template <class T>
constexpr bool kHasList = requires(Lister& l, const T& value) {
  list(l, value);
};

template <class T>
void Lister::add(const char* name, const T& value) {
  if constexpr (kHasList<T>) {
    Lister inner(prefix_ + name + ".", fields_);
    list(inner, value);
  } else if constexpr (std::is_same_v<T, std::string>) {
    fields_.emplace_back(prefix_ + name, value.empty() ? "\"\"" : value);
  } else if constexpr (std::is_same_v<T, Rope::Scaling>) {
    constexpr const char* kNames[] = {"none", "linear", "llama3", "yarn", "longrope"};
    fields_.emplace_back(prefix_ + name, kNames[static_cast<size_t>(value)]);
  } else {
    fields_.emplace_back(prefix_ + name, ir::print_attr(value));
  }
}

template <class T>
void Lister::add(const char* name, const std::optional<T>& value) {
  if (value) {
    add(name, *value);
  } else {
    fields_.emplace_back(prefix_ + name, "none");
  }
}

/// By its fields: alternatives have names of their own for what they do not share.
template <class... T>
void Lister::add(const char* name, const std::variant<T...>& value) {
  std::visit(
      [&]<class V>(const V& v) {
        if constexpr (!std::is_same_v<V, std::monostate>) add(name, v);
      },
      value);
}

#define SHUNT_ADD(field) l.add(#field, field)

void list(Lister& l, const Rope& value) {
  const auto& [theta, rotary_dim, interleaved, scale, scaling, factor, low_freq_factor,
               high_freq_factor, original_positions, beta_fast, beta_slow, truncate, mscale_all_dim,
               short_factors, long_factors, short_scale, long_scale] = value;
  SHUNT_ADD(theta), SHUNT_ADD(rotary_dim), SHUNT_ADD(interleaved), SHUNT_ADD(scale),
      SHUNT_ADD(scaling), SHUNT_ADD(factor), SHUNT_ADD(low_freq_factor),
      SHUNT_ADD(high_freq_factor), SHUNT_ADD(original_positions), SHUNT_ADD(beta_fast),
      SHUNT_ADD(beta_slow), SHUNT_ADD(truncate), SHUNT_ADD(mscale_all_dim),
      SHUNT_ADD(short_factors), SHUNT_ADD(long_factors), SHUNT_ADD(short_scale),
      SHUNT_ADD(long_scale);
}

void list(Lister& l, const Norm& value) {
  const auto& [kind, eps, plus_one, bias] = value;
  SHUNT_ADD(kind), SHUNT_ADD(eps), SHUNT_ADD(plus_one), SHUNT_ADD(bias);
}

void list(Lister& l, const HeadNorms& value) {
  const auto& [over, kind, eps, after_rope, has_weight, plus_one] = value;
  SHUNT_ADD(over), SHUNT_ADD(kind), SHUNT_ADD(eps), SHUNT_ADD(after_rope), SHUNT_ADD(has_weight),
      SHUNT_ADD(plus_one);
}

void list(Lister& l, const QueryTemperature& value) {
  const auto& [floor_scale, attn_scale] = value;
  SHUNT_ADD(floor_scale), SHUNT_ADD(attn_scale);
}

void list(Lister& l, const LatentAttention& value) {
  const auto& [q_rank, kv_rank, nope_dim, value_dim, norm] = value;
  SHUNT_ADD(q_rank), SHUNT_ADD(kv_rank), SHUNT_ADD(nope_dim), SHUNT_ADD(value_dim), SHUNT_ADD(norm);
}

void list(Lister& l, const Attention& value) {
  const auto& [heads, kv_heads, head_dim, qkv_bias, o_bias, qk_norm, clip_qkv, rope, temperature,
               latent, scale, window, chunk, softcap, sinks, alibi, output_gate] = value;
  SHUNT_ADD(heads), SHUNT_ADD(kv_heads), SHUNT_ADD(head_dim), SHUNT_ADD(qkv_bias),
      SHUNT_ADD(o_bias), SHUNT_ADD(qk_norm), SHUNT_ADD(clip_qkv), SHUNT_ADD(rope),
      SHUNT_ADD(temperature), SHUNT_ADD(latent), SHUNT_ADD(scale), SHUNT_ADD(window),
      SHUNT_ADD(chunk), SHUNT_ADD(softcap), SHUNT_ADD(sinks), SHUNT_ADD(alibi),
      SHUNT_ADD(output_gate);
}

void list(Lister& l, const ShortConv& value) {
  const auto& [kernel, bias] = value;
  SHUNT_ADD(kernel), SHUNT_ADD(bias);
}

void list(Lister& l, const GatedDeltaNet& value) {
  const auto& [key_heads, heads, key_dim, value_dim, kernel, activation, norm] = value;
  SHUNT_ADD(key_heads), SHUNT_ADD(heads), SHUNT_ADD(key_dim), SHUNT_ADD(value_dim),
      SHUNT_ADD(kernel), SHUNT_ADD(activation), SHUNT_ADD(norm);
}

void list(Lister& l, const DenseMlp& value) {
  const auto& [width, activation, gated, bias] = value;
  SHUNT_ADD(width), SHUNT_ADD(activation), SHUNT_ADD(gated), SHUNT_ADD(bias);
}

void list(Lister& l, const MoeMlp& value) {
  const auto& [experts, width, activation, inner, gate, router_bias, selection_bias, expert_bias,
               gated, residual, weight_on_input, shared, shared_gate] = value;
  SHUNT_ADD(experts), SHUNT_ADD(width), SHUNT_ADD(activation), SHUNT_ADD(inner), SHUNT_ADD(gate),
      SHUNT_ADD(router_bias), SHUNT_ADD(selection_bias), SHUNT_ADD(expert_bias), SHUNT_ADD(gated),
      SHUNT_ADD(residual), SHUNT_ADD(weight_on_input), SHUNT_ADD(shared), SHUNT_ADD(shared_gate);
}

void list(Lister& l, const Layer& value) {
  const auto& [attention_norm, attention_out_norm, attention_sum_norm, attention, recurrent,
               mlp_norm, mlp_out_norm, mlp_sum_norm, mlp, parallel, residual_of_norm] = value;
  SHUNT_ADD(attention_norm), SHUNT_ADD(attention_out_norm), SHUNT_ADD(attention_sum_norm),
      SHUNT_ADD(attention), SHUNT_ADD(recurrent), SHUNT_ADD(mlp_norm), SHUNT_ADD(mlp_out_norm),
      SHUNT_ADD(mlp_sum_norm), SHUNT_ADD(mlp), SHUNT_ADD(parallel), SHUNT_ADD(residual_of_norm);
}

void list(Lister& l, const HeadTransform& value) {
  const auto& [activation, norm] = value;
  SHUNT_ADD(activation), SHUNT_ADD(norm);
}

void list(Lister& l, const Quantization& value) {
  const auto& [method, group_rows, group_columns, left_out] = value;
  l.add("method", std::string(method_name(method)));
  SHUNT_ADD(group_rows), SHUNT_ADD(group_columns), SHUNT_ADD(left_out);
}

void list(Lister& l, const ir::TopkGateAttrs& value) {
  std::apply([&](const auto&... field) { (l.add(field.name, value.*field.member), ...); },
             ir::TopkGateAttrs::fields());
}

/// Everything but the layers and the names of checkpoint tensors.
void list_rest(Lister& l, const Architecture& value) {
  const auto& [family, vocab_size, hidden_size, embedding_size, max_positions, tied_embeddings,
               embedding_scale, position_rows, position_offset, token_types, embedding_norm,
               residual_scale, logit_scale, logit_softcap, lm_head_bias, causal, head, has_head,
               layers, final_norm, hidden_before_norm, names, ignored_prefixes, init_stddev,
               quantization, config_dtype] = value;
  SHUNT_ADD(family), SHUNT_ADD(vocab_size), SHUNT_ADD(hidden_size), SHUNT_ADD(embedding_size),
      SHUNT_ADD(max_positions), SHUNT_ADD(tied_embeddings), SHUNT_ADD(embedding_scale),
      SHUNT_ADD(position_rows), SHUNT_ADD(position_offset), SHUNT_ADD(token_types),
      SHUNT_ADD(embedding_norm), SHUNT_ADD(residual_scale), SHUNT_ADD(logit_scale),
      SHUNT_ADD(logit_softcap), SHUNT_ADD(lm_head_bias), SHUNT_ADD(causal), SHUNT_ADD(head),
      SHUNT_ADD(has_head), SHUNT_ADD(final_norm), SHUNT_ADD(hidden_before_norm),
      SHUNT_ADD(init_stddev), SHUNT_ADD(config_dtype), SHUNT_ADD(quantization);
  static_cast<void>(layers), static_cast<void>(names), static_cast<void>(ignored_prefixes);
}

#undef SHUNT_ADD

}  // namespace

std::string Attribute::text() const {
  std::vector<std::pair<std::string, int>> counts;  // in order of appearance
  for (const std::string& value : values) {
    const auto it = std::ranges::find(counts, value, &std::pair<std::string, int>::first);
    if (it != counts.end()) {
      ++it->second;
    } else {
      counts.emplace_back(value, 1);
    }
  }
  if (counts.size() == 1) return counts[0].first;
  std::string text;
  for (const auto& [value, count] : counts) {
    if (value.empty()) continue;
    text += fmt::format("{}{} in {} layer{}", text.empty() ? "" : ", ", value, count,
                        count > 1 ? "s" : "");
  }
  return text;
}

std::vector<Attribute> describe(const Architecture& architecture) {
  Lister::Fields fields;
  Lister rest("", fields);
  list_rest(rest, architecture);
  std::vector<Attribute> all;
  for (auto& [name, value] : fields) all.push_back({std::move(name), {std::move(value)}});
  all.push_back({"layers", {fmt::format("{}", architecture.layers.size())}});
  std::map<std::string, size_t> place;  // of a layer's attribute in `all`
  for (size_t i = 0; i < architecture.layers.size(); ++i) {
    fields.clear();
    Lister layer("layer.", fields);
    list(layer, architecture.layers[i]);
    for (auto& [name, value] : fields) {
      const auto [it, fresh] = place.emplace(name, all.size());
      if (fresh) all.push_back({name, std::vector<std::string>(architecture.layers.size())});
      all[it->second].values[i] = std::move(value);
    }
  }
  return all;
}

}  // namespace shunt
