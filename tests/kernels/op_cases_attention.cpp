// Cases of attention with paged state, written by kv_append or rope_append: ragged prefill with
// earlier context, decoding of sequences of unequal length. Entry point attention_cases(). Run by
// op_cpu_test.cpp and op_gpu_test.cpp.
#include "tests/kernels/op_cases.h"
#include "tests/kernels/op_cases_text.h"

namespace shunt::test {

namespace {

struct Heads {
  int64_t heads, kv_heads, dim, dim_v;
};

constexpr int64_t kMaxLength = 1024;

struct AttentionCase {
  const char* name;
  Heads h;
  const char* attrs;  // beside scale
  bool sinks;
  int64_t page;
  int64_t length = kMaxLength;
};

constexpr AttentionCase kCases[] = {
    {"mha", {2, 2, 64, 64}, "", false, 16},
    {"gqa2", {4, 2, 16, 16}, "", false, 16},
    {"gqa3", {3, 1, 20, 20}, "", true, 16},
    {"gqa4", {8, 2, 128, 128}, "", false, 64},
    {"gqa5", {5, 1, 80, 80}, "softcap = 2", false, 16},
    {"gqa8", {8, 1, 64, 64}, "", true, 64},
    {"gqa12", {12, 1, 32, 32}, "", false, 4},
    {"gqa16", {16, 1, 128, 128}, "", false, 16},
    {"gqa32", {32, 1, 16, 16}, "window = 33", false, 16},
    {"d256", {2, 1, 256, 256}, "", false, 16},
    {"d8", {4, 4, 8, 8}, "window = 7", false, 16},
    {"dv", {4, 2, 48, 32}, "", true, 16},
    {"dv_odd", {2, 1, 24, 20}, "chunk = 64", false, 1},
    {"window", {4, 1, 64, 64}, "window = 100", false, 16},
    {"window1", {2, 1, 32, 32}, "window = 1", true, 16},
    {"chunk", {4, 2, 64, 64}, "chunk = 128, softcap = 30", false, 16},
};

/// How attention.decode cuts the work: heads of eight sequences that fill the GPU, with some blocks
/// to spare or none, and a ring of several tiles; few blocks a sequence; and so many splits of one
/// sequence that they are joined in two rounds.
constexpr AttentionCase kCutCases[] = {
    {"many", {20, 20, 64, 64}, "", true, 16},
    {"many_gqa", {68, 17, 32, 48}, "softcap = 3", false, 4},
    {"many_d256", {34, 17, 256, 256}, "window = 300", false, 64},
    {"whole", {40, 40, 128, 128}, "", false, 16},
    {"one_split", {32, 16, 64, 64}, "", false, 64},
    {"one_split_d256", {20, 10, 256, 256}, "", true, 16},
    {"two_passes", {40, 2, 64, 32}, "", true, 16},
    {"long", {8, 1, 64, 64}, "", false, 64, 4096},
    {"long_gqa16", {16, 1, 128, 128}, "window = 2900", true, 16, 4096},
};

/// Lengths: several pages, one token, exactly a page, one more; then a ragged prefill on top, and
/// decoding of five of up to eight sequences, twice.
std::vector<OpRun> long_runs() {
  return {{{5, 1, 17, 64, 3}, false, 5},
          {{700, 3, 64, 150, 1}, false, 5},
          {{1, 66, 2, 1, 20}, false, 5},
          decode_run(5),
          decode_run(5),
          decode_run(3)};
}

/// Decoding where the new token begins a tile of 16 keys, a step or a split, ends one, or neither.
std::vector<OpRun> cut_runs(int64_t length) {
  if (length > kMaxLength) {
    return {{{700, 300}, false, 2}, {{700, 300}, false, 2}, {{800, 160}, false, 2},
            {{808, 8}, false, 2},   decode_run(2),          decode_run(1),
            decode_run(2)};
  }
  return {{{640, 128, 127, 16, 15, 1}, false, 6}, decode_run(6), decode_run(6), decode_run(4)};
}

std::string states(const Heads& h, const std::string& kv) {
  return fmt::format("state @k : {}[{}, {}]\nstate @v : {}[{}, {}]\n", kv, h.kv_heads, h.dim, kv,
                     h.kv_heads, h.dim_v);
}

/// One graph: kv_append and, unless it is only to fill the state, attention.
std::string append_graph(const AttentionCase& c, const std::string& act, const char* name,
                         const char* dims, bool attend) {
  const Heads& h = c.h;
  std::string text = fmt::format(
      "graph @step.{name}(%q : {t}[T, {hq}, {d}], %k : {t}[T, {hk}, {d}], %v : {t}[T, {hk}, {dv}], "
      "%positions : i32[T], %seq_starts : i32[S+1], %kv_lens : i32[S], %block_tables : i32[S, "
      "{b}]) "
      "dims({dims}) {{\n"
      "  kv_append %k, %v, %positions, %seq_starts, %block_tables, @k, @v\n",
      fmt::arg("name", name), fmt::arg("t", act), fmt::arg("hq", h.heads),
      fmt::arg("hk", h.kv_heads), fmt::arg("d", h.dim), fmt::arg("dv", h.dim_v),
      fmt::arg("b", c.length / c.page), fmt::arg("dims", dims));
  if (!attend) return text + "  return\n}\n";
  text += fmt::format(
      "  %a = attention %q, %seq_starts, %kv_lens, %block_tables, @k, @v, {} {{scale = 0.4{}{}}} : "
      "{}[T, {}]\n  return %a\n}}\n",
      c.sinks ? "@sinks" : "none", *c.attrs ? ", " : "", c.attrs, act, h.heads * h.dim_v);
  return text;
}

/// What such graphs share, in front of them.
std::string append_module(const AttentionCase& c, const std::string& kv,
                          const std::string& graphs) {
  const std::string sinks = c.sinks ? fmt::format("param @sinks : bf16[{}]\n", c.h.heads) : "";
  return module_text(states(c.h, kv) + sinks + graphs, 1000, c.page);
}

OpCase append_case(const AttentionCase& c, const std::string& act, const std::string& kv) {
  OpCase out;
  out.name = case_name(fmt::format("attention_{}_{}_{}", c.name, act, kv));
  out.module = append_module(
      c, kv,
      append_graph(c, act, "decode.8", "T in [1, 8], S in [1, 8], R in [1, 8]", true) +
          append_graph(c, act, "prefill", "T in [1, 200], S in [1, 8]", true) +
          append_graph(c, act, "fill", "T in [201, 1000], S in [1, 8]", false));
  out.runs = long_runs();
  out.cpu = act == "f32" && kv == "f32";
  out.slack = 2;  // the weights of the keys are rounded, too
  return out;
}

OpCase cut_case(const AttentionCase& c, const std::string& act) {
  OpCase out = append_case(c, act, act);
  out.name = case_name(fmt::format("attention_cut_{}_{}", c.name, act));
  out.module += append_graph(c, act, "decode.1", "T in [1, 1], S in [1, 1], R in [1, 1]", true);
  out.runs = cut_runs(c.length);
  return out;
}

/// More sequences than a warp has lanes, of very different lengths: blocks that are dealt out in
/// two rounds, four of them on a multiprocessor, pages that are larger than some sequences.
constexpr AttentionCase kBatchCases[] = {
    {"kv1", {4, 1, 64, 64}, "", false, 16},
    {"one_wave", {64, 8, 64, 64}, "window = 500", true, 16},
    {"uneven_dims", {4, 1, 192, 128}, "chunk = 128, softcap = 30", false, 256},
};

OpCase batch_case(const AttentionCase& c, const std::string& act) {
  OpCase out;
  out.name = case_name(fmt::format("attention_batch_{}_{}", c.name, act));
  out.module = append_module(
      c, act,
      append_graph(c, act, "decode.64", "T in [1, 64], S in [1, 64], R in [1, 64]", true) +
          append_graph(c, act, "fill", "T in [1, 1000], S in [1, 64]", false));
  std::vector<int64_t> mixed, one(40, 1);
  for (int64_t i = 0; i < 40; ++i) mixed.push_back(1 + i * 37 % 48);
  one[35] = 900;
  out.runs = {{mixed, false, 1}, {one, false, 1}, decode_run(40),
              decode_run(33),    decode_run(40),  decode_run(64)};
  out.cpu = act == "f32";
  out.slack = 2;
  return out;
}

/// rope_append in front of attention.
struct RopeCase {
  const char* name;
  int64_t heads, kv_heads, dim, rotary;
  const char* norm;  // none, head, full
  const char* attrs;
};
constexpr RopeCase kRopeCases[] = {
    {"plain", 4, 2, 64, 64, "none", ""},
    {"partial", 4, 1, 80, 20, "none", ", interleaved = true, scale = 1.25"},
    {"head", 8, 2, 128, 128, "head", ", eps = 1e-06"},
    {"full", 4, 4, 32, 32, "full", ", plus_one = true"},
    {"head_small", 3, 1, 8, 4, "head", ", plus_one = true"},
    {"no_rope", 2, 1, 16, 0, "head", ""},
    {"d256", 2, 1, 256, 256, "none", ""},
    {"full_odd", 5, 1, 20, 10, "full", ""},
    {"many", 40, 8, 64, 64, "full", ", interleaved = true"},
};

OpCase rope_case(const RopeCase& c, const std::string& act, const std::string& kv) {
  const bool norm = std::string(c.norm) != "none", full = std::string(c.norm) == "full";
  std::string params = states({c.heads, c.kv_heads, c.dim, c.dim}, kv);
  if (c.rotary > 0) params += fmt::format("param @inv_freq : f32[{}]\n", c.rotary / 2);
  if (norm) {
    params += fmt::format("param @qn : bf16[{}]\nparam @kn : f32[{}]\n",
                          full ? c.heads * c.dim : c.dim, full ? c.kv_heads * c.dim : c.dim);
  }
  const auto graph = [&](const char* name, const char* dims, bool attend) {
    std::string text = fmt::format(
        "graph @step.{name}(%qkv : {t}[T, {w}], %positions : i32[T], %seq_starts : i32[S+1], "
        "%kv_lens : i32[S], %block_tables : i32[S, {b}]) dims({dims}) {{\n"
        "  %q = rope_append %qkv, %positions, {freq}, {qn}, {kn}, %seq_starts, %block_tables, @k, "
        "@v {{heads = {h}, kv_heads = {hk}, head_dim = {d}, norm = {norm}{attrs}}} : "
        "{t}[T, {h}, {d}]\n",
        fmt::arg("name", name), fmt::arg("t", act),
        fmt::arg("w", (c.heads + 2 * c.kv_heads) * c.dim), fmt::arg("b", kMaxLength / 16),
        fmt::arg("dims", dims), fmt::arg("freq", c.rotary > 0 ? "@inv_freq" : "none"),
        fmt::arg("qn", norm ? "@qn" : "none"), fmt::arg("kn", norm ? "@kn" : "none"),
        fmt::arg("h", c.heads), fmt::arg("hk", c.kv_heads), fmt::arg("d", c.dim),
        fmt::arg("norm", c.norm), fmt::arg("attrs", c.attrs));
    if (!attend) return text + "  return %q\n}\n";
    return text + fmt::format(
                      "  %a = attention %q, %seq_starts, %kv_lens, %block_tables, @k, @v {{scale = "
                      "0.2}} : {}[T, {}]\n  return %q, %a\n}}\n",
                      act, c.heads * c.dim);
  };
  OpCase out;
  out.name = case_name(fmt::format("rope_append_{}_{}_{}", c.name, act, kv));
  out.module =
      module_text(params + graph("decode.8", "T in [1, 8], S in [1, 8], R in [1, 8]", true) +
                      graph("prefill", "T in [1, 200], S in [1, 8]", true) +
                      graph("fill", "T in [201, 1000], S in [1, 8]", false),
                  1000);
  out.runs = long_runs();
  out.cpu = act == "f32" && kv == "f32";
  out.slack = 4;  // q and the keys are rounded before attention reads them
  return out;
}

/// attention over rows that begin with their values, as DeepSeek caches them.
OpCase latent_case(const char* name, int64_t heads, int64_t kv_heads, int64_t dim, int64_t dim_v,
                   const char* attrs, bool sinks, const std::string& act, const std::string& kv) {
  const auto graph = [&](const char* regime, const char* dims, bool attend) {
    std::string text = fmt::format(
        "graph @step.{name}(%q : {t}[T, {h}, {d}], %k : {t}[T, {hk}, {d}], %positions : i32[T], "
        "%seq_starts : i32[S+1], %kv_lens : i32[S], %block_tables : i32[S, {b}]) dims({dims}) {{\n"
        "  kv_append %k, none, %positions, %seq_starts, %block_tables, @kv, none\n",
        fmt::arg("name", regime), fmt::arg("t", act), fmt::arg("h", heads),
        fmt::arg("hk", kv_heads), fmt::arg("d", dim), fmt::arg("b", kMaxLength / 16),
        fmt::arg("dims", dims));
    if (!attend) return text + "  return\n}\n";
    return text + fmt::format(
                      "  %a = attention %q, %seq_starts, %kv_lens, %block_tables, @kv, none, {} "
                      "{{scale = 0.2, value_dim = {}{}}} : {}[T, {}]\n  return %a\n}}\n",
                      sinks ? "@sinks" : "none", dim_v, attrs, act, heads * dim_v);
  };
  OpCase out;
  out.name = case_name(fmt::format("attention_latent_{}_{}_{}", name, act, kv));
  out.module = module_text(fmt::format("state @kv : {}[{}, {}]\n", kv, kv_heads, dim) +
                               (sinks ? fmt::format("param @sinks : bf16[{}]\n", heads) : "") +
                               graph("decode.1", "T in [1, 1], S in [1, 1], R in [1, 1]", true) +
                               graph("decode.8", "T in [1, 8], S in [1, 8], R in [1, 8]", true) +
                               graph("prefill", "T in [1, 200], S in [1, 8]", true) +
                               graph("fill", "T in [201, 1000], S in [1, 8]", false),
                           1000);
  out.runs = long_runs();
  out.runs.push_back(decode_run(1));
  out.cpu = act == "f32" && kv == "f32";
  out.slack = 2;  // the weights of the keys are rounded, too
  return out;
}

void add_latent(std::vector<OpCase>& cases) {
  cases.push_back(latent_case("v2_lite", 16, 1, 576, 512, "", false, "bf16", "bf16"));
  cases.push_back(latent_case("v3", 128, 1, 576, 512, "", false, "bf16", "bf16"));
  cases.push_back(latent_case("h20", 20, 1, 288, 256, ", window = 100", true, "f16", "f16"));
  cases.push_back(latent_case("h40", 40, 1, 160, 128, ", softcap = 2", false, "bf16", "bf16"));
  cases.push_back(latent_case("groups", 6, 2, 96, 64, ", chunk = 128", true, "bf16", "bf16"));
  cases.push_back(latent_case("small", 4, 1, 40, 32, "", false, "bf16", "bf16"));
  cases.push_back(latent_case("small", 4, 1, 40, 32, "", true, "f32", "f32"));
  cases.push_back(latent_case("odd", 3, 1, 21, 13, ", window = 33", false, "f32", "f32"));
  cases.push_back(latent_case("mixed", 4, 1, 64, 64, "", false, "f32", "bf16"));
}

/// encoder_attention: short, long and single-token sequences, tiles that end anywhere.
OpCase encoder_case(const char* name, const Heads& h, const std::string& t) {
  OpCase out;
  out.name = case_name(fmt::format("encoder_attention_{}_{}", name, t));
  out.module = module_text(
      fmt::format("graph @step(%q : {t}[T, {hq}, {d}], %k : {t}[T, {hk}, {d}], "
                  "%v : {t}[T, {hk}, {dv}], %seq_starts : i32[S+1]) {{\n"
                  "  %a = encoder_attention %q, %k, %v, %seq_starts {{scale = 0.3}} : "
                  "{t}[T, {w}]\n  return %a\n}}\n",
                  fmt::arg("t", t), fmt::arg("hq", h.heads), fmt::arg("hk", h.kv_heads),
                  fmt::arg("d", h.dim), fmt::arg("dv", h.dim_v), fmt::arg("w", h.heads * h.dim_v)),
      400);
  out.runs = {{{1}}, {{5, 1, 17, 64, 3}}, {{130, 2, 63}}, {{300}}};
  out.cpu = t == "f32";
  out.slack = 2;  // the weights of the keys are rounded, too
  return out;
}

}  // namespace

std::vector<OpCase> attention_cases() {
  std::vector<OpCase> cases;
  for (const char* t : {"f32", "bf16", "f16"}) {
    cases.push_back(encoder_case("mha", {4, 4, 16, 16}, t));
    cases.push_back(encoder_case("gqa", {6, 2, 64, 48}, t));
    cases.push_back(encoder_case("odd", {3, 1, 20, 12}, t));
    cases.push_back(encoder_case("d256", {2, 2, 256, 256}, t));
  }
  add_latent(cases);
  int index = 0;
  for (const AttentionCase& c : kCases) {
    cases.push_back(append_case(c, "f32", "f32"));
    cases.push_back(append_case(c, "bf16", "bf16"));
    if (index % 2 == 0) cases.push_back(append_case(c, "f16", "f16"));
    if (index % 5 == 0) cases.push_back(append_case(c, "f32", "bf16"));
    if (index % 5 == 1) cases.push_back(append_case(c, "bf16", "f32"));
    ++index;
  }
  for (const AttentionCase& c : kCutCases) {
    cases.push_back(cut_case(c, index++ % 2 == 0 ? "bf16" : "f16"));
  }
  for (const AttentionCase& c : kBatchCases) {
    cases.push_back(batch_case(c, "f32"));
    cases.push_back(batch_case(c, index++ % 2 == 0 ? "bf16" : "f16"));
  }
  for (const RopeCase& c : kRopeCases) {
    cases.push_back(rope_case(c, "f32", "f32"));
    cases.push_back(rope_case(c, index % 2 == 0 ? "bf16" : "f16", index % 2 == 0 ? "bf16" : "f16"));
    if (index % 4 == 0) cases.push_back(rope_case(c, "bf16", "f16"));
    ++index;
  }
  return cases;
}

}  // namespace shunt::test
