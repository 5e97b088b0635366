// The cpu rows of codegen and the host kernels together, against the reference evaluator: every op
// of @step and
// @sample is emitted, its argument list resolved as the session does, and run.
#include <fmt/core.h>

#include <cstring>
#include <map>
#include <set>

#include "codegen/emit/families.h"
#include "ir/reference/evaluator.h"
#include "tests/runtime/host/host_test.h"

namespace shunt {
namespace {

using namespace host_test;
using ir::OpKind;
using ir::Tensor;

/// Memory of every value, parameter and state of a module; runs graphs op by op through the cpu
/// rows.
class HostRunner : public codegen::StepBuilder {
 public:
  HostRunner(const ir::Module& module, const ir::Graph& graph, DimEnv dims, int64_t pages)
      : dims_(std::move(dims)), context_{find_target("cpu"), module, graph, dims_, false,
                                         module.page_size,   64} {
    for (const ir::State& s : module.states) {
      const int64_t row = s.value->type.elements().constant();
      memory_[s.value.get()].assign(static_cast<size_t>(pages * module.page_size * row) * 4, 0);
    }
  }

  void set(const ir::Value* value, const Tensor& tensor) {
    auto& bytes = memory_[value];
    bytes.resize(static_cast<size_t>(tensor.elements() * dtype_bytes(value->type.dtype)));
    for (size_t i = 0; i < tensor.f.size(); ++i) {
      if (value->type.dtype == DType::f32) {
        std::memcpy(bytes.data() + 4 * i, &tensor.f[i], 4);
      } else {
        const bool bf16 = value->type.dtype == DType::bf16;
        const uint16_t half = bf16 ? bf16_from_f32(tensor.f[i]) : f16_from_f32(tensor.f[i]);
        std::memcpy(bytes.data() + 2 * i, &half, 2);
      }
    }
    if (!tensor.i.empty()) std::memcpy(bytes.data(), tensor.i.data(), bytes.size());
  }
  const std::vector<char>& bytes(const ir::Value* value) { return memory_.at(value); }

  void run(const ir::Op& op) {
    for (const auto& r : op.results) {  // NaN and -1, so that what is never written shows
      memory_[r.get()].assign(static_cast<size_t>(r->type.bytes().evaluate(dims_)), '\xff');
    }
    if (op.kind == OpKind::reshape) {
      memory_[op.result()] = memory_.at(op.operand(0));
      return;
    }
    for (const codegen::KernelImpl& row : codegen::cpu_kernels()) {
      if (row.op != op.kind) continue;
      ASSERT_TRUE(row.supports(op, context_)) << ir::print(op);
      row.emit(op, *this);
      return;
    }
    FAIL() << "no cpu row for " << ir::print(op);
  }

  const codegen::Context& context() const override { return context_; }
  Arg arg(const ir::Value* value) override {
    if (value == nullptr) return {};
    addresses_.push_back(memory_.at(value).data());
    Arg a;
    a.kind = value->is_state() ? Arg::Kind::state : Arg::Kind::buffer;
    a.index = static_cast<int>(addresses_.size()) - 1;
    return a;
  }
  void host_call(std::string_view kernel, std::vector<Arg> args) override {
    std::vector<HostExpr> exprs;
    exprs.reserve(args.size());
    Call call;
    for (const Arg& a : args) {
      switch (a.kind) {
        case Arg::Kind::buffer:
        case Arg::Kind::state: call.p(addresses_[static_cast<size_t>(a.index)]); break;
        case Arg::Kind::i32:
        case Arg::Kind::i64: call.i(a.dim.evaluate(dims_)); break;
        case Arg::Kind::f32: call.f(a.number); break;
        case Arg::Kind::expr: call.e(&exprs.emplace_back(HostExpr::compile(a.text))); break;
        case Arg::Kind::null: call.none(); break;
        case Arg::Kind::rank: FAIL() << "of one rank numbers are given as they are"; break;
        case Arg::Kind::peers: FAIL() << "peer memory is for GPUs"; break;
        case Arg::Kind::dim_ptr: FAIL() << "a host kernel takes dims by value";
      }
    }
    call.run(std::string(kernel).c_str(), pool());
  }
  Arg scratch(int64_t) override { return {}; }
  Arg route_counts(int64_t experts) override {
    counts_.assign(static_cast<size_t>(experts), 0);
    addresses_.push_back(reinterpret_cast<char*>(counts_.data()));
    return {.kind = Arg::Kind::buffer,
            .index = static_cast<int>(addresses_.size()) - 1,
            .dim = {},
            .text = {}};
  }
  Arg dim_ptr(std::string_view) override { return {}; }
  Arg peer_buffer(std::string_view, int64_t) override { return {}; }
  Arg peers(MeshAxis, const Arg&) override { return {}; }
  void launch(const codegen::KernelSource&, LaunchSpec) override {}
  void matmul(Matmul) override {}
  void copy(Copy) override {}
  void fill(Fill) override {}
  void collective(Collective) override {}
  Arg rank_value(const std::vector<int64_t>& by_rank) override { return i32(by_rank.at(0)); }

 private:
  DimEnv dims_;
  codegen::Context context_;
  std::map<const ir::Value*, std::vector<char>> memory_;
  std::vector<char*> addresses_;
  std::vector<int64_t> counts_;
};

Tensor concrete(const Type& type, const DimEnv& dims) {
  Type t = type;
  for (Dim& d : t.shape) d = d.evaluate(dims);
  return Tensor::make(t);
}

Tensor random_tensor(const Type& type, const DimEnv& dims, float scale) {
  Tensor t = concrete(type, dims);
  t.f = random_floats(static_cast<int64_t>(t.f.size()), scale);
  for (float& x : t.f) x = ir::round_to(type.dtype, x);
  return t;
}

/// Evaluator against host kernels on one graph; every result of every op is compared.
void compare(const std::string& text, const DimEnv& dims,
             const std::map<std::string, std::vector<int32_t>>& ints,
             const std::map<std::string, std::vector<float>>& floats = {}) {
  const auto module = ir::parse(text);
  ir::verify(*module);
  const ir::Graph& graph = *module->graphs.back();
  const int64_t pages = 8;
  ir::ReferenceOptions options;
  options.pages = pages;
  ir::Evaluator evaluator(*module, options);
  HostRunner host(*module, graph, dims, pages);
  for (const ir::Param& p : module->params) {
    const Tensor value = random_tensor(p.value->type, dims, 0.3f);
    evaluator.set_param(p.value->name, value);
    host.set(p.value.get(), value);
  }
  std::map<std::string, Tensor> inputs;
  for (const auto& input : graph.inputs) {
    Tensor value = random_tensor(input->type, dims, 1.0f);
    if (const auto it = ints.find(input->name); it != ints.end()) value.i = it->second;
    if (const auto it = floats.find(input->name); it != floats.end()) value.f = it->second;
    host.set(input.get(), value);
    inputs[input->name] = value;
  }
  std::map<std::string, Tensor> wanted;
  evaluator.run(graph.name, dims, inputs,
                [&](const ir::Value& v, const Tensor& t) { wanted[v.name] = t; });
  for (const auto& op : graph.ops) {
    host.run(*op);
    if (testing::Test::HasFatalFailure()) return;
    for (const auto& result : op->results) {
      const Tensor& want = wanted.at(result->name);
      const auto& bytes = host.bytes(result.get());
      for (size_t i = 0; i < want.f.size(); ++i) {
        float got;
        std::memcpy(&got, bytes.data() + 4 * i, 4);
        if (std::isnan(want.f[i])) continue;  // undefined
        expect_near(got, want.f[i], 2e-5,
                    fmt::format("%{}[{}] of {}", result->name, i, ir::print(*op)));
        if (testing::Test::HasFatalFailure()) return;
      }
      for (size_t i = 0; i < want.i.size(); ++i) {
        int32_t got;
        std::memcpy(&got, bytes.data() + 4 * i, 4);
        if (op->kind == OpKind::route_sort && want.i[i] < 0) continue;  // undefined
        ASSERT_EQ(got, want.i[i]) << result->name << "[" << i << "] of " << ir::print(*op);
      }
    }
  }
  for (const ir::State& s : module->states) {
    const Tensor& want = *evaluator.state(s.value->name);
    for (size_t i = 0; i < want.f.size(); ++i) {
      float got;
      std::memcpy(&got, host.bytes(s.value.get()).data() + 4 * i, 4);
      if (!std::isnan(want.f[i])) expect_near(got, want.f[i], 2e-5, s.value->name);
    }
  }
}

const std::string kHead =
    "module @t stage(logical)\npage_size 4\ndim T in [0, 64]\ndim S in [1, 4]\ndim R in [0, 8]\n";

TEST(EmitCpu, EveryOpOfAStepHasARow) {
  std::set<OpKind> rows;
  for (const codegen::KernelImpl& row : codegen::cpu_kernels()) {
    rows.insert(row.op);
    EXPECT_TRUE(row.name.ends_with(".cpu")) << row.name;
  }
  for (OpKind load :
       {OpKind::checkpoint, OpKind::dequantize, OpKind::constant, OpKind::store, OpKind::reshape})
    rows.insert(load);
  for (auto* family : {codegen::collective_kernels, codegen::dispatch_kernels}) {
    for (const codegen::KernelImpl& row : family()) rows.insert(row.op);
  }
#define SHUNT_EXPECT_ROW(name, attrs) EXPECT_TRUE(rows.contains(OpKind::name)) << #name;
  SHUNT_OPS(SHUNT_EXPECT_ROW)
#undef SHUNT_EXPECT_ROW
}

TEST(EmitCpu, RowsMoveAndMap) {
  const std::string text = kHead + R"mir(param @table : bf16[11, 6]
param @nw : bf16[6]
param @nb : f16[6]
graph @step(%ids : i32[T], %y : f32[T, 6], %c : f32[T, 1], %rows : i32[R]) {
  %x = embedding %ids, @table {out = f32, offset = 2} : f32[T, 6]
  %p = pointwise %x, %y, @nw, %c {expr = "(x0 + x1) * x2 - x3", out = f32} : f32[T, 6]
  %q = pointwise %p, %x {expr = "gelu(x0) * x1", out = f32} : f32[T, 6]
  %n = rms_norm %q, @nw {eps = 1e-06, plus_one = true} : f32[T, 6]
  %l = layer_norm %q, @nw, @nb {eps = 1e-05} : f32[T, 6]
  %m = layer_norm %q, @nw, none : f32[T, 6]
  %s, %a = add_norm %x, %y, @nw, none {eps = 1e-06} : f32[T, 6], f32[T, 6]
  %s2, %a2 = add_norm %x, %y, @nw, @nb {kind = layer} : f32[T, 6], f32[T, 6]
  %cat = concat %n, %l, %m {axis = 1} : f32[T, 18]
  %rowcat = concat %n, %l {axis = 0} : f32[2*T, 6]
  %cut = slice %cat {axis = 1, begin = 3, end = 15} : f32[T, 12]
  %glu = glu %cut {expr = "gelu_tanh(gate) * up"} : f32[T, 6]
  %heads = reshape %cut {shape = [T, 3, 4]} : f32[T, 3, 4]
  %tr = transpose %heads : f32[T, 4, 3]
  %g = gather_rows %glu, %rows : f32[R, 6]
  return %g, %a, %s2, %a2, %rowcat, %tr, %s
}
)mir";
  compare(text, {{"T", 5}, {"S", 1}, {"R", 3}}, {{"ids", {0, 8, 3, 3, 5}}, {"rows", {4, 0, 4}}});
  compare(text, {{"T", 0}, {"S", 1}, {"R", 0}}, {{"ids", {}}, {"rows", {}}});
}

TEST(EmitCpu, Linears) {
  const std::string text = kHead + R"mir(param @w : bf16[10, 6]
param @b : f16[10]
param @b5 : f32[5]
graph @step(%x : f32[T, 6], %r : f32[T, 10]) {
  %a = linear %x, @w {out = f32} : f32[T, 10]
  %c = linear %x, @w, @b, %r {epilogue = "relu(acc + x0) + x1", out = f32} : f32[T, 10]
  %d = linear %x, @w, @b5 {epilogue = "silu(gate) * (up + x0)", glu = true, out = f32} : f32[T, 5]
  return %a, %c, %d
}
)mir";
  for (int64_t t : {0, 1, 7, 40}) compare(text, {{"T", t}, {"S", 1}, {"R", 1}}, {});
}

TEST(EmitCpu, MixtureOfExperts) {
  const std::string text = kHead + R"mir(param @nw : bf16[6]
param @router : bf16[8, 6]
param @rb : f32[8]
param @sb : f32[8]
param @w : bf16[8, 10, 6]
param @down : f16[8, 6, 5]
param @b : bf16[8, 5]
graph @step(%x : f32[T, 6], %y : f32[T, 6], %forced : i32[T, 2]) {
  %s, %n, %logits, %w1, %ids = norm_gate %x, %y, @nw, @router, @rb, none, %forced {k = 2, norm = sum, eps = 1e-06} : f32[T, 6], f32[T, 6], f32[T, 8], f32[T, 2], i32[T, 2]
  %s2, %n2, %logits2, %w2, %ids2 = norm_gate %x, none, @nw, @router, none, @sb, none {k = 2, score = sigmoid, plus_one = true} : f32[T, 6], f32[T, 6], f32[T, 8], f32[T, 2], i32[T, 2]
  %w3, %ids3 = topk_gate %logits, @sb, none {k = 2, score = sigmoid, norm = sum, norm_eps = 1e-20, scale = 2.5, groups = 4, keep_groups = 2, group_score = top2_sum} : f32[T, 2], i32[T, 2]
  %w4, %ids4 = topk_gate %logits, none, %forced {k = 2, score = identity, norm = softmax} : f32[T, 2], i32[T, 2]
  %w5, %ids5 = topk_gate %logits, none, %forced {k = 2, score = sparse_mixer, jitter = 0.4} : f32[T, 2], i32[T, 2]
  %w6, %ids6 = topk_gate %logits, none, none {k = 2, norm = sum, norm_min = 0.6} : f32[T, 2], i32[T, 2]
  %g = routed_linear %n, @w, %ids, @b {epilogue = "silu(gate) * up + x0", glu = true, out = f32} : f32[2*T, 5]
  %d = routed_linear %g, @down, %ids {out = f32} : f32[2*T, 6]
  %out = combine_routes %d, %w1, %ids, none : f32[T, 6]
  %offsets, %rows = route_sort %ids {experts = 8} : i32[9], i32[2*T]
  %sg = grouped_linear %n, @w, %offsets, %rows, @b {epilogue = "silu(gate) * up + x0", glu = true, gather = 2, out = f32} : f32[2*T, 5]
  %sd = grouped_linear %sg, @down, %offsets, %rows {out = f32, scatter = true} : f32[2*T, 6]
  %z = combine_routes %sd, %w1, %ids, %x : f32[T, 6]
  return %out, %z, %s, %s2, %n2, %logits2, %w2, %ids2, %w3, %ids3, %w4, %ids4, %w5, %ids5, %w6, %ids6
}
)mir";
  for (int64_t t : {0, 1, 30}) {
    std::vector<int32_t> forced(static_cast<size_t>(2 * t), -1);
    for (size_t i = 0; i + 3 < forced.size(); i += 6) forced[i] = 3;  // its second route is dropped
    for (size_t i = 2; i + 3 < forced.size(); i += 6) forced[i] = 7, forced[i + 1] = 0;
    compare(text, {{"T", t}, {"S", 1}, {"R", 1}}, {{"forced", forced}});
  }
}

TEST(EmitCpu, AttentionOverPages) {
  const std::string text = kHead + R"mir(param @freq : f32[2]
param @qn : bf16[6]
param @kn : f32[6]
param @sinks : bf16[4]
state @k : f32[2, 6]
state @v : f32[2, 6]
state @k2 : f32[2, 6]
state @v2 : f32[2, 5]
graph @step(%qkv : f32[T, 48], %k : f32[T, 2, 6], %v : f32[T, 2, 5], %positions : i32[T], %seq_starts : i32[S+1], %kv_lens : i32[S], %block_tables : i32[S, 3]) {
  %q = rope_append %qkv, %positions, @freq, @qn, @kn, %seq_starts, %block_tables, @k, @v {heads = 4, kv_heads = 2, head_dim = 6, norm = head, eps = 1e-06, plus_one = true, scale = 1.5} : f32[T, 4, 6]
  %kr = rope %k, %positions, @freq {interleaved = true, scale = 0.5} : f32[T, 2, 6]
  kv_append %kr, %v, %positions, %seq_starts, %block_tables, @k2, @v2
  %a = attention %q, %seq_starts, %kv_lens, %block_tables, @k, @v, none {scale = 0.4} : f32[T, 24]
  %b = attention %q, %seq_starts, %kv_lens, %block_tables, @k2, @v2, @sinks {scale = 0.4, window = 3, softcap = 2.0} : f32[T, 20]
  %c = attention %q, %seq_starts, %kv_lens, %block_tables, @k2, @v2 {scale = 0.4, chunk = 4} : f32[T, 20]
  return %a, %b, %c
}
)mir";
  compare(text, {{"T", 12}, {"S", 2}, {"R", 1}},
          {{"positions", {0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4}},
           {"seq_starts", {0, 7, 12}},
           {"kv_lens", {7, 5}},
           {"block_tables", {5, 2, 7, 1, 0, 3}}});
}

TEST(EmitCpu, Sample) {
  const std::string text =
      kHead +
      R"mir(graph @sample(%logits : f32[R, 40], %temperature : f32[R], %top_k : i32[R], %top_p : f32[R], %uniform : f32[R]) {
  %ids = sample %logits, %temperature, %top_k, %top_p, %uniform : i32[R]
  return %ids
}
)mir";
  for (float u : {0.0f, 0.3f, 0.99f}) {
    compare(text, {{"T", 1}, {"S", 1}, {"R", 4}}, {{"top_k", {0, 0, 5, 3}}},
            {{"temperature", {0, 1, 0.7f, 2}},
             {"top_p", {1, 0.8f, 1, 0.5f}},
             {"uniform", {u, u, u, u}}});
  }
}

TEST(EmitCpu, OtherElementTypesAreNotSupported) {
  const std::string text = kHead + R"mir(param @w : bf16[4, 6]
graph @step(%x : bf16[T, 6], %z : f32[T, 6]) {
  %a = linear %x, @w {out = f32} : f32[T, 4]
  %b = linear %z, @w {out = bf16} : bf16[T, 4]
  return %a, %b
}
)mir";
  const auto module = ir::parse(text);
  const codegen::Context context{
      find_target("cpu"), *module, *module->graphs[0], {{"T", 4}}, false, 4, 8};
  for (const auto& op : module->graphs[0]->ops) {
    for (const codegen::KernelImpl& row : codegen::cpu_kernels()) {
      if (row.op == op->kind) {
        EXPECT_FALSE(row.supports(*op, context)) << ir::print(*op);
      }
    }
  }
}

}  // namespace
}  // namespace shunt
