// The whole decoder around its layers. Entry point: build_module. Tested by
// tests/frontends/families_test.cpp (golden modules) and builder_test.cpp.
#include "frontends/builder.h"

#include <algorithm>

#include "frontends/layers.h"
#include "frontends/weights.h"
#include "ir/error.h"

namespace shunt {

using ir::OpKind;
using ir::Value;

namespace {

const Dim kTokens = Dim::symbol("T");
const Dim kSequences = Dim::symbol("S");
const Dim kRows = Dim::symbol("R");

Value* scaled(StepContext& ctx, const std::string& expr, Value* x, DType out,
              const std::string& name) {
  return ctx.step.value(OpKind::pointwise, {x}, ir::PointwiseAttrs{expr, out}, name);
}

/// The embedding table's rows as the first layer reads them: scaled, with learned positions and
/// token types, normed, each where the model has it.
Value* build_embedding(StepContext& ctx, Value* tokens, Value** table) {
  const Architecture& a = ctx.arch;
  const int64_t width = a.embedding_size == 0 ? a.hidden_size : a.embedding_size;
  *table = ctx.weights.tensor("embedding", a.names.embedding, {a.vocab_size, width});
  ctx.step.set_loc(a.names.embedding.substr(0, a.names.embedding.rfind('.')));
  const bool project = width != a.hidden_size;
  const bool scale = a.embedding_scale != 1, positions = a.position_rows > 0;
  const bool types = a.token_types > 0, norm = a.embedding_norm.has_value();
  // The last of the steps makes hidden.0.
  const auto name = [&](const char* own, bool more) { return more ? own : "hidden.0"; };
  Value* x =
      ctx.step.value(OpKind::embedding, {tokens, *table}, ir::EmbeddingAttrs{ctx.activation, 0},
                     name("embedded", project || scale || positions || types || norm));
  if (project) {
    x = build_linear(ctx, x, "project_in", a.names.project_in, a.hidden_size, false, false);
  }
  if (scale) {
    x = scaled(ctx, fmt::format("x0 * {}", a.embedding_scale), x, ctx.activation,
               name("embedded_scaled", positions || types || norm));
  }
  if (positions) {
    Value* rows = ctx.weights.tensor("positions_table", a.names.positions + ".weight",
                                     {a.position_rows, a.hidden_size});
    Value* row = ctx.step.value(OpKind::embedding, {ctx.positions, rows},
                                ir::EmbeddingAttrs{ctx.activation, a.position_offset}, "position");
    x = ctx.step.value(OpKind::pointwise, {x, row}, ir::PointwiseAttrs{"x0 + x1", ctx.activation},
                       name("placed", types || norm));
  }
  if (types) {
    const std::vector<int64_t> whole = {a.token_types, a.hidden_size};
    Value* row = ctx.weights.derived(
        "token_type", a.names.token_types + ".weight", whole, {a.hidden_size},
        [&](ir::GraphBuilder& load, Value* all) {
          Value* first = load.value(OpKind::slice, {all}, ir::SliceAttrs{0, 0, 1});
          return load.value(OpKind::reshape, {first}, ir::ReshapeAttrs{{a.hidden_size}});
        });
    x = ctx.step.value(OpKind::pointwise, {x, row}, ir::PointwiseAttrs{"x0 + x1", ctx.activation},
                       name("typed", norm));
  }
  if (norm) {
    x = build_norm(ctx, *a.embedding_norm, x, "embedding_norm", a.names.embedding_norm, "hidden.0");
  }
  return x;
}

/// dense, activation, norm between the last layer and the logits.
Value* build_head_transform(StepContext& ctx, Value* x) {
  const Architecture& a = ctx.arch;
  ctx.step.set_loc(a.names.head_dense);
  x = build_linear(ctx, x, "head_dense", a.names.head_dense, a.hidden_size, true, false);
  x = scaled(ctx, a.head->activation + "(x0)", x, ctx.activation, "head_activated");
  ctx.step.set_loc(a.names.head_norm);
  return build_norm(ctx, a.head->norm, x, "head_norm", a.names.head_norm, "head_normed");
}

/// Final norm and language head, on the rows that need logits only.
Value* build_head(StepContext& ctx, Value* x, Value* logit_rows, Value* table) {
  const Architecture& a = ctx.arch;
  const std::string last = fmt::format("hidden.{}", a.layers.size());
  ctx.step.set_loc(a.names.final_norm);
  x = ctx.step.value(OpKind::gather_rows, {x, logit_rows}, {},
                     a.final_norm && !a.hidden_before_norm ? "rows" : last);
  if (a.final_norm) {
    x = build_norm(ctx, *a.final_norm, x, "final_norm", a.names.final_norm,
                   a.hidden_before_norm ? "final_normed" : last);
  }
  if (!a.has_head) return scaled(ctx, "x0", x, DType::f32, "hidden");
  if (a.head) x = build_head_transform(ctx, x);
  const int64_t width = table->type.last().constant();
  if (width != a.hidden_size) {
    x = build_linear(ctx, x, "project_out", a.names.project_out, width, false, false);
  }
  ctx.step.set_loc(a.names.lm_head.substr(0, a.names.lm_head.rfind('.')));
  if (a.tied_embeddings) {
    ctx.weights.ignore(a.names.lm_head, "the embedding table is used in its place");
  } else {
    table = ctx.weights.tensor("lm_head", a.names.lm_head, {a.vocab_size, width});
  }
  const bool plain = a.logit_scale == 1 && a.logit_softcap == 0;
  const std::string own = plain ? "logits" : "raw_logits";
  Value* logits = ctx.step.value(OpKind::linear, {x, table}, ir::LinearAttrs{"", false, DType::f32},
                                 a.lm_head_bias ? "logits_matmul" : own);
  if (a.lm_head_bias) {
    Value* bias = ctx.weights.tensor("lm_head_bias", a.names.lm_head_bias, {a.vocab_size});
    logits = ctx.step.value(OpKind::pointwise, {logits, bias},
                            ir::PointwiseAttrs{"x0 + x1", DType::f32}, own);
  }
  if (plain) return logits;
  std::string expr = a.logit_scale == 1 ? "x0" : fmt::format("x0 * {}", a.logit_scale);
  if (a.logit_softcap > 0) expr = fmt::format("{0} * tanh(({1}) / {0})", a.logit_softcap, expr);
  return scaled(ctx, expr, logits, DType::f32, "logits");
}

void build_step(const Architecture& a, const BuildOptions& options, ir::Module& module,
                Weights& weights) {
  ir::Graph& graph = module.add_graph("step");
  ir::GraphBuilder step(graph);
  StepContext ctx{module,
                  step,
                  weights,
                  a,
                  options.activation,
                  options.force_routing,
                  options.limits.max_model_len};
  const int64_t page = options.limits.page_size;
  const int64_t pages = (options.limits.max_model_len + page - 1) / page;
  Value* tokens = step.input("tokens", {DType::i32, {kTokens}});
  ctx.positions = step.input("positions", {DType::i32, {kTokens}});
  ctx.seq_starts = step.input("seq_starts", {DType::i32, {kSequences + 1}});
  ctx.kv_lens = step.input("kv_lens", {DType::i32, {kSequences}});
  ctx.block_tables = step.input("block_tables", {DType::i32, {kSequences, pages}});
  const bool recurrent = std::any_of(a.layers.begin(), a.layers.end(), [](const Layer& layer) {
    return !std::holds_alternative<std::monostate>(layer.recurrent);
  });
  if (recurrent) ctx.state_slots = step.input("state_slots", {DType::i32, {kSequences}});
  Value* logit_rows = step.input("logit_rows", {DType::i32, {kRows}});

  Value* table = nullptr;
  Value* x = build_embedding(ctx, tokens, &table);
  const auto layers = static_cast<int64_t>(a.layers.size());
  for (int64_t i = 0; i < layers; ++i) {
    x = build_layer(ctx, i, x, i + 1 < layers ? fmt::format("hidden.{}", i + 1) : "last");
  }
  graph.outputs = {build_head(ctx, x, logit_rows, table)};
}

void build_sample(const Architecture& a, ir::Module& module) {
  ir::Graph& graph = module.add_graph("sample");
  ir::GraphBuilder sample(graph);
  Value* logits = sample.input("logits", {DType::f32, {kRows, a.vocab_size}});
  Value* temperature = sample.input("temperature", {DType::f32, {kRows}});
  Value* top_k = sample.input("top_k", {DType::i32, {kRows}});
  Value* top_p = sample.input("top_p", {DType::f32, {kRows}});
  Value* uniform = sample.input("uniform", {DType::f32, {kRows}});
  sample.set_loc("sample");
  graph.outputs = {
      sample.value(OpKind::sample, {logits, temperature, top_k, top_p, uniform}, {}, "ids")};
}

}  // namespace

BuiltModule build_module(const Architecture& arch, const Checkpoint* checkpoint,
                         const BuildOptions& options) {
  auto module = std::make_unique<ir::Module>();
  module->name = arch.family;
  module->page_size = options.limits.page_size;
  module->dims = {{"T", 1, options.limits.max_num_batched_tokens},
                  {"S", 1, options.limits.max_num_seqs},
                  {"R", 1, options.limits.max_logit_rows}};
  module->add_graph("load");
  Weights weights(*module, checkpoint, arch.config_dtype, arch.init_stddev, options.source,
                  arch.quantization);
  build_step(arch, options, *module, weights);
  weights.ignore_prefixes(arch.ignored_prefixes, "belongs to a part that is not run");
  build_sample(arch, *module);
  return {std::move(module), weights.unused()};
}

}  // namespace shunt
