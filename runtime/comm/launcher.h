// Which rank this process is, from flags or from the variables of whoever started it. docs/ranks.md
// lists them.
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace shunt {

/// `--rank`, `--world-size`, `--local-rank`, `--master-addr`, `--master-port`; what is not given is
/// absent.
struct RankFlags {
  std::optional<int> rank, world, local_rank, master_port;
  std::optional<std::string> master_addr;
};

struct ProcessRank {
  int rank = 0;
  int world = 1;
  int local_rank = 0;  // among the processes of this machine: the GPU to use
  std::string
      source;  // "torchrun", "flags", ...; empty: nobody launched ranks, this is the only process
  std::string master_addr;  // of rank 0; empty when world == 1
  int master_port = 0;
  bool launched() const { return !source.empty(); }
};

/// Value of a variable, or nullopt. Never written.
using Environment = std::function<std::optional<std::string>(const std::string& name)>;
Environment process_environment();

/// Flags, else SHUNT_RANK and its like, else what torchrun (also deepspeed), Open MPI, PMI (MPICH,
/// Intel MPI, PALS), MVAPICH2 or Slurm say. Flags and SHUNT_* are the user's word and end the
/// search. Of the others all must say the same rank and world, unless torchrun was itself started
/// once a rank by one of them (its GROUP_RANK and GROUP_WORLD_SIZE). Nothing set: one process.
///
/// UserError: launchers that disagree (prints what each says), a rank without a world size, a rank
/// outside of the world, a value that is no number, no address of rank 0.
ProcessRank detect_launch(const RankFlags& flags,
                     const Environment& environment = process_environment());

/// The first host of a Slurm node list: "gpu[07-12,20],login1" -> "gpu07". Empty if it is none.
std::string first_host(const std::string& node_list);

}  // namespace shunt
