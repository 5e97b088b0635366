// Which rank a process is: each launcher's variables, their order, and every way they can be wrong.
#include "runtime/comm/launcher.h"

#include <gtest/gtest.h>

#include <map>

#include "ir/error.h"

namespace shunt {
namespace {

using Variables = std::map<std::string, std::string>;

Environment from(Variables variables) {
  return [variables](const std::string& name) -> std::optional<std::string> {
    const auto it = variables.find(name);
    if (it == variables.end()) return std::nullopt;
    return it->second;
  };
}

Variables operator+(Variables a, const Variables& b) {
  a.insert(b.begin(), b.end());
  return a;
}

std::string error_of(const Variables& variables, const RankFlags& flags = {}) {
  try {
    detect_launch(flags, from(variables));
  } catch (const UserError& e) {
    return e.what();
  }
  return "no error";
}

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

const Variables kTorch{{"RANK", "3"},
                       {"WORLD_SIZE", "8"},
                       {"LOCAL_RANK", "1"},
                       {"LOCAL_WORLD_SIZE", "2"},
                       {"MASTER_ADDR", "10.0.0.7"},
                       {"MASTER_PORT", "4000"}};
const Variables kOpenMpi{{"OMPI_COMM_WORLD_RANK", "1"},
                         {"OMPI_COMM_WORLD_SIZE", "4"},
                         {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                         {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                         {"PMIX_RANK", "1"}};
const Variables kSlurm{{"SLURM_PROCID", "5"},
                       {"SLURM_NTASKS", "8"},
                       {"SLURM_LOCALID", "1"},
                       {"SLURM_STEP_ID", "0"},
                       {"SLURM_STEP_NODELIST", "gpu[07-08,12]"},
                       {"SLURM_JOB_ID", "1234567"}};

void expect(const ProcessRank& launch, int rank, int world, int local_rank, const char* source) {
  EXPECT_EQ(launch.rank, rank);
  EXPECT_EQ(launch.world, world);
  EXPECT_EQ(launch.local_rank, local_rank);
  EXPECT_EQ(launch.source, source);
}

TEST(Launcher, NothingSetIsOneProcess) {
  const ProcessRank launch =
      detect_launch({}, from({{"MASTER_ADDR", "somewhere"}, {"SLURM_JOB_ID", "1"}}));
  expect(launch, 0, 1, 0, "");
  EXPECT_FALSE(launch.launched());
}

TEST(Launcher, Torchrun) {
  const ProcessRank launch = detect_launch({}, from(kTorch));
  expect(launch, 3, 8, 1, "torchrun");
  EXPECT_EQ(launch.master_addr, "10.0.0.7");
  EXPECT_EQ(launch.master_port, 4000);
}

TEST(Launcher, TorchrunsAgentKeepsItsPort) {
  EXPECT_EQ(detect_launch({}, from(kTorch + Variables{{"TORCHELASTIC_USE_AGENT_STORE", "True"}}))
                .master_port,
            4001);
}

TEST(Launcher, OpenMpiOnOneMachineNeedsNoAddress) {
  const ProcessRank launch = detect_launch({}, from(kOpenMpi));
  expect(launch, 1, 4, 1, "Open MPI");
  EXPECT_EQ(launch.master_addr, "127.0.0.1");
}

TEST(Launcher, OpenMpiOnTwoMachinesNeedsAnAddress) {
  Variables two = kOpenMpi;
  two["OMPI_COMM_WORLD_LOCAL_SIZE"] = "2";
  EXPECT_HAS(error_of(two), "set MASTER_ADDR and MASTER_PORT");
  two["MASTER_ADDR"] = "head";
  EXPECT_EQ(detect_launch({}, from(two)).master_addr, "head");
}

TEST(Launcher, Pmi) {
  const Variables mpich{
      {"PMI_RANK", "2"}, {"PMI_SIZE", "3"}, {"MPI_LOCALRANKID", "0"}, {"MASTER_ADDR", "head"}};
  expect(detect_launch({}, from(mpich)), 2, 3, 0, "PMI");
  // Set by Open MPI and Slurm, with no size: no launcher of its own.
  EXPECT_FALSE(detect_launch({}, from({{"PMIX_RANK", "2"}})).launched());
}

TEST(Launcher, Mvapich2) {
  const Variables mv2{
      {"MV2_COMM_WORLD_RANK", "1"}, {"MV2_COMM_WORLD_SIZE", "2"}, {"MASTER_ADDR", "head"}};
  expect(detect_launch({}, from(mv2)), 1, 2, 1, "MVAPICH2");
}

TEST(Launcher, Slurm) {
  const ProcessRank launch = detect_launch({}, from(kSlurm));
  expect(launch, 5, 8, 1, "Slurm");
  EXPECT_EQ(launch.master_addr, "gpu07");
  EXPECT_EQ(launch.master_port, 20000 + 1234567 % 20000);
}

TEST(Launcher, BatchScriptOutsideOfSrunIsOneProcess) {
  Variables script = kSlurm;
  script.erase("SLURM_STEP_ID");
  EXPECT_FALSE(detect_launch({}, from(script)).launched());
}

TEST(Launcher, FlagsThenOwnVariablesSettleIt) {
  const Variables own{{"SHUNT_RANK", "1"}, {"SHUNT_WORLD_SIZE", "2"}, {"SHUNT_MASTER_PORT", "77"}};
  const ProcessRank by_variables = detect_launch({}, from(kTorch + kOpenMpi + own));
  expect(by_variables, 1, 2, 1, "SHUNT_*");
  EXPECT_EQ(by_variables.master_port, 77);
  RankFlags flags;
  flags.rank = 4;
  flags.world = 5;
  flags.local_rank = 0;
  flags.master_addr = "h";
  const ProcessRank by_flags = detect_launch(flags, from(kTorch + kOpenMpi + own));
  expect(by_flags, 4, 5, 0, "the command line");
  EXPECT_EQ(by_flags.master_addr, "h");
}

TEST(Launcher, TwoThatDisagreeAreBothPrinted) {
  const std::string error = error_of(kTorch + kOpenMpi);
  EXPECT_HAS(error, "torchrun says rank 3 of 8 (RANK, WORLD_SIZE)");
  EXPECT_HAS(error, "Open MPI says rank 1 of 4 (OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE)");
  EXPECT_HAS(error, "SHUNT_RANK");
}

TEST(Launcher, TwoThatAgreeAreFine) {
  const Variables pmi{{"PMI_RANK", "1"}, {"PMI_SIZE", "4"}};
  expect(detect_launch({}, from(kOpenMpi + pmi)), 1, 4, 1, "Open MPI");
}

TEST(Launcher, TorchrunOnceASlurmTask) {
  Variables nested = kTorch + kSlurm;
  nested["SLURM_PROCID"] = "1";
  nested["SLURM_NTASKS"] = "4";
  EXPECT_HAS(error_of(nested), "two launchers disagree");
  nested["GROUP_RANK"] = "1";
  nested["GROUP_WORLD_SIZE"] = "4";
  expect(detect_launch({}, from(nested)), 3, 8, 1, "torchrun");
}

TEST(Launcher, BadValues) {
  EXPECT_HAS(error_of({{"RANK", "3"}}), "RANK is set, but WORLD_SIZE is not");
  EXPECT_HAS(error_of({{"WORLD_SIZE", "3"}}), "WORLD_SIZE is set, but RANK is not");
  EXPECT_HAS(error_of({{"RANK", "3x"}, {"WORLD_SIZE", "4"}}), "RANK is \"3x\"");
  EXPECT_HAS(error_of({{"RANK", "-1"}, {"WORLD_SIZE", "4"}}), "RANK is \"-1\"");
  EXPECT_HAS(error_of({{"RANK", "99999999999"}, {"WORLD_SIZE", "4"}}), "no number");
  EXPECT_HAS(error_of({{"RANK", "4"}, {"WORLD_SIZE", "4"}}), "ranks go from 0 to 3");
  EXPECT_HAS(
      error_of(
          {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "h"}, {"MASTER_PORT", "70000"}}),
      "from 1 to 65535");
  RankFlags flags;
  flags.rank = 1;
  EXPECT_HAS(error_of({}, flags), "--rank and --world-size go together");
}

TEST(Launcher, FirstHost) {
  EXPECT_EQ(first_host("node1"), "node1");
  EXPECT_EQ(first_host("node1,node2"), "node1");
  EXPECT_EQ(first_host("gpu[07-12,20],login1"), "gpu07");
  EXPECT_EQ(first_host("gpu[3]-ib,x"), "gpu3-ib");
  EXPECT_EQ(first_host("gpu[3"), "");
  EXPECT_EQ(first_host(""), "");
}

}  // namespace
}  // namespace shunt
