// A hand-written plan of the cpu target: a language model small enough to read, with everything an
// engine needs.
//   h = table[tokens]; append h as keys and values; a = attention(h); logits = a[logit_rows] . w^T
// The next token depends on all tokens before it, so that a wrong page, position or length shows.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "runtime/plan/plan.h"

namespace shunt::test {

inline constexpr int64_t kVocab = 16, kHidden = 8, kTinyPageSize = 4, kTinyMaxLen = 32;
inline constexpr int64_t kTinyTokens = 12, kTinySeqs = 4, kTinyRows = 4;

class TinyPlan {
 public:
  Plan plan;

  TinyPlan() {
    plan.compiler = "test";
    plan.target = "cpu";
    plan.activation_dtype = "f32";
    plan.model.name = "tiny";
    plan.model.vocab_size = kVocab;
    plan.model.eos_ids = {0};
    plan.limits = {kTinyMaxLen, kTinySeqs, kTinyTokens, kTinyRows, kTinyPageSize};
    plan.dims = {{"R", 1, kTinyRows}, {"S", 1, kTinySeqs}, {"T", 1, kTinyTokens}};
    table = param("embed", {DType::f32, {Dim(kVocab), Dim(kHidden)}});
    head = param("head", {DType::f32, {Dim(kVocab), Dim(kHidden)}});
    plan.states = {{"l0.k", {DType::f32, {Dim(1), Dim(kHidden)}}},
                   {"l0.v", {DType::f32, {Dim(1), Dim(kHidden)}}}};
    for (const char* name :
         {"embedding", "kv_append", "attention", "gather_rows", "linear", "sample"}) {
      plan.kernels.push_back({name, ""});
    }
    ports();
    h = workspace("hidden.0", {DType::f32, {T, Dim(kHidden)}}, kTinyTokens * kHidden * 4);
    a = workspace("attended", {DType::f32, {T, Dim(kHidden)}}, kTinyTokens * kHidden * 4);
    g = workspace("rows", {DType::f32, {R, Dim(kHidden)}}, kTinyRows * kHidden * 4);
    programs();
  }

  const Dim T = Dim::symbol("T"), S = Dim::symbol("S"), R = Dim::symbol("R");
  int table, head, h, a, g;

  static Arg buffer(int index) {
    return {.kind = Arg::Kind::buffer, .index = index, .dim = {}, .text = {}};
  }
  static Arg state(int index) {
    return {.kind = Arg::Kind::state, .index = index, .dim = {}, .text = {}};
  }
  static Arg integer(const DimExpr& value) {
    return {.kind = Arg::Kind::i64, .dim = value, .text = {}};
  }
  static Arg real(double value) {
    return {.kind = Arg::Kind::f32, .dim = {}, .number = value, .text = {}};
  }
  Arg port(const char* role) const {
    return buffer(plan.ports[static_cast<size_t>(plan.find_port(role))].buffer);
  }

 private:
  int add_buffer(std::string name, Arena arena, Type type, int64_t bytes, int64_t& arena_bytes) {
    plan.buffers.push_back({std::move(name), arena, arena_bytes, bytes, std::move(type)});
    arena_bytes += (bytes + 255) / 256 * 256;
    return static_cast<int>(plan.buffers.size()) - 1;
  }
  int param(const char* name, Type type) {
    return add_buffer(name, Arena::weights, type, type.bytes().constant(), plan.weights_bytes);
  }
  int workspace(const char* name, Type type, int64_t bytes) {
    return add_buffer(name, Arena::workspace, std::move(type), bytes, plan.workspace_bytes);
  }
  void port(const char* role, Type type, int64_t bytes, bool output = false) {
    plan.ports.push_back(
        {role, add_buffer(role, Arena::io, std::move(type), bytes, plan.io_bytes), output});
  }
  void ports() {
    const int64_t blocks = kTinyMaxLen / kTinyPageSize;
    port("tokens", {DType::i32, {T}}, kTinyTokens * 4);
    port("positions", {DType::i32, {T}}, kTinyTokens * 4);
    port("seq_starts", {DType::i32, {S + Dim(1)}}, (kTinySeqs + 1) * 4);
    port("kv_lens", {DType::i32, {S}}, kTinySeqs * 4);
    port("block_tables", {DType::i32, {S, Dim(blocks)}}, kTinySeqs * blocks * 4);
    port("logit_rows", {DType::i32, {R}}, kTinyRows * 4);
    port("temperature", {DType::f32, {R}}, kTinyRows * 4);
    port("top_k", {DType::i32, {R}}, kTinyRows * 4);
    port("top_p", {DType::f32, {R}}, kTinyRows * 4);
    port("uniform", {DType::f32, {R}}, kTinyRows * 4);
    port("logits", {DType::f32, {R, Dim(kVocab)}}, kTinyRows * kVocab * 4, true);
    port("ids", {DType::i32, {R}}, kTinyRows * 4, true);
  }

  Step call(int kernel, std::vector<Arg> args, std::vector<int> writes) {
    Step s;
    Launch l;
    l.kernel = kernel;
    l.args = std::move(args);
    s.name = plan.kernels[static_cast<size_t>(kernel)].name;
    s.loc = "model";
    s.what = std::move(l);
    s.bytes = DimExpr(T * Dim(kHidden * 8));
    s.writes = std::move(writes);
    return s;
  }
  Step constant(int to, uint32_t seed) {
    Constant c{buffer(to), {}};
    for (int64_t i = 0; i < kVocab * kHidden; ++i) {
      seed = seed * 1664525u + 1013904223u;
      c.values.push_back(static_cast<float>(seed >> 8) / 8388608.0f - 1.0f);  // in [-1, 1)
    }
    Step s;
    s.what = std::move(c);
    s.name = "constant";
    s.writes = {to};
    return s;
  }
  std::vector<Step> step_steps() {
    const Arg f32 = integer(DimExpr(static_cast<int64_t>(DType::f32)));
    const auto n = [](int64_t v) { return integer(DimExpr(v)); };
    const auto d = [](const Dim& v) { return integer(DimExpr(v)); };
    const int64_t blocks = kTinyMaxLen / kTinyPageSize, page = kTinyPageSize, H = kHidden;
    return {
        call(0, {port("tokens"), buffer(table), f32, d(T), n(kVocab), n(H), n(0), n(0), n(0),
              buffer(h)}, {h}),
        call(1,
             {buffer(h), buffer(h), port("positions"), port("seq_starts"), port("block_tables"),
              state(0), state(1), d(T), d(S), n(blocks), n(1), n(H), n(H), n(page)},
             {}),
        call(2,
             {buffer(h),
              port("seq_starts"),
              port("kv_lens"),
              port("block_tables"),
              state(0),
              state(1),
              Arg{},
              f32,
              Arg{},
              f32,
              d(T),
              d(S),
              n(blocks),
              n(1),
              n(1),
              n(H),
              n(H),
              n(page),
              real(1.0),
              n(0),
              n(0),
              real(0.0),
              buffer(a)},
             {a}),
        call(3, {buffer(a), port("logit_rows"), d(T), d(R), n(H), buffer(g)}, {g}),
        call(4,
             {buffer(g), buffer(head), f32, d(R), n(kVocab), n(H), n(0), Arg{}, port("logits"),
              n(0)},
             {port("logits").index}),
    };
  }
  void programs() {
    Program load;
    load.name = load.graph = "load";
    load.dims = plan.dims;
    load.steps = {constant(table, 1), constant(head, 2)};
    plan.programs.push_back(load);
    for (const int64_t bucket : {int64_t{1}, int64_t{4}}) {
      Program decode;
      decode.name = "step.decode." + std::to_string(bucket);
      decode.graph = "step";
      decode.decode = true;
      decode.dims = {{"R", 1, kTinyRows}, {"S", 1, kTinySeqs}, {"T", bucket == 1 ? 1 : 2, bucket}};
      decode.steps = step_steps();
      decode.workspace_bytes = plan.workspace_bytes;
      plan.programs.push_back(decode);
    }
    Program prefill;
    prefill.name = "step.prefill.12";
    prefill.graph = "step";
    prefill.dims = plan.dims;
    prefill.steps = step_steps();
    prefill.workspace_bytes = plan.workspace_bytes;
    plan.programs.push_back(prefill);
    Program sample;
    sample.name = sample.graph = "sample";
    sample.dims = plan.dims;
    sample.steps = {
        call(5,
             {port("logits"), port("temperature"), port("top_k"), port("top_p"), port("uniform"),
              integer(DimExpr(R)), integer(DimExpr(kVocab)), port("ids")},
             {port("ids").index})};
    plan.programs.push_back(sample);
  }
};

inline Plan tiny_plan() { return TinyPlan().plan; }

}  // namespace shunt::test
