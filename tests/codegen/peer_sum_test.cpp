// Which row sums over ranks, and the peer arena that comes of it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "codegen/lower.h"
#include "ir/collectives.h"
#include "ir/error.h"

namespace shunt::codegen {
namespace {

struct Case {
  std::string target = "sm_90a";
  std::string mesh = "dp 1 tp 2 ep 1 etp 2";
  std::string op = "all_reduce %x {over = tp, ranks = 2} : bf16[T, 2048]";
  std::string type = "bf16[T, 2048]";
  bool peer_memory = true;
};

/// Decode for one token, and prompts of up to 4096: as the regimes of a model.
Plan plan_of(const Case& c, const std::string& only_row = "") {
  const size_t at = c.op.find("ranks = ") + 8;
  const std::string ranks = c.op.substr(at, c.op.find('}') - at);
  const auto module =
      ir::parse(fmt::format(R"mir(module @t stage(placed)
mesh {}
dim R in [1, 8]
dim S in [1, 8]
dim T in [0, 4096]
graph @step.decode.1(%x : {}) dims(T in [0, 1]) {{
  %y = {}
  return %y
}}
graph @step.decode.8(%x : {}) dims(T in [0, 8]) {{
  %y = {}
  %z = all_reduce %y {{over = tp, ranks = {}}} : {}
  return %z
}}
graph @step.prefill.4096(%x : {}) {{
  %y = {}
  return %y
}})mir",
                            c.mesh, c.type, c.op, c.type, c.op, ranks, c.type, c.type, c.op));
  ir::verify(*module);
  LowerOptions options{find_target(c.target), {4096, 8, 4096, 8, 64}, {}, only_row};
  options.peer_memory = c.peer_memory;
  Plan plan = lower(*module, options).plan;
  plan.activation_dtype = "bf16";
  plan.model.vocab_size = 1;
  for (Kernel& k : plan.kernels) k.digest = "00";
  return plan;
}

std::string rows_of(const Plan& plan) {
  std::string rows;
  for (const Program& p : plan.programs) rows += (rows.empty() ? "" : " ") + p.steps[0].name;
  return rows;
}

TEST(PeerSum, ByTheirSize) {
  EXPECT_EQ(rows_of(plan_of({})), "all_reduce.peer all_reduce.peer all_reduce.comm");
  EXPECT_EQ(rows_of(plan_of({.peer_memory = false})),
            "all_reduce.comm all_reduce.comm all_reduce.comm");
  EXPECT_EQ(rows_of(plan_of({.mesh = "dp 1 tp 8 ep 1 etp 8",
                             .op = "all_reduce %x {over = tp, ranks = 8} : f32[T, 8192]",
                             .type = "f32[T, 8192]"})),
            "all_reduce.peer all_reduce.peer_sliced all_reduce.comm");
}

TEST(PeerSum, AxesThatAreTooLong) {
  const Plan plan = plan_of({.mesh = "dp 1 tp 16 ep 16 etp 1",
                             .op = "all_reduce %x {over = tp, ranks = 16} : bf16[T, 2048]"});
  EXPECT_EQ(plan.peer_bytes, 0);
  EXPECT_EQ(rows_of(plan), "all_reduce.comm all_reduce.comm all_reduce.comm");
}

TEST(PeerSum, NothingOnOneRankOrTheCpu) {
  EXPECT_EQ(plan_of({.target = "cpu",
                     .op = "all_reduce %x {over = tp, ranks = 2} : f32[T, 2048]",
                     .type = "f32[T, 2048]"})
                .peer_bytes,
            0);
  EXPECT_EQ(rows_of(plan_of({.mesh = "dp 2 tp 1 ep 2 etp 1",
                             .op = "all_reduce %x {over = tp, ranks = 1} : bf16[T, 2048]"})),
            "all_reduce.comm all_reduce.comm all_reduce.comm");
}

/// All programs share what a role needs at most, and nothing else shares it.
TEST(PeerSum, RegionsOfTheArena) {
  for (const char* row : {"all_reduce.peer", "all_reduce.peer_sliced"}) {
    const Plan plan = plan_of({}, row);
    validate(plan);
    EXPECT_TRUE(plan_from_json(to_json(plan)) == plan);
    std::vector<Buffer> peers;
    for (const Buffer& b : plan.buffers) {
      if (b.arena == Arena::peer) peers.push_back(b);
    }
    std::sort(peers.begin(), peers.end(),
              [](const Buffer& a, const Buffer& b) { return a.offset < b.offset; });
    std::vector<std::string> names;
    int64_t end = 0;
    for (const Buffer& b : peers) {
      names.push_back(b.name);
      EXPECT_EQ(b.offset, end) << b.name;
      end = (b.offset + b.bytes + 255) / 256 * 256;
    }
    EXPECT_EQ(end, plan.peer_bytes);
    const bool sliced = std::string(row) == "all_reduce.peer_sliced";
    const std::vector<std::string> expected =
        sliced ? std::vector<std::string>{"peer_sum_sliced.tp.epochs", "peer_sum_sliced.tp.parts",
                                          "peer_sum_sliced.tp.sums"}
               : std::vector<std::string>{"peer_sum.tp.epochs", "peer_sum.tp.landing"};
    EXPECT_EQ(names, expected);
  }
}

/// Grids are no larger than there are counters of epochs, and empty without tokens.
TEST(PeerSum, Grids) {
  for (const char* row : {"all_reduce.peer", "all_reduce.peer_sliced"}) {
    for (const Program& p : plan_of({}, row).programs) {
      const auto* l = std::get_if<Launch>(&p.steps[0].what);
      if (l == nullptr) continue;
      EXPECT_EQ(l->grid[0].evaluate(DimEnv{{"T", 0}}), 0);
      const int64_t most = l->grid[0].evaluate(DimEnv{{"T", p.dims.back().max}});
      EXPECT_GE(most, 1) << p.name;
      EXPECT_LE(most, 128) << p.name;
    }
  }
}

TEST(PeerSum, TheModelPrefersWhatIsQuicker) {
  const Target& h200 = find_target("sm_90a");
  EXPECT_LT(peer_seconds(4096, 4, h200), 0.5 * comm_seconds(2, 4096, 4, h200));
  EXPECT_LT(peer_seconds(4096, 4, h200), peer_sliced_seconds(4096, 4, h200));
  EXPECT_LT(peer_sliced_seconds(512 << 10, 4, h200), peer_seconds(512 << 10, 4, h200));
  EXPECT_EQ(all_reduce_seconds(16 << 20, 4, true, h200), comm_seconds(2, 16 << 20, 4, h200));
  EXPECT_EQ(all_reduce_seconds(4096, 4, false, h200), comm_seconds(2, 4096, 4, h200));
  EXPECT_EQ(all_reduce_seconds(4096, 16, true, h200), comm_seconds(2, 4096, 16, h200));
  EXPECT_EQ(all_reduce_seconds(4096, 4, true, h200), peer_seconds(4096, 4, h200));
}

}  // namespace
}  // namespace shunt::codegen
