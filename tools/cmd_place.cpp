// shunt place PLAN|MODEL_DIR --profile FILE --ep N [-o map.json]: expert placement from a recorded
// profile, with what it brings before anything is deployed. Needs no GPU and no weights.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>

#include "ir/error.h"
#include "tools/cli.h"
#include "tools/place.h"

namespace shunt::cli {

namespace {

// Below this a prediction from averages says nothing.
constexpr double kGainWorthTelling = 1.01;

struct Flags {
  PlaceOptions options;
  std::string measure, output;
  double link_gbps = 450;
};

void print_header(const PlaceStudy& s) {
  double routes = 0;
  for (const auto& layer : s.counts) routes += std::accumulate(layer.begin(), layer.end(), 0.0);
  const passes::MoeShape& m = s.shapes[0];
  const PlaceOptions& o = s.options;
  fmt::print("{}: {} MoE layers, {} experts of {}, {} a token\n", o.input.string(), s.shapes.size(),
             m.experts, human_bytes(m.expert_bytes), m.choices);
  fmt::print("{}: {:.0f} routes, {} window(s)\n", o.profile.string(), routes,
             s.profile.windows.size());
  fmt::print("{} rank(s) on {} node(s), up to {} redundant experts a layer\n", o.ranks, o.nodes,
             o.redundant);
  if (o.nodes > 1 && m.groups > 1) {
    fmt::print("{} groups of experts: a group stays on one node\n", m.groups);
  }
}

/// A profile that maps are judged by: the one that was planned from, and one to measure by.
struct Judge {
  passes::RoutingProfile profile;
  std::vector<std::vector<double>> counts;  // of all windows
};

/// Columns of the map before and the planned one, for each judge; NaN leaves a gap.
template <class Balance>
void print_balances(const PlaceStudy& s, const std::vector<Judge>& judges, Balance balance) {
  std::string line;
  for (const Judge& judge : judges) {
    for (const ExpertMap* map : {&s.before(), &s.planned}) {
      const double x = balance(*map, judge);
      line += fmt::format("{:>12}", std::isnan(x) ? "" : fmt::format("{:.3f}", x));
    }
  }
  fmt::print("{}\n", line.substr(0, line.find_last_not_of(' ') + 1));
}

void print_layer(const PlaceStudy& s, size_t i, const std::vector<Judge>& judges) {
  const ExpertMapLayer& before = s.before().layers[i];
  const ExpertMapLayer& planned = s.planned.layers[i];
  size_t fewest = planned.experts.size(), most = 0;
  for (int r = 0; r < s.options.ranks; ++r) {
    const size_t n = planned.experts_on(r).size();
    fewest = std::min(fewest, n);
    most = std::max(most, n);
  }
  const std::string held =
      fewest == most ? fmt::format("{}", most) : fmt::format("{} to {}", fewest, most);
  fmt::print("{:>14}{:>16}{:>11}{:>7}", planned.layer, held, planned.redundant(),
             moved_experts(before, planned));
  print_balances(s, judges, [&](const ExpertMap& map, const Judge& judge) {
    return max_over_mean(rank_loads(map.layers[i], judge.counts[i], map.ranks));
  });
}

/// Of the worst of a profile's windows: how far it is from the average that the plan was made from.
double worst_window(const ExpertMap& map, const Judge& judge) {
  if (judge.profile.windows.size() < 2) return std::nan("");
  double worst = 0;
  for (const passes::RoutingWindow& w : judge.profile.windows)
    worst = std::max(worst, overall_balance(map, w.counts));
  return worst;
}

void print_balance(const PlaceStudy& s, const std::vector<Judge>& judges,
                   const std::string& measure) {
  fmt::print("\nlargest rank load over the mean");
  if (!measure.empty()) fmt::print("; the last two columns: measured, {}", measure);
  fmt::print("\n{:>14}{:>16}{:>11}{:>7}", "layer", "experts a rank", "redundant", "moved");
  for (size_t i = 0; i < judges.size(); ++i) fmt::print("{:>12}{:>12}", s.before_name(), "planned");
  fmt::print("\n");
  for (size_t i = 0; i < s.shapes.size(); ++i) print_layer(s, i, judges);
  fmt::print("{:>14}{:>34}", "all", "");
  print_balances(s, judges, [](const ExpertMap& map, const Judge& judge) {
    return overall_balance(map, judge.counts);
  });
  const bool windows = std::any_of(judges.begin(), judges.end(), [](const Judge& judge) {
    return judge.profile.windows.size() > 1;
  });
  if (!windows) return;
  fmt::print("{:>14}{:>34}", "worst window", "");
  print_balances(s, judges, worst_window);
}

/// Returns the time before over the time after.
double print_step(const PlaceStudy& s, int64_t tokens) {
  const passes::StepEstimate a = s.estimate(s.before(), tokens);
  const passes::StepEstimate b = s.estimate(s.planned, tokens);
  const auto bytes_row = [](const char* what, double before, double after) {
    fmt::print("  {:<30}{:>14}{:>14}\n", what, human_bytes(static_cast<int64_t>(before)),
               human_bytes(static_cast<int64_t>(after)));
  };
  const auto time_row = [](const char* what, double before, double after) {
    fmt::print("  {:<30}{:>11.1f} us{:>11.1f} us\n", what, before * 1e6, after * 1e6);
  };
  fmt::print("\n{:<32}{:>14}{:>14}\n", fmt::format("a step of {} tokens, predicted", tokens),
             s.before_name(), "planned");
  bytes_row("busiest rank's link, each way", a.link_bytes_max, b.link_bytes_max);
  bytes_row("mean link, each way", a.link_bytes_mean, b.link_bytes_mean);
  if (s.options.nodes > 1) {
    bytes_row("busiest node, each way", a.node_bytes_max, b.node_bytes_max);
  }
  time_row("experts of the slowest rank", a.expert_seconds, b.expert_seconds);
  time_row("dispatch and combine", a.link_seconds, b.link_seconds);
  return a.seconds() / b.seconds();
}

void print_verdict(const PlaceStudy& s, const std::vector<double>& gains) {
  fmt::print("\n");
  if (*std::max_element(gains.begin(), gains.end()) < kGainWorthTelling) {
    fmt::print("no gain: MoE layers would be faster by less than 1 %; keep the {} map\n",
               s.before_name());
    return;
  }
  fmt::print("predicted gain of the MoE layers over the {} map:", s.before_name());
  for (size_t i = 0; i < gains.size(); ++i) {
    const char* none = gains[i] >= kGainWorthTelling ? ""
                       : gains[i] > 0.99             ? " (none)"
                                                     : " (slower)";
    fmt::print("{} {:.2f}x{} at {} tokens a step", i == 0 ? "" : ",", gains[i], none,
               s.options.tokens[i]);
  }
  fmt::print("\n");
  if (!s.current) return;
  int64_t moved = 0, bytes = 0;
  for (size_t i = 0; i < s.shapes.size(); ++i) {
    const int64_t n = moved_experts(s.current->layers[i], s.planned.layers[i]);
    moved += n;
    bytes += n * s.shapes[i].expert_bytes;
  }
  fmt::print("from the current map {} experts move, {}\n", moved, human_bytes(bytes));
}

void write_map(const ExpertMap& map, const std::string& path) {
  std::ofstream file(path, std::ios::binary);
  file << expert_map_to_json(map);
  file.close();
  if (!file) user_error("{}: cannot be written", path);
}

int body(Flags& f) {
  f.options.link_bytes_per_s = f.link_gbps * 1e9;
  const PlaceStudy study = study_placement(f.options);
  std::vector<Judge> judges = {{study.profile, study.counts}};
  if (!f.measure.empty()) {
    const passes::RoutingProfile measured = load_profile_of(study, f.measure);
    judges.push_back({measured, measured.total()});
  }
  if (!f.output.empty()) write_map(study.planned, f.output);
  print_header(study);
  print_balance(study, judges, f.measure);
  std::vector<double> gains;
  for (int64_t tokens : f.options.tokens) gains.push_back(print_step(study, tokens));
  print_verdict(study, gains);
  return 0;
}

}  // namespace

void add_place(CLI::App& app, Command& slot) {
  auto f = std::make_shared<Flags>();
  PlaceOptions& o = f->options;
  CLI::App* c =
      add_command(app, "place", "Plan which rank holds which expert, from a routing profile.", slot,
                  [f] { return body(*f); });
  const CLI::Range count(1, kMaxRanks);
  c->add_option("PLAN|MODEL_DIR", o.input, "the model; only its config.json is read")->required();
  c->add_option("--profile", o.profile, "routes to each expert, or a golden file that has them")
      ->required();
  c->add_option("--ep", o.ranks, "ranks that share the experts")->required()->check(count);
  c->add_option("--redundant-experts", o.redundant,
                "replicas beyond the first, a layer (default: as many as --current has, or 0)")
      ->check(CLI::Range(0, 4096))
      ->default_str("");
  c->add_option("--nodes", o.nodes, "nodes the ranks are on, in equal runs")->check(count);
  CLI::Option* current =
      c->add_option("--current", o.current, "the map in use: weights move only where that pays");
  c->add_option("--payback-steps", o.payback_steps, "with --current: steps in which it must pay")
      ->check(number_between(1e-3, 1e12))
      ->needs(current);
  c->add_option("--measure", f->measure, "another profile, to judge the maps by");
  c->add_option("--tokens", o.tokens, "batches to predict: tokens a step over all ranks")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 30));
  c->add_option("--link-gbps", f->link_gbps, "10^9 bytes a second of a rank's link, each way")
      ->check(number_between(1e-3, 1e6));
  c->add_option("--target", o.target, "cpu, sm_90a or sm_80 (default: the plan's, else sm_90a)");
  c->add_option("--model-dir", o.model_dir, "of a plan: its model directory, if that was moved");
  c->add_option("-o,--output", f->output, "the map to write (default: none is written)");
}

}  // namespace shunt::cli
