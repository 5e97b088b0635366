// Cases of the ops with slot states: prompts in chunks, decoding, empty sequences beside others, a
// slot that a new sequence takes over. Entry point recurrent_cases(). Run by op_cpu_test.cpp and
// op_gpu_test.cpp.
#include <cmath>

#include "tests/kernels/op_cases.h"
#include "tests/kernels/op_cases_text.h"

namespace shunt::test {

namespace {

constexpr int kRestart = 3;  // the run in which sequence 1 begins anew

std::vector<OpRun> slot_runs() {
  return {{{5, 1, 17, 2, 3}, false, 5},
          {{40, 3, 64, 1, 130}, false, 5},
          decode_run(5),
          {{1, 66, 0, 2, 20}, false, 5},
          decode_run(5),
          decode_run(3)};
}

/// Decays at most 1, rates in [0, 1]; and the positions of the sequence that begins anew.
void adjust_recurrent(const std::string& name, int run, ir::Tensor& t) {
  if (name == "g") {
    for (float& x : t.f) x = -std::fabs(x);
  }
  if (name == "beta") {
    for (float& x : t.f) x = std::fmin(std::fabs(x), 1.0f);
  }
  if (name != "positions" || run < kRestart) return;
  // Its 66 tokens follow the one of sequence 0; after that, decoding steps.
  const size_t first = 1, count = run == kRestart ? 66 : 1;
  const int32_t from = run == kRestart ? 0 : 66 + run - kRestart - 1;
  for (size_t i = 0; i < count; ++i) t.i[first + i] = from + static_cast<int32_t>(i);
}

/// The same body for decoding, and for prompts.
std::string graphs(const std::string& inputs, const std::string& body) {
  const auto graph = [&](const char* name, const char* dims) {
    return fmt::format(
        "graph @step.{}({}, %positions : i32[T], %seq_starts : i32[S+1], %state_slots : i32[S]) "
        "dims({}) {{\n{}}}\n",
        name, inputs, dims, body);
  };
  return graph("decode.8", "T in [1, 8], S in [1, 8], R in [1, 8]") +
         graph("prefill", "T in [1, 300], S in [1, 8]");
}

struct ConvCase {
  const char* name;
  int64_t channels, taps;
  bool bias;
  const char* epilogue;
};
constexpr ConvCase kConvs[] = {
    {"silu4", 384, 4, false, "silu(acc)"}, {"plain3", 64, 3, false, ""},
    {"bias", 1000, 4, true, "acc * 2"},    {"odd", 37, 2, true, "silu(acc)"},
    {"wide", 8320, 4, false, "silu(acc)"}, {"long", 24, 9, true, ""},
    {"longest", 12, 70, true, ""},
};

OpCase conv_case(const ConvCase& c, const std::string& act, const std::string& state,
                 const std::string& weight) {
  const std::string attrs =
      *c.epilogue ? fmt::format(" {{epilogue = \"{}\"}}", c.epilogue) : std::string();
  const std::string params = fmt::format(
      "state @c slot : {0}[{1}, {2}]\nparam @w : {3}[{2}, {4}]\n{5}", state, c.taps - 1, c.channels,
      weight, c.taps, c.bias ? fmt::format("param @b : bf16[{}]\n", c.channels) : "");
  const std::string body = fmt::format(
      "  %y = causal_conv %x, @w, {}, %positions, %seq_starts, %state_slots, @c{} : {}[T, {}]\n"
      "  return %y\n",
      c.bias ? "@b" : "none", attrs, act, c.channels);
  OpCase out;
  out.name = case_name(fmt::format("causal_conv_{}_{}_{}", c.name, act, state));
  out.module =
      module_text(params + graphs(fmt::format("%x : {}[T, {}]", act, c.channels), body), 300);
  out.runs = slot_runs();
  out.cpu = act == "f32" && state == "f32";
  out.adjust = adjust_recurrent;
  return out;
}

struct DeltaCase {
  const char* name;
  int64_t key_heads, heads, dim, dim_v;
  const char* attrs;
};
constexpr DeltaCase kDeltas[] = {
    {"qwen", 2, 4, 128, 128, "scale = 0.0883883, qk_l2norm = true"},
    {"small", 2, 4, 16, 16, "scale = 0.25, qk_l2norm = true"},
    {"wide", 1, 3, 256, 64, "scale = 0.0625, qk_l2norm = true, eps = 1e-05"},
    {"odd", 3, 3, 20, 36, "qk_l2norm = true"},
    {"plain", 1, 2, 7, 5, "scale = 0.2"},
    {"huge", 1, 1, 1030, 33, "scale = 0.03, qk_l2norm = true"},
    {"many", 16, 32, 64, 128, "scale = 0.125, qk_l2norm = true"},
};

OpCase delta_case(const DeltaCase& c, const std::string& act, const std::string& state) {
  const int64_t width = 2 * c.key_heads * c.dim + c.heads * c.dim_v;
  const std::string body = fmt::format(
      "  %y = gated_delta_rule %qkv, %g, %beta, %positions, %seq_starts, %state_slots, @s "
      "{{key_heads = {}, {}}} : {}[T, {}, {}]\n  return %y\n",
      c.key_heads, c.attrs, act, c.heads, c.dim_v);
  OpCase out;
  out.name = case_name(fmt::format("gated_delta_rule_{}_{}_{}", c.name, act, state));
  out.module = module_text(
      fmt::format("state @s slot : {}[{}, {}, {}]\n", state, c.heads, c.dim, c.dim_v) +
          graphs(fmt::format("%qkv : {0}[T, {1}], %g : f32[T, {2}], %beta : f32[T, {2}]", act,
                             width, c.heads),
                 body),
      300);
  out.runs = slot_runs();
  out.cpu = act == "f32" && state == "f32";
  out.adjust = adjust_recurrent;
  out.slack = 8;  // rounding goes on through the state
  return out;
}

}  // namespace

std::vector<OpCase> recurrent_cases() {
  std::vector<OpCase> cases;
  for (const ConvCase& c : kConvs) {
    cases.push_back(conv_case(c, "f32", "f32", "f32"));
    cases.push_back(conv_case(c, "bf16", "bf16", "bf16"));
  }
  cases.push_back(conv_case(kConvs[0], "f16", "f16", "bf16"));
  cases.push_back(conv_case(kConvs[3], "bf16", "f32", "f16"));
  for (const DeltaCase& c : kDeltas) {
    cases.push_back(delta_case(c, "f32", "f32"));
    cases.push_back(delta_case(c, "bf16", "f32"));
  }
  cases.push_back(delta_case(kDeltas[0], "f16", "f32"));
  cases.push_back(delta_case(kDeltas[1], "bf16", "bf16"));
  return cases;
}

}  // namespace shunt::test
