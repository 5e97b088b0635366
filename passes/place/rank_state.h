// A placement of experts on ranks while it is being improved: who is where with how much load. No
// step ever raises the largest rank load.
#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include "ir/expert_map.h"

namespace shunt::passes {

/// A replica is worth its memory if it takes at least this part of the mean rank load from the
/// fullest rank.
inline constexpr double kWorthAReplica = 2e-3;

/// Experts to place on ranks that are alike (one node, or all ranks).
struct PackProblem {
  std::vector<double> load;  // of each expert, in any unit
  int ranks = 1;
  int capacity = 0;  // experts a rank may hold
  int slots = 0;     // replicas in all, at least one an expert; at most ranks * capacity
  /// held[e * ranks + r]: rank r has expert e's weights already. Empty: nobody has anything.
  std::vector<uint8_t> held;
  /// Load that one expert sent to a rank that does not have it must save; 0: moves are free.
  double move_price = 0;

  int experts() const { return static_cast<int>(load.size()); }
  double mean_load() const { return std::accumulate(load.begin(), load.end(), 0.0) / ranks; }
  bool is_held(int expert, int rank) const {
    return !held.empty() && held[static_cast<size_t>(expert) * ranks + rank] != 0;
  }
};

/// Replicas of each expert, as in ExpertMapLayer.
using Placement = std::vector<std::vector<ExpertReplica>>;

/// Keeps a pointer to the problem.
class RankState {
 public:
  explicit RankState(const PackProblem& problem);

  void add(int expert, int rank, double amount);
  void remove(int expert, int rank);
  /// Gives each of the expert's replicas the same load.
  void share_evenly(int expert);
  bool has(int expert, int rank) const { return amount_[index(expert, rank)] >= 0; }
  bool has_room(int rank) const {
    return static_cast<int>(on_rank_[rank].size()) < problem_->capacity;
  }
  double rank_load(int rank) const { return rank_load_[rank]; }
  int experts_on(int rank) const { return static_cast<int>(on_rank_[rank].size()); }
  int used_slots() const { return used_; }
  const PackProblem& problem() const { return *problem_; }
  double max_load() const;

  /// Moves and swaps between the fullest rank and the others, until none pays.
  void search();
  /// Gives free slots to replicas, as long as one takes load worth speaking of from the fullest
  /// rank.
  void add_replicas();
  /// Shares that minimise the sum of squares, and with it the maximum, over the replicas that are
  /// there.
  void balance();
  /// Removes replicas without load, of experts that have another one.
  void drop_idle();
  /// All of the above, until it stops helping.
  void improve();

  /// Largest rank load + move_price * weights that move.
  double cost() const;
  double sum_of_squares() const;
  Placement placement() const;

 private:
  struct Exchange {
    double gain = 0;
    int out = -1, in = -1,
        rank = -1;  // `out` leaves the fullest rank for `rank`, `in` (or nothing) comes back
  };
  size_t index(int expert, int rank) const {
    return static_cast<size_t>(expert) * problem_->ranks + rank;
  }
  int fullest() const;
  void consider_moves(int from, int expert, Exchange& best) const;
  void consider_swaps(int from, int expert, Exchange& best) const;
  bool add_one_replica();
  double balance_expert(int expert);
  double price(int expert, int from, int to) const;

  const PackProblem* problem_;
  std::vector<double> amount_;  // load of expert e on rank r; -1: not there
  std::vector<std::vector<int>> on_rank_, of_expert_;
  std::vector<double> rank_load_;
  double total_ = 0;
  int used_ = 0;
};

}  // namespace shunt::passes
