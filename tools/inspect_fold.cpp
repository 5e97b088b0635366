// Folding of identical layers. A step belongs to the layer whose number its loc names; layers are
// the same if their steps are, apart from that number. Tested by tests/tools/inspect_test.cpp.
#include <algorithm>

#include "ir/error.h"
#include "runtime/plan/plan_fields.h"
#include "tools/inspect.h"

namespace shunt {

namespace {

/// The layer number in "model.layers.12.mlp" (the first component that is a number), or -1.
int64_t layer_of(const std::string& loc) {
  size_t at = 0;
  while (at < loc.size()) {
    const size_t end = std::min(loc.find('.', at), loc.size());
    const std::string part = loc.substr(at, end - at);
    if (!part.empty() && part.size() < 9 && std::all_of(part.begin(), part.end(), ::isdigit))
      return std::stoll(part);
    at = end + 1;
  }
  return -1;
}

std::string without_layer(const std::string& loc, int64_t layer) {
  std::string out = "." + loc + ".";
  const std::string number = "." + std::to_string(layer) + ".";
  if (const size_t at = out.find(number); layer >= 0 && at != std::string::npos)
    out.replace(at, number.size(), ".*.");
  return out.substr(1, out.size() - 2);
}

bool same(const StepRow& a, int64_t layer_a, const StepRow& b, int64_t layer_b) {
  return a.name == b.name && a.detail == b.detail && a.bytes == b.bytes && a.flops == b.flops &&
         without_layer(a.loc, layer_a) == without_layer(b.loc, layer_b);
}

std::vector<LayerFold> fold(const std::vector<StepRow>& rows) {
  std::vector<LayerFold> out;
  int64_t first_layer = -1;  // of the last fold
  for (size_t at = 0; at < rows.size();) {
    const int64_t layer = layer_of(rows[at].loc);
    size_t end = at;
    while (end < rows.size() && layer_of(rows[end].loc) == layer) ++end;
    LayerFold* last = out.empty() ? nullptr : &out.back();
    const bool repeats =
        layer >= 0 && first_layer >= 0 && last->steps.size() == end - at &&
        std::equal(last->steps.begin(), last->steps.end(), rows.begin() + static_cast<long>(at),
                   [&](auto& a, auto& b) { return same(a, first_layer, b, layer); });
    if (repeats) {
      ++last->count;
      last->title = fmt::format("layers {}..{}", first_layer, layer);
    } else {
      first_layer = layer;
      out.push_back(
          {layer < 0 ? "outside layers" : fmt::format("layer {}", layer),
           1,
           {rows.begin() + static_cast<long>(at), rows.begin() + static_cast<long>(end)}});
    }
    at = end;
  }
  return out;
}

std::string grid_text(const Launch& l) {
  return fmt::format("grid {},{},{} x {}", l.grid[0].to_string(), l.grid[1].to_string(),
                     l.grid[2].to_string(), l.threads);
}

std::string detail_of(const Plan& plan, const Step& step) {
  if (const auto* l = std::get_if<Launch>(&step.what)) {
    const Kernel& k = plan.kernels[l->kernel];
    return k.is_host() ? k.name : fmt::format("{}  {}", k.name, grid_text(*l));
  }
  if (const auto* m = std::get_if<Matmul>(&step.what)) {
    return fmt::format("cublasLt m={} n={} k={}", m->m.to_string(), m->n, m->k);
  }
  if (const auto* r = std::get_if<Read>(&step.what)) return r->tensor;
  if (const auto* c = std::get_if<Collective>(&step.what)) {
    return fmt::format("{} over {}", plan_fields::kCollectiveNames[static_cast<size_t>(c->kind)],
                       axis_name(c->over));
  }
  return "";
}

}  // namespace

std::vector<LayerFold> fold_layers(const Plan& plan, const Program& program) {
  DimEnv upper;
  for (const DimDecl& d : program.dims) upper[d.name] = d.max;
  std::vector<StepRow> rows;
  for (const Step& s : program.steps) {
    rows.push_back(
        {s.name, s.loc, detail_of(plan, s), s.bytes.evaluate(upper), s.flops.evaluate(upper)});
  }
  return fold(rows);
}

std::vector<LayerFold> fold_layers(const ir::Module& module, const ir::Graph& graph) {
  DimEnv upper;
  for (const auto* list : {&module.dims, &graph.dims}) {
    for (const DimDecl& d : *list) upper[d.name] = d.max;
  }
  std::vector<StepRow> rows;
  for (const auto& op : graph.ops) {
    const ir::Cost cost = op->info().cost(*op);
    std::string types;
    for (const auto& r : op->results) types += (types.empty() ? "" : ", ") + r->type.to_string();
    const std::string attrs = ir::print_attrs(op->attrs);
    rows.push_back({std::string(op->info().name), op->loc,
                    attrs.empty() ? types : types + "  " + attrs, cost.bytes.evaluate(upper),
                    cost.flops.evaluate(upper)});
  }
  return fold(rows);
}

}  // namespace shunt
