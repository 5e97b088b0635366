// Placement and communication of a plan as data. Tested by tests/tools/inspect_test.cpp.
#include "tools/inspect_ranks.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "ir/error.h"
#include "runtime/plan/plan_fields.h"

namespace shunt {

using nlohmann::ordered_json;

namespace {

const Program* load_program(const Plan& plan) {
  for (const Program& p : plan.programs) {
    if (p.graph == "load") return &p;
  }
  return nullptr;
}

/// The table of one MoE layer: expert -> "1" or "0 (0.250), 2 (0.750)".
ordered_json experts_json(const std::vector<float>& table, int64_t experts) {
  ordered_json out = ordered_json::array();
  const size_t row = table.size() / static_cast<size_t>(experts);
  for (size_t e = 0; e < static_cast<size_t>(experts); ++e) {
    ordered_json replicas = ordered_json::array();
    float below = 0;
    for (size_t i = e * row; i < (e + 1) * row && below < 1; i += 3) {
      replicas.push_back({{"rank", static_cast<int>(table[i])}, {"share", table[i + 2] - below}});
      below = table[i + 2];
    }
    out.push_back(replicas.size() == 1 ? replicas[0]["rank"] : replicas);
  }
  return out;
}

}  // namespace

ordered_json placement_json(const Plan& plan) {
  const Mesh& m = plan.mesh;
  std::vector<int64_t> read(static_cast<size_t>(m.size()), 0);
  std::map<std::string, int64_t> parts;  // buffers that ranks read for themselves
  ordered_json layers = ordered_json::array();
  if (const Program* load = load_program(plan)) {
    for (const Step& s : load->steps) {
      if (const auto* r = std::get_if<Read>(&s.what)) {
        for (int rank = 0; rank < m.size(); ++rank) {
          if (s.rank < 0 || s.rank == rank)
            read[static_cast<size_t>(rank)] += r->rows * r->row_bytes;
        }
      }
      if (s.rank >= 0 && !s.writes.empty()) {
        const Buffer& b = plan.buffers[static_cast<size_t>(s.writes[0])];
        parts[b.name] = b.bytes;
      }
      const auto* c = std::get_if<Constant>(&s.what);
      if (c == nullptr || s.writes.empty() || plan.model.experts == 0) continue;
      const Buffer& b = plan.buffers[static_cast<size_t>(s.writes[0])];
      if (!b.name.ends_with(".ranks")) continue;
      layers.push_back({{"loc", s.loc}, {"experts", experts_json(c->values, plan.model.experts)}});
    }
  }
  ordered_json ranks = ordered_json::array();
  for (int r = 0; r < m.size(); ++r) {
    ranks.push_back({{"rank", r},
                     {"dp", m.index(MeshAxis::dp, r)},
                     {"tp", m.index(MeshAxis::tp, r)},
                     {"ep", m.index(MeshAxis::ep, r)},
                     {"etp", m.index(MeshAxis::etp, r)},
                     {"checkpoint_bytes_read", read[static_cast<size_t>(r)]},
                     {"weights_bytes", plan.weights_bytes}});
  }
  int64_t sliced = 0;
  for (const auto& [name, bytes] : parts) sliced += bytes;
  return {{"mesh", m.to_string()},  {"kept_whole", plan.kept_whole},
          {"ranks", ranks},         {"sliced_parameters", parts.size()},
          {"sliced_bytes", sliced}, {"expert_layers", layers}};
}

namespace {

/// A step that all ranks of a group take part in.
struct Exchange {
  std::string_view op;
  MeshAxis over = MeshAxis::world;
  int64_t bytes = 0;  // of a rank's part
  std::string_view by;
};

/// Over peer memory an op's kernels are launches; its last one has the results.
std::optional<Exchange> over_peers(const Plan& plan, const Step& s) {
  const auto* launch = std::get_if<Launch>(&s.what);
  if (launch == nullptr || s.writes.empty()) return {};
  const auto table = std::find_if(launch->args.begin(), launch->args.end(),
                                  [](const Arg& a) { return a.kind == Arg::Kind::peers; });
  if (table == launch->args.end()) return {};
  const std::string_view name = s.name;
  return Exchange{name.substr(0, name.find('.')), table->over,
                  plan.buffers[static_cast<size_t>(s.writes[0])].bytes, "peer memory"};
}

std::optional<Exchange> exchange_of(const Plan& plan, const Step& s, const DimEnv& upper) {
  const auto* c = std::get_if<Collective>(&s.what);
  if (c == nullptr) return over_peers(plan, s);
  return Exchange{plan_fields::kCollectiveNames[static_cast<size_t>(c->kind)], c->over,
                  c->count.evaluate(upper) * dtype_bytes(c->dtype), "communicator"};
}

}  // namespace

ordered_json comm_json(const Plan& plan, const Program& program) {
  DimEnv upper;
  for (const DimDecl& d : program.dims) upper[d.name] = d.max;
  ordered_json list = ordered_json::array();
  int64_t total = 0;
  for (size_t i = 0; i < program.steps.size(); ++i) {
    const Step& s = program.steps[i];
    const std::optional<Exchange> e = exchange_of(plan, s, upper);
    if (!e) continue;
    // One list for all ranks; validate() lets no step of it belong to a single one.
    SHUNT_CHECK(s.rank < 0, "step {} of {} is rank {}'s alone", i, program.name, s.rank);
    total += e->bytes;
    list.push_back({{"step", i},
                    {"op", e->op},
                    {"over", axis_name(e->over)},
                    {"ranks", plan.mesh.size(e->over)},
                    {"bytes", e->bytes},
                    {"by", e->by},
                    {"loc", s.loc}});
  }
  return {{"program", program.name},
          {"collectives", list.size()},
          {"bytes", total},
          {"same_on_all_ranks", true},
          {"list", list}};
}

}  // namespace shunt
