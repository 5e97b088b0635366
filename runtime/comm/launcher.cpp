// Reads rank, world size and rank 0's address from flags or a launcher's variables. Entry point:
// detect_launch(). Tested by tests/runtime/comm/launcher_test.cpp.
#include "runtime/comm/launcher.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <vector>

#include "ir/error.h"

namespace shunt {

namespace {

constexpr int kDefaultPort = 29531;  // of one machine, when no launcher gives one; torch's is 29500

/// A launcher's variables; the first that is set of each list counts.
struct Family {
  const char* name;
  std::vector<const char*> rank, world, local_rank;
  const char* only_if = nullptr;  // must be set, or the others do not count
};

const Family kShunt{"SHUNT_*", {"SHUNT_RANK"}, {"SHUNT_WORLD_SIZE"}, {"SHUNT_LOCAL_RANK"}};

const std::vector<Family>& launchers() {
  static const std::vector<Family> families{
      {"torchrun", {"RANK"}, {"WORLD_SIZE"}, {"LOCAL_RANK"}},
      {"Open MPI",
       {"OMPI_COMM_WORLD_RANK"},
       {"OMPI_COMM_WORLD_SIZE"},
       {"OMPI_COMM_WORLD_LOCAL_RANK"}},
      // Open MPI and Slurm also set PMIX_RANK, but not PMI_SIZE.
      {"PMI",
       {"PMIX_RANK", "PMI_RANK"},
       {"PMI_SIZE"},
       {"MPI_LOCALRANKID", "PALS_LOCAL_RANKID"},
       "PMI_SIZE"},
      {"MVAPICH2", {"MV2_COMM_WORLD_RANK"}, {"MV2_COMM_WORLD_SIZE"}, {"MV2_COMM_WORLD_LOCAL_RANK"}},
      // A batch script outside of srun has SLURM_PROCID and SLURM_NTASKS too, but is one process.
      {"Slurm", {"SLURM_PROCID"}, {"SLURM_NTASKS"}, {"SLURM_LOCALID"}, "SLURM_STEP_ID"},
  };
  return families;
}

struct Setting {
  std::string name;  // of the variable
  int value = 0;
};

int parse_number(const std::string& name, const std::string& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0)
    user_error("{} is \"{}\", which is no number of 0 or more: unset it or correct it", name, text);
  return value;
}

std::optional<Setting> first_set(const std::vector<const char*>& names,
                                 const Environment& environment) {
  for (const char* name : names)
    if (const auto text = environment(name)) return Setting{name, parse_number(name, *text)};
  return std::nullopt;
}

/// What one launcher says.
struct Claim {
  std::string launcher;
  Setting rank, world;
  std::optional<Setting> local_rank;
  std::string text() const {
    return fmt::format("{} says rank {} of {} ({}, {})", launcher, rank.value, world.value,
                       rank.name, world.name);
  }
};

std::optional<Claim> claim_of(const Family& family, const Environment& environment) {
  if (family.only_if != nullptr && !environment(family.only_if)) return std::nullopt;
  const auto rank = first_set(family.rank, environment);
  const auto world = first_set(family.world, environment);
  if (!rank && !world) return std::nullopt;
  if (!rank || !world)
    user_error("{} is set, but {} is not: set both, or neither", rank ? rank->name : world->name,
               rank ? family.world[0] : family.rank[0]);
  return Claim{family.name, *rank, *world, first_set(family.local_rank, environment)};
}

std::optional<Claim> claim_of(const RankFlags& flags) {
  if (!flags.rank && !flags.world) return std::nullopt;
  if (!flags.rank || !flags.world)
    user_error("--rank and --world-size go together: give both, or neither");
  Claim claim{
      "the command line", {"--rank", *flags.rank}, {"--world-size", *flags.world}, std::nullopt};
  if (flags.local_rank) claim.local_rank = Setting{"--local-rank", *flags.local_rank};
  return claim;
}

/// Whether `inner` is torchrun, started once in each process of `outer` (one a machine, as a rule).
bool started_by(const Claim& inner, const Claim& outer, const Environment& environment) {
  if (inner.launcher != "torchrun") return false;
  const auto group = first_set({"GROUP_RANK"}, environment);
  const auto groups = first_set({"GROUP_WORLD_SIZE"}, environment);
  return group && groups && group->value == outer.rank.value && groups->value == outer.world.value;
}

std::optional<Claim> agreed_claim(const Environment& environment) {
  std::optional<Claim> chosen;
  for (const Family& family : launchers()) {
    const auto claim = claim_of(family, environment);
    if (!claim) continue;
    if (!chosen) {
      chosen = claim;
      continue;
    }
    const bool same =
        chosen->rank.value == claim->rank.value && chosen->world.value == claim->world.value;
    if (!same && !started_by(*chosen, *claim, environment))
      user_error(
          "two launchers disagree: {}, but {}. Unset the variables that are left over, or settle "
          "it with "
          "--rank and --world-size (or SHUNT_RANK and SHUNT_WORLD_SIZE)",
          chosen->text(), claim->text());
  }
  return chosen;
}

int parse_port(const std::string& name, int port) {
  if (port < 1 || port > 65535)
    user_error("{} is {}: a port is a number from 1 to 65535", name, port);
  return port;
}

bool slurm_step(const Environment& environment) { return environment("SLURM_STEP_ID").has_value(); }

std::string find_address(const RankFlags& flags, const Claim& claim,
                         const Environment& environment) {
  if (flags.master_addr) return *flags.master_addr;
  for (const char* name : {"SHUNT_MASTER_ADDR", "MASTER_ADDR"})
    if (const auto address = environment(name)) return *address;
  if (slurm_step(environment))
    for (const char* name : {"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"})
      if (const auto nodes = environment(name))
        if (const std::string host = first_host(*nodes); !host.empty()) return host;
  // All ranks on this machine, as far as one can tell.
  const auto local_size = first_set({"SHUNT_LOCAL_WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE",
                                     "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"},
                                    environment);
  if (local_size && local_size->value == claim.world.value) return "127.0.0.1";
  user_error(
      "rank {} of {}: the address of rank 0's machine is not known: set MASTER_ADDR and "
      "MASTER_PORT, or "
      "--master-addr and --master-port (127.0.0.1 if all ranks are on this machine)",
      claim.rank.value, claim.world.value);
}

int find_port(const RankFlags& flags, const Environment& environment) {
  if (flags.master_port) return parse_port("--master-port", *flags.master_port);
  if (const auto port = first_set({"SHUNT_MASTER_PORT"}, environment))
    return parse_port(port->name, port->value);
  if (const auto port = first_set({"MASTER_PORT"}, environment)) {
    parse_port(port->name, port->value);
    // torchrun's agent keeps its own store on that port: the next one is ours.
    if (environment("TORCHELASTIC_USE_AGENT_STORE") == "True")
      return port->value < 65535 ? port->value + 1 : 65534;
    return port->value;
  }
  // Jobs that share a machine must not meet at one port.
  if (slurm_step(environment))
    if (const auto job = first_set({"SLURM_JOB_ID"}, environment))
      return 20000 + job->value % 20000;
  return kDefaultPort;
}

}  // namespace

Environment process_environment() {
  return [](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());
    if (value == nullptr || *value == '\0') return std::nullopt;
    return std::string(value);
  };
}

ProcessRank detect_launch(const RankFlags& flags, const Environment& environment) {
  std::optional<Claim> claim = claim_of(flags);
  if (!claim) claim = claim_of(kShunt, environment);
  if (!claim) claim = agreed_claim(environment);
  if (!claim) return {};
  ProcessRank launch;
  launch.source = claim->launcher;
  launch.rank = claim->rank.value;
  launch.world = claim->world.value;
  if (launch.rank < 0 || launch.rank >= launch.world)
    user_error("{}: ranks go from 0 to {}", claim->text(), launch.world - 1);
  if (flags.local_rank) claim->local_rank = Setting{"--local-rank", *flags.local_rank};
  // Without a word on machines there is one, and its ranks count as those of the world.
  launch.local_rank = claim->local_rank ? claim->local_rank->value : launch.rank;
  if (launch.world > 1) {
    launch.master_addr = find_address(flags, *claim, environment);
    launch.master_port = find_port(flags, environment);
  }
  return launch;
}

std::string first_host(const std::string& node_list) {
  const size_t end = node_list.find_first_of("[,");
  std::string host = node_list.substr(0, end);
  if (end == std::string::npos || node_list[end] == ',') return host;
  const size_t number = end + 1;
  const size_t number_end = node_list.find_first_of("-,]", number);
  const size_t close = node_list.find(']', number);
  if (number_end == std::string::npos || close == std::string::npos) return {};
  host += node_list.substr(number, number_end - number);
  const size_t rest = node_list.find_first_of(",[", close);
  return host + node_list.substr(close + 1, rest == std::string::npos ? rest : rest - close - 1);
}

}  // namespace shunt
