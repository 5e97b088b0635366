// The starts of the search and the choice among them. Entry point: pack_experts(). Tested by
// tests/passes/place/expert_placement_test.cpp.
#include "passes/place/pack.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "ir/error.h"
#include "passes/place/eplb.h"

namespace shunt::passes {

namespace {

std::vector<int> by_descending(const std::vector<double>& weight) {
  std::vector<int> order(weight.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return weight[a] > weight[b]; });
  return order;
}

/// The lightest rank with room that lacks the expert; among equals the one with fewest experts. -1:
/// none.
int lightest_rank(const RankState& state, const PackProblem& problem, int expert) {
  int best = -1;
  for (int r = 0; r < problem.ranks; ++r) {
    if (!state.has_room(r) || state.has(expert, r)) continue;
    if (best < 0 || state.rank_load(r) < state.rank_load(best) ||
        (state.rank_load(r) == state.rank_load(best) &&
         state.experts_on(r) < state.experts_on(best))) {
      best = r;
    }
  }
  return best;
}

RankState from_placement(const PackProblem& problem, const Placement& placement) {
  RankState state(problem);
  for (int e = 0; e < problem.experts(); ++e) {
    for (const ExpertReplica& r : placement[e]) state.add(e, r.rank, r.share * problem.load[e]);
  }
  return state;
}

RankState start_from_eplb(const PackProblem& problem) {
  return from_placement(
      problem, eplb_experts(0, problem.load, problem.ranks, problem.slots - problem.experts(), 1, 1)
                   .experts);
}

/// Replicas by largest load a replica, at most one a rank, then each to the lightest rank that
/// lacks the expert.
RankState start_distinct(const PackProblem& problem, int redundant) {
  std::vector<int> replicas(problem.experts(), 1);
  for (int i = 0; i < redundant; ++i) {
    int best = -1;
    for (int e = 0; e < problem.experts(); ++e) {
      if (replicas[e] >= problem.ranks) continue;
      if (best < 0 || problem.load[e] * replicas[best] > problem.load[best] * replicas[e]) best = e;
    }
    if (best < 0) break;
    ++replicas[best];
  }
  std::vector<double> each(problem.experts());
  for (int e = 0; e < problem.experts(); ++e) each[e] = problem.load[e] / replicas[e];
  RankState state(problem);
  for (int e : by_descending(each)) {
    // The first replica always finds room: there are at least as many places as slots. A later one
    // may not, because the ranks with room hold the expert already.
    for (int i = 0; i < replicas[e]; ++i) {
      const int rank = lightest_rank(state, problem, e);
      if (rank < 0) break;
      state.add(e, rank, each[e]);
    }
    state.share_evenly(e);
  }
  return state;
}

/// What the ranks hold already; experts that no rank holds go to the lightest.
RankState start_from_held(const PackProblem& problem) {
  RankState state(problem);
  const std::vector<int> order = by_descending(problem.load);
  std::vector<int> homeless;
  int free_slots = problem.slots - problem.experts();
  for (int e : order) {
    int placed = 0;
    for (int r = 0; r < problem.ranks; ++r) {
      if (!problem.is_held(e, r) || !state.has_room(r) || (placed > 0 && free_slots == 0)) continue;
      if (placed++ > 0) --free_slots;
      state.add(e, r, 0);
    }
    if (placed == 0) homeless.push_back(e);
    state.share_evenly(e);
  }
  for (int e : homeless) {
    const int rank = lightest_rank(state, problem, e);
    SHUNT_CHECK(rank >= 0, "slots leave no room for expert {}", e);
    state.add(e, rank, problem.load[e]);
  }
  state.balance();
  return state;
}

/// The same placement with the ranks renamed so that as many weights as possible stay where they
/// are.
RankState renamed_to_held(const PackProblem& problem, const RankState& state) {
  const Placement placement = state.placement();
  std::vector<int> stays(static_cast<size_t>(problem.ranks) * problem.ranks, 0);
  for (int e = 0; e < problem.experts(); ++e) {
    for (const ExpertReplica& r : placement[e]) {
      for (int to = 0; to < problem.ranks; ++to)
        stays[r.rank * problem.ranks + to] += problem.is_held(e, to);
    }
  }
  const std::vector<int> name = best_assignment(stays, problem.ranks);
  Placement renamed = placement;
  for (auto& replicas : renamed) {
    for (ExpertReplica& r : replicas) r.rank = name[r.rank];
  }
  return from_placement(problem, renamed);
}

/// The cheapest; but among those that are as good but for less than a replica is worth, and no
/// worse than `limit`, the one with fewest replicas.
const RankState& choose(const std::vector<RankState>& found, double limit) {
  const auto cheaper = [](const RankState& a, const RankState& b) { return a.cost() < b.cost(); };
  const RankState* best = &*std::min_element(found.begin(), found.end(), cheaper);
  const double good = best->cost() + kWorthAReplica * best->problem().mean_load();
  for (const RankState& state : found) {
    if (state.cost() <= good && state.cost() <= limit && state.used_slots() < best->used_slots())
      best = &state;
  }
  return *best;
}

}  // namespace

std::vector<int> best_assignment(const std::vector<int>& value, int n) {
  // The Hungarian method with potentials, minimising -value; rows and columns count from 1, 0 is
  // "none".
  constexpr int kFar = 1 << 30;
  std::vector<int> row_potential(n + 1, 0), column_potential(n + 1, 0), row_of(n + 1, 0),
      previous(n + 1, 0);
  for (int row = 1; row <= n; ++row) {
    row_of[0] = row;
    int column = 0;
    std::vector<int> slack(n + 1, kFar);
    std::vector<bool> done(n + 1, false);
    do {
      done[column] = true;
      const int i = row_of[column];
      int delta = kFar, next = 0;
      for (int j = 1; j <= n; ++j) {
        if (done[j]) continue;
        const int reduced = -value[(i - 1) * n + j - 1] - row_potential[i] - column_potential[j];
        if (reduced < slack[j]) {
          slack[j] = reduced;
          previous[j] = column;
        }
        if (slack[j] < delta) {
          delta = slack[j];
          next = j;
        }
      }
      for (int j = 0; j <= n; ++j) {
        if (done[j]) {
          row_potential[row_of[j]] += delta;
          column_potential[j] -= delta;
        } else {
          slack[j] -= delta;
        }
      }
      column = next;
    } while (row_of[column] != 0);
    for (; column != 0; column = previous[column]) row_of[column] = row_of[previous[column]];
  }
  std::vector<int> column_of(n);
  for (int j = 1; j <= n; ++j) column_of[row_of[j] - 1] = j - 1;
  return column_of;
}

Placement pack_experts(const PackProblem& problem) {
  SHUNT_CHECK(problem.slots >= problem.experts() &&
                  problem.slots <= static_cast<int64_t>(problem.ranks) * problem.capacity,
              "{} slots for {} experts on {} ranks of {}", problem.slots, problem.experts(),
              problem.ranks, problem.capacity);
  PackProblem free_moves = problem;
  free_moves.move_price = 0;
  std::vector<RankState> found;
  found.push_back(start_from_eplb(free_moves));
  const double published = found[0].max_load();
  found.push_back(start_distinct(free_moves, 0));
  const int redundant = problem.slots - problem.experts();
  if (redundant > 0) found.push_back(start_distinct(free_moves, redundant));
  for (RankState& state : found) state.improve();
  if (problem.held.empty()) return choose(found, published).placement();
  for (RankState& state : found) state = renamed_to_held(problem, state);
  found.push_back(start_from_held(problem));
  found.push_back(found.back());
  found.back().improve();
  return choose(found, problem.move_price > 0 ? INFINITY : published).placement();
}

}  // namespace shunt::passes
