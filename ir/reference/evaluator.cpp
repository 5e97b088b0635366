// The lockstep runner: op by op, over all ranks; eval_<op> per family in the files beside it. Entry
// point Evaluator::run. Tested by tests/ir/evaluator_test.cpp and by every .mir case of a pass.
#include "ir/reference/evaluator.h"

#include <unordered_map>

#include "ir/reference/op_call.h"

namespace shunt::ir {

namespace {

using EvalFn = void (*)(OpCall&);
constexpr EvalFn kEval[] = {
#define SHUNT_EVAL_ROW(name, attrs) &eval_##name,
    SHUNT_OPS(SHUNT_EVAL_ROW)
#undef SHUNT_EVAL_ROW
};

Type concrete(const Type& type, const DimEnv& dims) {
  Type t{type.dtype, {}};
  for (const Dim& d : type.shape) t.shape.emplace_back(d.evaluate(dims));
  return t;
}

void round_floats(Tensor& t) {
  if (t.type.dtype == DType::f32) return;
  for (float& x : t.f) x = round_to(t.type.dtype, x);
}

void check_type(const std::string& what, const Tensor& t, const Type& wanted) {
  const auto n = static_cast<size_t>(wanted.elements().constant());
  const bool filled = is_float(wanted.dtype) ? t.f.size() == n : t.i.size() == n;
  if (t.type != wanted || !filled) {
    user_error("{} : {} with {} elements, expected {}", what, t.type.to_string(), t.elements(),
               wanted.to_string());
  }
}

}  // namespace

struct Evaluator::Rank {
  std::unordered_map<const Value*, Tensor> params, states;
  std::unordered_map<const Value*, Tensor> values;  // of the graph that runs

  Tensor* find(const Graph& graph, const Op& op, const Value* v) {
    if (v == nullptr) return nullptr;
    if (v->is_state()) return &states.at(v);
    if (!v->is_param()) return &values.at(v);
    if (op.kind == OpKind::store) params.try_emplace(v, Tensor::make(v->type));
    const auto it = params.find(v);
    if (it == params.end()) {
      user_error("graph @{}: parameter @{} has no value (load it, or set it)", graph.name, v->name);
    }
    return &it->second;
  }
};

Evaluator::Evaluator(const Module& module, ReferenceOptions options)
    : module_(module), options_(std::move(options)) {
  for (int r = 0; r < module.mesh.size(); ++r) {
    auto rank = std::make_unique<Rank>();
    for (const State& s : module.states) {
      Type rows = s.value->type;
      const bool slot = s.value->state_kind() == StateKind::slot;
      rows.shape.insert(rows.shape.begin(),
                        slot ? options_.slots : options_.pages * module.page_size);
      rank->states[s.value.get()] = Tensor::make(rows);
    }
    ranks_.push_back(std::move(rank));
  }
}

Evaluator::~Evaluator() = default;

void Evaluator::load() {
  if (module_.find_graph("load") != nullptr) run("load", {}, {});
}

void Evaluator::set_param(const std::string& name, Tensor value) {
  const Value* v = module_.find_param(name);
  if (v == nullptr) user_error("module {} has no parameter @{}", module_.name, name);
  check_type("parameter @" + name, value, v->type);
  for (auto& rank : ranks_) rank->params[v] = value;
}

const Tensor* Evaluator::param(const std::string& name) const {
  const auto it = ranks_[0]->params.find(module_.find_param(name));
  return it == ranks_[0]->params.end() ? nullptr : &it->second;
}

const Tensor* Evaluator::state(const std::string& name) const {
  const auto it = ranks_[0]->states.find(module_.find_state(name));
  return it == ranks_[0]->states.end() ? nullptr : &it->second;
}

std::map<std::string, Tensor> Evaluator::run(const std::string& name, const DimEnv& dims,
                                             const std::map<std::string, Tensor>& inputs,
                                             const Probe& probe) {
  const std::vector<Tensors> same(ranks_.size(), inputs);
  const auto first = [&](int rank, const Value& v, const Tensor& t) {
    if (rank == 0 && probe) probe(v, t);
  };
  return std::move(run_ranks(name, dims, same, first)[0]);
}

std::vector<Evaluator::Tensors> Evaluator::run_ranks(const std::string& name, const DimEnv& dims,
                                                     const std::vector<Tensors>& inputs,
                                                     const RankProbe& probe,
                                                     const std::vector<int64_t>& valid_tokens) {
  const Graph* graph = module_.find_graph(name);
  if (graph == nullptr) user_error("module {} has no graph @{}", module_.name, name);
  SHUNT_CHECK(inputs.size() == ranks_.size(), "inputs of {} ranks for {}", inputs.size(),
              ranks_.size());
  for (size_t r = 0; r < ranks_.size(); ++r) {
    ranks_[r]->values.clear();
    for (const auto& input : graph->inputs) {
      const auto it = inputs[r].find(input->name);
      if (it == inputs[r].end()) user_error("graph @{} needs the input %{}", name, input->name);
      check_type("input %" + input->name, it->second, concrete(input->type, dims));
      ranks_[r]->values[input.get()] = it->second;
    }
  }

  std::unordered_map<const Value*, size_t> uses;  // left of each value; 0: it can be dropped
  for (const auto& op : graph->ops) {
    for (const Value* v : op->operands) ++uses[v];
  }
  for (const Value* v : graph->outputs) ++uses[v];

  for (const auto& op : graph->ops) {
    run_op(*graph, *op, dims, valid_tokens, probe);
    for (auto& rank : ranks_) {
      for (const auto& r : op->results) {
        if (uses[r.get()] == 0) rank->values.erase(r.get());
      }
    }
    for (const Value* v : op->operands) {
      if (--uses[v] > 0 || v == nullptr || v->is_param() || v->is_state()) continue;
      for (auto& rank : ranks_) rank->values.erase(v);
    }
  }
  std::vector<Tensors> outputs(ranks_.size());
  for (size_t r = 0; r < ranks_.size(); ++r) {
    for (const Value* v : graph->outputs) outputs[r][v->name] = ranks_[r]->values.at(v);
    ranks_[r]->values.clear();
  }
  return outputs;
}

/// One op on all ranks.
void Evaluator::run_op(const Graph& graph, const Op& op, const DimEnv& dims,
                       const std::vector<int64_t>& valid_tokens, const RankProbe& probe) {
  std::vector<OpCall> calls;
  calls.reserve(ranks_.size());
  for (size_t r = 0; r < ranks_.size(); ++r) {
    OpCall& call = calls.emplace_back(OpCall{op,
                                             options_,
                                             module_.page_size,
                                             {},
                                             {},
                                             &module_.mesh,
                                             static_cast<int>(r),
                                             valid_tokens.empty() ? -1 : valid_tokens[r],
                                             {}});
    for (const Value* v : op.operands) call.operands.push_back(ranks_[r]->find(graph, op, v));
    for (const auto& v : op.results) call.results.push_back(Tensor::make(concrete(v->type, dims)));
  }
  for (size_t r = 0; r < calls.size(); ++r) {
    calls[r].ranks = calls;
    try {
      kEval[static_cast<int>(op.kind)](calls[r]);
    } catch (const UserError& e) {
      user_error("graph @{}: {} {}: {}", graph.name, op.info().name,
                 op.results.empty() ? op.loc : "%" + op.result()->name, e.what());
    }
  }
  for (size_t r = 0; r < calls.size(); ++r) {
    for (size_t i = 0; i < calls[r].results.size(); ++i) {
      round_floats(calls[r].results[i]);
      if (probe) probe(static_cast<int>(r), *op.result(i), calls[r].results[i]);
      ranks_[r]->values[op.result(i)] = std::move(calls[r].results[i]);
    }
  }
}

}  // namespace shunt::ir
