// Local search over placements: moves and swaps, replicas where they help, shares by water-filling.
// Entry point: RankState::improve(). Tested by tests/passes/place/expert_placement_test.cpp.
#include "passes/place/rank_state.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "ir/error.h"

namespace shunt::passes {

namespace {

// Differences below this part of the total load are rounding.
constexpr double kNoise = 1e-12;
void erase_value(std::vector<int>& from, int value) {
  from.erase(std::find(from.begin(), from.end(), value));
}

}  // namespace

RankState::RankState(const PackProblem& problem)
    : problem_(&problem),
      amount_(problem.load.size() * problem.ranks, -1.0),
      on_rank_(problem.ranks),
      of_expert_(problem.load.size()),
      rank_load_(problem.ranks, 0.0),
      total_(std::accumulate(problem.load.begin(), problem.load.end(), 0.0)) {}

void RankState::add(int expert, int rank, double amount) {
  SHUNT_CHECK(!has(expert, rank) && has_room(rank), "expert {} does not fit on rank {}", expert,
              rank);
  amount_[index(expert, rank)] = amount;
  on_rank_[rank].push_back(expert);
  of_expert_[expert].push_back(rank);
  rank_load_[rank] += amount;
  ++used_;
}

void RankState::remove(int expert, int rank) {
  rank_load_[rank] -= amount_[index(expert, rank)];
  amount_[index(expert, rank)] = -1;
  erase_value(on_rank_[rank], expert);
  erase_value(of_expert_[expert], rank);
  --used_;
}

void RankState::share_evenly(int expert) {
  const double each = problem_->load[expert] / static_cast<double>(of_expert_[expert].size());
  for (int r : of_expert_[expert]) {
    rank_load_[r] += each - amount_[index(expert, r)];
    amount_[index(expert, r)] = each;
  }
}

int RankState::fullest() const {
  return static_cast<int>(std::max_element(rank_load_.begin(), rank_load_.end()) -
                          rank_load_.begin());
}

double RankState::max_load() const { return rank_load_[fullest()]; }

/// What it costs that `expert` goes from one rank to another: a move away from where it is, or
/// back, or neither.
double RankState::price(int expert, int from, int to) const {
  return problem_->move_price * (static_cast<int>(problem_->is_held(expert, from)) -
                                 static_cast<int>(problem_->is_held(expert, to)));
}

void RankState::consider_moves(int from, int expert, Exchange& best) const {
  if (on_rank_[from].size() == 1) return;  // no rank is left without experts
  const double x = amount_[index(expert, from)];
  for (int r = 0; r < problem_->ranks; ++r) {
    if (!has_room(r) || has(expert, r)) continue;
    const double gain = std::min(x, rank_load_[from] - rank_load_[r] - x) - price(expert, from, r);
    if (gain > best.gain) best = {gain, expert, -1, r};
  }
}

void RankState::consider_swaps(int from, int expert, Exchange& best) const {
  const double x = amount_[index(expert, from)];
  for (int r = 0; r < problem_->ranks; ++r) {
    const double gap = rank_load_[from] - rank_load_[r];
    if (gap <= best.gain || has(expert, r)) continue;
    const double price_out = price(expert, from, r);
    for (int other : on_rank_[r]) {
      const double moved = x - amount_[index(other, r)];
      const double raw = std::min(moved, gap - moved);
      if (raw <= best.gain && problem_->move_price == 0) continue;
      if (raw <= 0 || has(other, from)) continue;
      const double gain = raw - price_out - price(other, r, from);
      if (gain > best.gain) best = {gain, expert, other, r};
    }
  }
}

void RankState::search() {
  // Every exchange lowers the sum of squares, so this ends; the bound only limits time.
  for (int steps = 0; steps < 16 * (used_ + problem_->ranks); ++steps) {
    const int from = fullest();
    Exchange best{kNoise * total_, -1, -1, -1};
    for (int e : on_rank_[from]) {
      if (amount_[index(e, from)] <= best.gain) continue;
      consider_moves(from, e, best);
      consider_swaps(from, e, best);
    }
    if (best.out < 0) return;
    const double x = amount_[index(best.out, from)];
    const double y = best.in < 0 ? 0 : amount_[index(best.in, best.rank)];
    remove(best.out, from);
    if (best.in >= 0) remove(best.in, best.rank);
    add(best.out, best.rank, x);
    if (best.in >= 0) add(best.in, from, y);
  }
}

bool RankState::add_one_replica() {
  const int from = fullest();
  int expert = -1, to = -1;
  double best = kWorthAReplica * problem_->mean_load(), largest = 0;
  for (int e : on_rank_[from]) {
    const double x = amount_[index(e, from)];
    for (int r = 0; r < problem_->ranks; ++r) {
      if (!has_room(r) || has(e, r)) continue;
      const double cost = problem_->is_held(e, r) ? 0 : problem_->move_price;
      const double gain = std::min(x, (rank_load_[from] - rank_load_[r]) / 2) - cost;
      // Of equal gains the larger expert: its replica can take more later.
      if (gain > best || (gain == best && expert >= 0 && x > largest)) {
        best = gain;
        largest = x;
        expert = e;
        to = r;
      }
    }
  }
  if (expert < 0) return false;
  add(expert, to, 0);
  balance_expert(expert);
  return true;
}

void RankState::add_replicas() {
  while (used_ < problem_->slots && add_one_replica()) balance();
}

/// Pours the expert's load over its ranks to one level, as far as their other load allows. Returns
/// the largest change.
double RankState::balance_expert(int expert) {
  std::vector<std::pair<double, int>> base;
  for (int r : of_expert_[expert]) base.push_back({rank_load_[r] - amount_[index(expert, r)], r});
  std::sort(base.begin(), base.end());
  double left = problem_->load[expert], level = base[0].first;
  for (size_t i = 0; i < base.size(); ++i) {
    const double next = i + 1 < base.size() ? base[i + 1].first : INFINITY;
    const double width = static_cast<double>(i + 1);
    if (left <= (next - level) * width) {
      level += left / width;
      break;
    }
    left -= (next - level) * width;
    level = next;
  }
  double change = 0;
  for (const auto& [other, r] : base) {
    const double amount = std::max(0.0, level - other);
    change = std::max(change, std::abs(amount - amount_[index(expert, r)]));
    amount_[index(expert, r)] = amount;
    rank_load_[r] = other + amount;
  }
  return change;
}

void RankState::balance() {
  for (int sweep = 0; sweep < 40; ++sweep) {
    double change = 0;
    for (int e = 0; e < problem_->experts(); ++e) {
      if (of_expert_[e].size() > 1) change = std::max(change, balance_expert(e));
    }
    if (change <= 1e-6 * total_ / problem_->ranks) return;
  }
}

void RankState::drop_idle() {
  for (int e = 0; e < problem_->experts(); ++e) {
    const std::vector<int> ranks = of_expert_[e];
    for (int r : ranks) {
      if (of_expert_[e].size() == 1) break;
      if (on_rank_[r].size() > 1 && amount_[index(e, r)] <= 1e-6 * problem_->load[e]) {
        const double rest = amount_[index(e, r)];
        remove(e, r);
        if (rest > 0) balance_expert(e);
      }
    }
  }
}

void RankState::improve() {
  for (int round = 0; round < 6; ++round) {
    const double before = max_load();
    search();
    balance();
    drop_idle();
    add_replicas();
    balance();
    if (max_load() >= before - 1e-5 * total_ / problem_->ranks) break;
  }
}

double RankState::cost() const {
  int moved = 0;
  for (int e = 0; e < problem_->experts(); ++e) {
    for (int r : of_expert_[e]) moved += !problem_->is_held(e, r);
  }
  return max_load() + problem_->move_price * moved;
}

double RankState::sum_of_squares() const {
  return std::inner_product(rank_load_.begin(), rank_load_.end(), rank_load_.begin(), 0.0);
}

Placement RankState::placement() const {
  Placement out(problem_->load.size());
  for (int e = 0; e < problem_->experts(); ++e) {
    std::vector<int> ranks = of_expert_[e];
    std::sort(ranks.begin(), ranks.end());
    double sum = 0;
    for (int r : ranks) sum += amount_[index(e, r)];
    for (int r : ranks) {
      const double amount = amount_[index(e, r)];
      // An expert nobody chose is shared evenly.
      if (sum > 0 && amount <= 1e-6 * sum && ranks.size() > 1) continue;
      out[e].push_back({r, sum > 0 ? amount / sum : 1.0 / static_cast<double>(ranks.size())});
    }
    double shares = 0;
    for (const ExpertReplica& r : out[e]) shares += r.share;
    for (ExpertReplica& r : out[e]) r.share /= shares;
  }
  return out;
}

}  // namespace shunt::passes
