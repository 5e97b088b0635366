// read_routers(), is_near_tie() and force_near_ties(). Tested by tests/tools/near_ties_test.cpp.
#include "tools/near_ties.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "ir/error.h"
#include "ir/reference/evaluator.h"
#include "ir/reference/math.h"
#include "tools/step_runner.h"

namespace shunt {

namespace {

constexpr double kShift = 0.005;  // of the row's largest logit

/// Leaves only what @load needs for the parameters in `wanted`.
void keep_only(ir::Module& module, const std::set<const ir::Value*>& wanted) {
  ir::Graph* load = module.find_graph("load");
  for (auto it = load->ops.begin(); it != load->ops.end();) {
    const auto next = std::next(it);
    const bool store = (*it)->kind == ir::OpKind::store;
    if (store && !wanted.contains((*it)->operand(1))) ir::erase(*load, it);
    it = next;
  }
  ir::sweep(*load);
}

using Row = std::vector<double>;

/// What the gate ranks, per expert, with each logit moved by `shift`.
Row ranked(const Router& router, const float* logits, double shift) {
  const auto n = static_cast<size_t>(router.experts);
  Row x(logits, logits + n);
  const double top = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (const double l : x) sum += std::exp(l - top);
  for (size_t e = 0; e < n; ++e) {
    const double l = x[e] + shift;
    switch (router.gate.score) {
      case ir::ScoreFunction::softmax: x[e] = std::exp(l - top) / sum; break;
      case ir::ScoreFunction::sigmoid: x[e] = 1 / (1 + std::exp(-l)); break;
      case ir::ScoreFunction::sqrt_softplus:
        x[e] = std::sqrt(std::max(l, 0.0) + std::log1p(std::exp(-std::abs(l))));
        break;
      case ir::ScoreFunction::identity:
      case ir::ScoreFunction::sparse_mixer: x[e] = l; break;
    }
    if (!router.bias.empty()) x[e] += router.bias[e];
  }
  return x;
}

/// Scores of the groups: the largest of each, or the sum of its two largest.
Row group_scores(const Router& router, const Row& x) {
  const auto size = static_cast<std::ptrdiff_t>(x.size()) / router.gate.groups;
  Row out;
  for (auto at = x.begin(); at != x.end(); at += size) {
    Row group(at, at + size);
    std::sort(group.begin(), group.end(), std::greater<>());
    out.push_back(router.gate.group_score == ir::GroupScore::max ? group[0] : group[0] + group[1]);
  }
  return out;
}

/// The `k` largest of x that are `allowed`, the lowest index of equals first.
std::vector<size_t> largest(const Row& x, const std::vector<bool>& allowed, int64_t k) {
  std::vector<size_t> order;
  for (size_t i = 0; i < x.size(); ++i) {
    if (allowed[i]) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return x[a] > x[b]; });
  order.resize(static_cast<size_t>(k));
  return order;
}

/// True if the smallest `low` of the chosen does not clear the largest `high` of the other allowed.
bool may_change(const Row& low, const Row& high, const std::vector<size_t>& chosen,
                std::vector<bool> allowed) {
  double least = std::numeric_limits<double>::infinity(), most = -least;
  for (const size_t i : chosen) {
    least = std::min(least, low[i]);
    allowed[i] = false;
  }
  for (size_t i = 0; i < high.size(); ++i) {
    if (allowed[i]) most = std::max(most, high[i]);
  }
  return least <= most;
}

}  // namespace

std::vector<Router> read_routers(const CompileOptions& options) {
  const auto module = import_module(options, false).module;
  std::vector<Router> routers;
  std::map<std::string, const ir::Value*> biases;  // by router
  for (const auto& op : module->find_graph("step")->ops) {
    if (op->kind != ir::OpKind::topk_gate) continue;
    const ir::Value* logits = op->operand(0);
    const std::string prefix = "router_logits.";
    SHUNT_CHECK(logits->name.starts_with(prefix), "a gate reads %{}", logits->name);
    Router& r = routers.emplace_back();
    r.number = logits->name.substr(prefix.size());
    r.gate = op->as<ir::TopkGateAttrs>();
    r.experts = logits->type.last().constant();
    if (op->operand(1) != nullptr) biases[r.number] = op->operand(1);
  }
  if (biases.empty()) return routers;
  std::set<const ir::Value*> wanted;
  for (const auto& [number, value] : biases) wanted.insert(value);
  keep_only(*module, wanted);
  ir::ReferenceOptions reference;
  reference.checkpoint = checkpoint_reader(options.model_dir);
  ir::Evaluator evaluator(*module, std::move(reference));
  evaluator.load();
  for (Router& r : routers) {
    if (biases.contains(r.number)) r.bias = evaluator.param(biases.at(r.number)->name)->f;
  }
  return routers;
}

bool is_near_tie(const Router& router, const float* logits) {
  const ir::TopkGateAttrs& gate = router.gate;
  double largest_logit = 0;
  for (int64_t e = 0; e < router.experts; ++e) {
    largest_logit = std::max<double>(largest_logit, std::abs(logits[e]));
  }
  const double shift = kShift * largest_logit;
  const Row low = ranked(router, logits, -shift), here = ranked(router, logits, 0),
            high = ranked(router, logits, shift);
  std::vector<bool> allowed(here.size(), true);
  if (gate.groups > 1) {
    const std::vector<bool> all(static_cast<size_t>(gate.groups), true);
    const std::vector<size_t> kept = largest(group_scores(router, here), all, gate.keep_groups);
    if (may_change(group_scores(router, low), group_scores(router, high), kept, all)) return true;
    const size_t size = here.size() / static_cast<size_t>(gate.groups);
    allowed.assign(here.size(), false);
    for (const size_t g : kept) std::fill_n(allowed.begin() + g * size, size, true);
  }
  const std::vector<size_t> chosen = largest(here, allowed, gate.k);
  if (gate.score != ir::ScoreFunction::sparse_mixer) return may_change(low, high, chosen, allowed);
  for (const size_t e : chosen) {  // a weight depends on what was chosen before
    if (may_change(low, high, {e}, allowed)) return true;
    allowed[e] = false;
  }
  return false;
}

ForcedChoices force_near_ties(const std::vector<Router>& routers,
                              const std::vector<const std::map<std::string, Matrix>*>& probes) {
  ForcedChoices out;
  for (const Router& r : routers) {
    if (r.gate.sample_second) {
      ++out.random_layers;
      continue;
    }
    std::vector<int32_t>& rows = out.rows["forced." + r.number];
    std::vector<float> w(static_cast<size_t>(r.gate.k));
    std::vector<int32_t> ids(w.size());
    for (const auto* sequence : probes) {
      const auto it = sequence->find("router_logits." + r.number);
      if (it == sequence->end() || it->second.cols != r.experts) {
        user_error("the golden has no router_logits.{} of {} experts: it belongs to another model",
                   r.number, r.experts);
      }
      for (int64_t t = 0; t < it->second.rows; ++t) {
        const float* logits = it->second.row(t);
        const bool tie = is_near_tie(r, logits);
        out.count += tie;
        std::fill(ids.begin(), ids.end(), -1);
        if (tie) {
          ir::route_row(r.gate, logits, r.experts, r.bias.empty() ? nullptr : r.bias.data(),
                        nullptr, w.data(), ids.data());
        }
        rows.insert(rows.end(), ids.begin(), ids.end());
      }
    }
  }
  return out;
}

}  // namespace shunt
