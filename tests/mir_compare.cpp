// compare_modules_by_evaluation: are two modules the same function? Made for the tests of passes;
// declared in tests/mir_cases.h.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "ir/error.h"
#include "ir/reference/evaluator.h"
#include "tests/mir_cases.h"

namespace shunt {

namespace {

using ir::Evaluator;
using ir::Graph;
using ir::Module;
using ir::Op;
using ir::OpKind;
using ir::Tensor;
using ir::Value;
using Random = std::mt19937;

/// The same numbers for the same name in every module and every run.
Random random_by_name(const std::string& name) {
  uint32_t seed = 2166136261u;  // FNV-1a, since std::hash is not fixed
  for (char c : name) seed = (seed ^ static_cast<unsigned char>(c)) * 16777619u;
  return Random(seed);
}

Tensor random_floats(const Type& type, Random random) {
  Tensor t = Tensor::make(type);
  for (float& x : t.f) {
    double sum = -6;  // of 12 uniform numbers: about normal, and the same on every C++ library
    for (int i = 0; i < 12; ++i) sum += random() * 0x1p-32;
    x = ir::round_to(type.dtype, static_cast<float>(0.6 * sum));
  }
  return t;
}

Type concrete(const Type& type, const DimEnv& dims) {
  Type t{type.dtype, {}};
  for (const Dim& d : type.shape) t.shape.emplace_back(d.evaluate(dims));
  return t;
}

DimEnv choose_dims(const Module& module, const Graph& graph) {
  DimEnv dims;
  for (const auto* list : {&module.dims, &graph.dims}) {
    for (const DimDecl& d : *list) {
      const int64_t wanted = d.name == "T" ? 7 : d.name == "S" ? 2 : d.name == "R" ? 3 : 5;
      dims[d.name] = std::clamp(wanted, d.min, d.max);
    }
  }
  return dims;
}

using Batch = MirBatch;

/// What an integer input means, told by the op that reads it.
enum class Meaning {
  unknown,
  below,
  route_ids,
  forced,
  positions,
  seq_starts,
  kv_lens,
  block_tables,
  state_slots,
  offsets,
  rows
};
struct Use {
  Meaning meaning = Meaning::unknown;
  int64_t bound = 1;  // ids are below it
};

Use use_of(const Op& op, size_t i, const DimEnv& dims) {
  const auto size = [&](size_t operand, size_t axis) {
    return op.operands[operand]->type.shape[axis].evaluate(dims);
  };
  const auto is = [&](OpKind kind, size_t operand) { return op.kind == kind && i == operand; };
  if (is(OpKind::embedding, 0))
    return {Meaning::below, size(1, 0) - op.as<ir::EmbeddingAttrs>().offset};
  if (is(OpKind::gather_rows, 1)) return {Meaning::below, size(0, 0)};
  if (is(OpKind::sample, 2)) return {Meaning::below, 4};
  if (is(OpKind::routed_linear, 2)) return {Meaning::route_ids, size(1, 0)};
  if (is(OpKind::route_sort, 0)) return {Meaning::route_ids, op.as<ir::RouteSortAttrs>().experts};
  if (is(OpKind::topk_gate, 2)) return {Meaning::forced, size(0, 1)};
  if (is(OpKind::norm_gate, 6)) return {Meaning::forced, size(3, 0)};
  if (is(OpKind::grouped_linear, 2)) return {Meaning::offsets, size(3, 0)};
  if (is(OpKind::grouped_linear, 3)) return {Meaning::rows, 0};
  const bool recurrent = op.kind == OpKind::causal_conv || op.kind == OpKind::gated_delta_rule;
  if (recurrent && i >= 3 && i <= 5) {
    constexpr Meaning kMeanings[] = {Meaning::positions, Meaning::seq_starts, Meaning::state_slots};
    return {kMeanings[i - 3]};
  }
  if (is(OpKind::rope, 1) || is(OpKind::kv_append, 2) || is(OpKind::rope_append, 1))
    return {Meaning::positions};
  if (is(OpKind::kv_append, 3) || is(OpKind::rope_append, 5) || is(OpKind::attention, 1)) {
    return {Meaning::seq_starts};
  }
  if (is(OpKind::attention, 2)) return {Meaning::kv_lens};
  if (is(OpKind::kv_append, 4) || is(OpKind::rope_append, 6) || is(OpKind::attention, 3)) {
    return {Meaning::block_tables};
  }
  return {};
}

Use use_of(const Value& input, const DimEnv& dims) {
  for (const Op* user : input.users) {
    for (size_t i = 0; i < user->operands.size(); ++i) {
      if (user->operands[i] != &input) continue;
      const Use use = use_of(*user, i, dims);
      if (use.meaning != Meaning::unknown) return use;
    }
  }
  return {};
}

/// Rows of distinct expert ids. The last row of routes ends in a dropped one; every other forced
/// row is not forced.
void fill_ids(Tensor& t, int64_t experts, bool forced, Random& random) {
  const int64_t k = t.last();
  std::vector<int32_t> order(static_cast<size_t>(std::max(experts, k)));
  for (int64_t row = 0; row < t.size(0); ++row) {
    std::iota(order.begin(), order.end(), 0);
    for (size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[random() % (i + 1)]);
    for (int64_t j = 0; j < k; ++j) t.i[row * k + j] = forced && row % 2 == 0 ? -1 : order[j];
  }
  if (!forced && k > 1 && !t.i.empty()) t.i.back() = -1;
}

void fill_ints(Tensor& t, const Use& use, const Batch& batch, Random& random) {
  const auto n = static_cast<int64_t>(t.i.size());
  std::fill(t.i.begin(), t.i.end(), 0);
  switch (use.meaning) {
    case Meaning::unknown: break;
    case Meaning::below:
      for (int32_t& x : t.i) x = static_cast<int32_t>(random() % std::max<int64_t>(use.bound, 1));
      break;
    case Meaning::route_ids: fill_ids(t, use.bound, false, random); break;
    case Meaning::forced: fill_ids(t, use.bound, true, random); break;
    case Meaning::positions: {
      size_t at = 0;
      for (size_t s = 0; s < batch.tokens.size(); ++s) {
        for (int64_t j = 0; j < batch.tokens[s] && at < t.i.size(); ++j) {
          t.i[at++] = static_cast<int32_t>(batch.past[s] + j);
        }
      }
      break;
    }
    case Meaning::seq_starts:
      for (size_t s = 1; s < t.i.size(); ++s)
        t.i[s] = t.i[s - 1] + static_cast<int32_t>(batch.tokens[s - 1]);
      break;
    case Meaning::kv_lens:
      for (size_t s = 0; s < t.i.size(); ++s)
        t.i[s] = static_cast<int32_t>(batch.past[s] + batch.tokens[s]);
      break;
    case Meaning::state_slots:   // a sequence's own
    case Meaning::block_tables:  // no two sequences share a page, and pages are not in order
      for (int64_t i = 0; i < n; ++i) t.i[i] = static_cast<int32_t>(n - 1 - i);
      break;
    case Meaning::offsets:
      for (int64_t e = 0; e < n; ++e) t.i[e] = static_cast<int32_t>(use.bound * e / (n - 1));
      break;
    case Meaning::rows:
      for (int64_t r = 0; r < n; ++r) t.i[r] = static_cast<int32_t>(n - 1 - r);
      break;
  }
}

Tensor make_input(const Value& input, const DimEnv& dims, const Batch& batch, int step) {
  const Type type = concrete(input.type, dims);
  Random random = random_by_name(input.name + std::to_string(step));
  if (type.dtype == DType::i32) {
    Tensor t = Tensor::make(type);
    fill_ints(t, use_of(input, dims), batch, random);
    return t;
  }
  Tensor t = random_floats(type, random);
  for (size_t i = 0; i < t.f.size(); ++i) {
    if (input.name == "temperature") t.f[i] = 0.7f * static_cast<float>(i % 3);
    if (input.name == "top_p" || input.name == "uniform")
      t.f[i] = std::abs(std::fmod(t.f[i], 1.0f));
  }
  return t;
}

/// Elements agree within `tolerance` of their size or of the tensor's usual size; NaN agrees with
/// NaN only.
testing::AssertionResult same(const std::string& what, const Tensor& a, const Tensor& b,
                              double tolerance) {
  if (a.type != b.type) {
    return testing::AssertionFailure()
           << what << ": " << a.type.to_string() << " became " << b.type.to_string();
  }
  if (a.i != b.i) return testing::AssertionFailure() << what << ": integers differ";
  double squares = 0;
  size_t finite = 0;
  for (float x : a.f) {
    if (std::isfinite(x)) squares += static_cast<double>(x) * x, ++finite;
  }
  const double usual = finite == 0 ? 0 : std::sqrt(squares / static_cast<double>(finite));
  for (size_t i = 0; i < a.f.size(); ++i) {
    const float x = a.f[i], y = b.f[i];
    if (std::isnan(x) && std::isnan(y)) continue;
    if (x == y || std::abs(x - y) <= tolerance * std::max<double>(std::abs(x), usual)) continue;
    return testing::AssertionFailure()
           << what << "[" << i << "]: " << x << " became " << y << ", tolerance " << tolerance
           << " (root mean square " << usual << ")";
  }
  return testing::AssertionSuccess();
}

/// By the narrowest type in which a value is stored between ops or steps. Weights do not count:
/// both read the same.
double tolerance_of(const Module& module) {
  double tolerance = 1e-5;
  const auto see = [&](DType dtype) {
    if (dtype == DType::f16) tolerance = std::max(tolerance, 0.01);
    if (dtype == DType::bf16) tolerance = std::max(tolerance, 0.06);
  };
  for (const auto& s : module.states) see(s.value->type.dtype);
  for (const auto& graph : module.graphs) {
    if (graph->name == "load") continue;
    for (const auto& op : graph->ops) {
      for (const auto& r : op->results) see(r->type.dtype);
    }
  }
  return tolerance;
}

/// A module with parameters, ready to run.
class Subject {
 public:
  Subject(const Module& module, int64_t pages)
      : module_(module),
        evaluator_(
            module,
            {pages, [](const auto& name, DType dtype, const auto& shape) {
               return random_floats({dtype, {shape.begin(), shape.end()}}, random_by_name(name));
             }}) {
    evaluator_.load();
    for (const auto& p : module.params) {
      if (evaluator_.param(p.value->name) != nullptr) continue;
      unloaded_.push_back(p.value->name);
      evaluator_.set_param(p.value->name,
                           random_floats(p.value->type, random_by_name(p.value->name)));
    }
  }

  std::map<std::string, Tensor> run(const Graph& graph, const DimEnv& dims,
                                    const std::map<std::string, Tensor>& inputs) {
    std::map<std::string, Tensor> seen;
    auto outputs = evaluator_.run(graph.name, dims, inputs, [&](const Value& v, const Tensor& t) {
      if (ir::is_pinned(graph, &v)) seen[v.name] = t;
    });
    seen.merge(outputs);
    return seen;
  }

  const Module& module() const { return module_; }
  const Evaluator& evaluator() const { return evaluator_; }
  /// Parameters that @load does not store.
  const std::vector<std::string>& unloaded() const { return unloaded_; }

 private:
  const Module& module_;
  Evaluator evaluator_;
  std::vector<std::string> unloaded_;
};

int64_t pages_needed(const Graph& graph, const DimEnv& dims) {
  int64_t pages = 1;
  for (const auto& input : graph.inputs) {
    if (use_of(*input, dims).meaning != Meaning::block_tables) continue;
    pages = std::max(pages, input->type.elements().evaluate(dims));
  }
  return pages;
}

/// Tokens a sequence may have, by its block table; a large number without one.
int64_t longest_allowed(const Module& module, const Graph& graph, const DimEnv& dims) {
  for (const auto& input : graph.inputs) {
    if (use_of(*input, dims).meaning == Meaning::block_tables) {
      return input->type.last().evaluate(dims) * module.page_size;
    }
  }
  return int64_t{1} << 30;
}

testing::AssertionResult compare_step(Subject& before, const Graph& a, Subject& after,
                                      const Graph& b, const DimEnv& dims, const Batch& batch,
                                      int step, double tolerance) {
  std::map<std::string, Tensor> inputs;
  for (const auto& input : a.inputs) inputs[input->name] = make_input(*input, dims, batch, step);
  const auto wanted = before.run(a, dims, inputs);
  const auto got = after.run(b, dims, inputs);
  for (const auto& [name, tensor] : wanted) {
    const auto it = got.find(name);
    const std::string what = "graph @" + b.name + ": %" + name;
    if (it == got.end()) return testing::AssertionFailure() << what << " is gone";
    if (auto result = same(what, tensor, it->second, tolerance); !result) return result;
  }
  for (const auto& s : before.module().states) {
    const Tensor* mine = before.evaluator().state(s.value->name);
    const Tensor* other = after.evaluator().state(s.value->name);
    if (after.evaluator().ranks() > 1) continue;  // each rank has rows of its own heads
    if (other == nullptr) continue;  // swept: its graph no longer reads it, and outputs agree
    if (auto result = same("state @" + s.value->name, *mine, *other, tolerance); !result)
      return result;
  }
  return testing::AssertionSuccess();
}

testing::AssertionResult compare_graphs(const Module& before, const Graph& a, const Module& after,
                                        const Graph& b) {
  const DimEnv dims = choose_dims(after, b);
  const int64_t pages = pages_needed(a, dims);
  Subject first(before, pages), second(after, pages);
  for (const std::string& name : second.unloaded()) {
    const auto& known = first.unloaded();
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return testing::AssertionFailure()
             << "parameter @" << name << " is new, and @load does not store it";
    }
  }
  const double tolerance = std::max(tolerance_of(before), tolerance_of(after));
  const auto size = [&](const char* name) { return dims.count(name) == 0 ? 1 : dims.at(name); };
  Batch batch = Batch::make(size("T"), size("S"));
  for (int step = 0; step < 2; ++step, batch.advance()) {
    if (step > 0 && batch.longest() > longest_allowed(before, a, dims)) break;
    if (auto result = compare_step(first, a, second, b, dims, batch, step, tolerance); !result) {
      return result << " (step " << step << ")";
    }
  }
  return testing::AssertionSuccess();
}

}  // namespace

MirBatch MirBatch::make(int64_t tokens, int64_t sequences) {
  MirBatch b{std::vector<int64_t>(static_cast<size_t>(sequences), 0), {}};
  for (int64_t t = 0; sequences > 0 && t < tokens; ++t)
    ++b.tokens[static_cast<size_t>(t % sequences)];
  if (sequences > 1 && b.tokens.back() > 1) --b.tokens.back(), ++b.tokens.front();
  b.past.assign(b.tokens.size(), 0);
  return b;
}

void MirBatch::advance() {
  for (size_t s = 0; s < tokens.size(); ++s) past[s] += tokens[s];
}

int64_t MirBatch::longest() const {
  int64_t n = 0;
  for (size_t s = 0; s < tokens.size(); ++s) n = std::max(n, past[s] + tokens[s]);
  return n;
}

Tensor random_mir_tensor(const Type& type, const std::string& name) {
  return random_floats(type, random_by_name(name));
}

Tensor random_mir_input(const Value& input, const DimEnv& dims, const MirBatch& batch, int step) {
  return make_input(input, dims, batch, step);
}

testing::AssertionResult compare_modules_by_evaluation(const Module& before, const Module& after) {
  for (const auto& a : before.graphs) {
    if (a->name == "load") continue;
    bool found = false;
    for (const auto& b : after.graphs) {
      if (b->name != a->name && !b->name.starts_with(a->name + ".")) continue;
      found = true;
      try {
        if (auto result = compare_graphs(before, *a, after, *b); !result) return result;
      } catch (const Error& e) {
        return testing::AssertionFailure() << "graph @" << b->name << ": " << e.what();
      }
    }
    if (!found) return testing::AssertionFailure() << "graph @" << a->name << " is gone";
  }
  return testing::AssertionSuccess();
}

}  // namespace shunt
