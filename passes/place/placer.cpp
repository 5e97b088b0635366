// The walk over @step. Entry point: Placer::run(). Tested by tests/passes/place.mir.
#include "passes/place/placer.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "ir/error.h"
#include "passes/place/regions.h"

namespace shunt::passes {

using ir::Op;
using ir::OpKind;
using ir::Value;

Placer::Placer(ir::Module& module, const PassOptions& options)
    : module_(module),
      options_(options),
      mesh_(options.mesh),
      step_(*module.find_graph("step")),
      heads_(find_state_heads(step_, MeshAxis::tp, mesh_.tp)),
      tp_wishes_(step_, heads_, MeshAxis::tp, mesh_.tp),
      etp_wishes_(step_, heads_, MeshAxis::etp, mesh_.etp) {}

void Placer::run() {
  module_.mesh = mesh_;
  module_.stage = ir::Stage::placed;
  keep_regions_whole();
  place_states();
  for (at_ = step_.ops.begin(); at_ != step_.ops.end(); ++at_) {
    Op& op = **at_;
    visit(op);
    for (const auto& r : op.results) {
      if (ir::is_pinned(step_, r.get())) finish_pinned(*r);
    }
  }
  if (options_.expert_map) {
    for (const ExpertMapLayer& layer : options_.expert_map->layers) {
      if (!experts_.contains(layer.layer))
        user_error("the expert map has layer {}, where the model has no experts", layer.layer);
    }
  }
  if (mesh_.dp > 1) gather_results();
  rename_params();
}

/// Rank 0 hands out ids, so it needs those of all dp groups; and their logits where asked for.
void Placer::gather_results() {
  const auto gather = [&](ir::Graph& graph, Value* value, const std::string& name) {
    ir::GraphBuilder builder(graph);
    builder.set_loc(value->def->loc);
    return builder.value(OpKind::all_gather, {value},
                         ir::GatherAttrs{0, MeshAxis::dp, mesh_.dp, {}}, name);
  };
  if (ir::Graph* sample = module_.find_graph("sample")) {
    for (Value*& output : sample->outputs) {
      const std::string name = output->name;
      sample->release_name(name);
      output->name = sample->unique_name(name + ".part");
      output = gather(*sample, output, name);
    }
  }
  const auto logits = std::find_if(step_.outputs.begin(), step_.outputs.end(),
                                   [](const Value* v) { return v->name == "logits"; });
  if (options_.gather_logits && logits != step_.outputs.end())
    step_.outputs.push_back(gather(step_, *logits, "all_logits"));
}

void Placer::visit(Op& op) {
  if (kept_whole_.contains(&op)) return keep_whole(op);
  switch (op.kind) {
    case OpKind::linear: return place_linear(op);
    case OpKind::pointwise: return place_pointwise(op);
    case OpKind::reshape: return place_reshape(op);
    case OpKind::rope:
    case OpKind::rms_norm:
    case OpKind::layer_norm:
    case OpKind::slice:
    case OpKind::concat: return place_along(op);
    case OpKind::embedding: return place_embedding(op);
    case OpKind::head_linear: return place_head_linear(op);
    case OpKind::kv_append: return place_kv_append(op);
    case OpKind::attention:
    case OpKind::encoder_attention: return place_attention(op);
    case OpKind::routed_linear: return place_routed_linear(op);
    case OpKind::combine_routes: return place_combine_routes(op);
    default: return keep_whole(op);
  }
}

/// What no rule splits runs on every rank over whole values.
void Placer::keep_whole(Op& op) {
  for (size_t i = 0; i < op.operands.size(); ++i) want_whole(op, i);
  settle(op, {});
}

void Placer::keep_regions_whole() {
  if (options_.keep_whole.empty()) return;
  const std::set<std::string> wanted(options_.keep_whole.begin(), options_.keep_whole.end());
  std::set<std::string> unknown = wanted, names;
  for (const Region& region : find_regions(step_, tp_wishes_)) {
    names.insert(region.name);
    if (!wanted.contains(region.name)) continue;
    unknown.erase(region.name);
    kept_whole_.insert(region.ops.begin(), region.ops.end());
    for (const Op* op : region.ops) {
      for (const Value* v : op->operands) heads_.erase(v);  // of a state
    }
  }
  if (!unknown.empty()) {
    user_error("--keep-whole: nothing that tp {} splits is called '{}' (layers share a name: {})",
               mesh_.tp, *unknown.begin(),
               names.empty() ? "there is none" : fmt::format("{}", fmt::join(names, ", ")));
  }
}

/// A rank keeps the rows of its own kv heads.
void Placer::place_states() {
  for (ir::State& s : module_.states) {
    const auto it = heads_.find(s.value.get());
    if (it != heads_.end() && !it->second.kv.is_whole())
      s.value->type.shape[0] = it->second.kv.size();
  }
}

/// What others look at is whole on every rank, under its own name.
void Placer::finish_pinned(Value& value) {
  if (placement(&value) == Placement{}) return;
  const std::string name = value.name;
  ++at_;
  Value* whole = converted(&value, {});
  --at_;
  step_.release_name(whole->name);
  value.name = step_.unique_name(name + ".part");
  whole->name = name;
  std::replace(step_.outputs.begin(), step_.outputs.end(), &value, whole);
}

}  // namespace shunt::passes
