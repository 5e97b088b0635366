// Ranks, axes and groups of a mesh.
#include <gtest/gtest.h>

#include <set>

#include "ir/error.h"
#include "ir/module.h"

namespace shunt {
namespace {

TEST(Mesh, AxesShareTheRanks) {
  const Mesh m{2, 3, 6, 1};
  validate(m);
  EXPECT_EQ(m.size(), 6);
  EXPECT_EQ(m.index(MeshAxis::dp, 4), 1);
  EXPECT_EQ(m.index(MeshAxis::tp, 4), 1);
  EXPECT_EQ(m.index(MeshAxis::ep, 4), 4);
  EXPECT_EQ(m.index(MeshAxis::etp, 4), 0);
  EXPECT_EQ(m.group(MeshAxis::tp, 4), (std::vector<int>{3, 4, 5}));
  EXPECT_EQ(m.group(MeshAxis::dp, 4), (std::vector<int>{1, 4}));
  EXPECT_EQ(m.group(MeshAxis::world, 4), (std::vector<int>{0, 1, 2, 3, 4, 5}));
}

TEST(Mesh, GroupsOfAnAxisCoverEveryRankOnce) {
  const Mesh m{2, 4, 4, 2};
  for (const MeshAxis axis : {MeshAxis::dp, MeshAxis::tp, MeshAxis::ep, MeshAxis::etp}) {
    std::multiset<int> seen;
    for (int r = 0; r < m.size(); ++r) {
      const std::vector<int> group = m.group(axis, r);
      EXPECT_EQ(group.at(static_cast<size_t>(m.index(axis, r))), r);
      if (m.index(axis, r) == 0) seen.insert(group.begin(), group.end());
    }
    EXPECT_EQ(seen.size(), 8u);
    EXPECT_EQ(std::set<int>(seen.begin(), seen.end()).size(), 8u);
  }
}

TEST(Mesh, AnOpForOtherRanksIsRefused) {
  const auto module = ir::parse(R"(module @t stage(placed)
mesh dp 1 tp 2 ep 1 etp 2
dim T in [1, 16]
graph @step(%x : f32[T, 2]) {
  %y = all_reduce %x {ranks = 3} : f32[T, 2]
  return %y
}
)");
  std::string error;
  try {
    ir::verify(*module);
  } catch (const UserError& e) {
    error = e.what();
  }
  EXPECT_NE(error.find("(V7): all_reduce is for 3 ranks along tp, the mesh (dp 1, tp 2, ep 1, etp "
                       "2) has 2"),
            std::string::npos)
      << error;
}

TEST(Mesh, ADispatchFitsTheMesh) {
  const auto module = ir::parse(R"(module @t stage(placed)
mesh dp 2 tp 1 ep 2 etp 1
dim T in [1, 16]
graph @step(%x : f32[T, 8], %ids : i32[T, 2], %w : f32[T, 2], %t : f32[12]) {
  %a, %b, %c, %d = dispatch %x, %ids, %w, %t {experts = 4, ranks = 3} : f32[3*T, 8], i32[3*T, 2], f32[3*T, 2], i32[T, 3]
  return %a
}
)");
  try {
    ir::verify(*module);
    ADD_FAILURE() << "no error";
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("(V7): dispatch is for 3 ranks along dp"),
              std::string::npos)
        << e.what();
  }
}

TEST(Mesh, RefusesWhatDoesNotFit) {
  EXPECT_THROW(validate({2, 2, 2, 1}), UserError);
  EXPECT_THROW(validate({0, 2, 2, 1}), UserError);
}

}  // namespace
}  // namespace shunt
