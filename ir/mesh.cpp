// Arithmetic of ranks. Tested by tests/ir/mesh_test.cpp.
#include "ir/mesh.h"

#include <fmt/format.h>

#include "ir/error.h"

namespace shunt {

int Mesh::size(MeshAxis axis) const {
  switch (axis) {
    case MeshAxis::dp: return dp;
    case MeshAxis::tp: return tp;
    case MeshAxis::ep: return ep;
    case MeshAxis::etp: return etp;
    case MeshAxis::world: return size();
  }
  internal_error(__FILE__, __LINE__, "axis {} of a mesh", static_cast<int>(axis));
}

int Mesh::index(MeshAxis axis, int rank) const {
  switch (axis) {
    case MeshAxis::dp: return rank / tp;
    case MeshAxis::tp: return rank % tp;
    case MeshAxis::ep: return rank / etp;
    case MeshAxis::etp: return rank % etp;
    case MeshAxis::world: return rank;
  }
  internal_error(__FILE__, __LINE__, "axis {} of a mesh", static_cast<int>(axis));
}

std::vector<int> Mesh::group(MeshAxis axis, int rank) const {
  // tp and etp are the inner axes: their ranks are neighbours, those of dp and ep are this far
  // apart.
  const int stride = axis == MeshAxis::dp ? tp : axis == MeshAxis::ep ? etp : 1;
  const int first = rank - index(axis, rank) * stride;
  std::vector<int> ranks;
  for (int i = 0; i < size(axis); ++i) ranks.push_back(first + i * stride);
  return ranks;
}

std::string Mesh::to_string() const {
  return fmt::format("dp {}, tp {}, ep {}, etp {}", dp, tp, ep, etp);
}

void validate(const Mesh& mesh) {
  for (const MeshAxis axis : {MeshAxis::dp, MeshAxis::tp, MeshAxis::ep, MeshAxis::etp}) {
    if (mesh.size(axis) < 1)
      user_error("mesh {}: {} is below 1", mesh.to_string(), axis_name(axis));
    if (mesh.size(axis) > kMaxRanks)
      user_error("mesh {}: {} is above {} ranks", mesh.to_string(), axis_name(axis), kMaxRanks);
  }
  if (mesh.dp * mesh.tp != mesh.ep * mesh.etp) {
    user_error("mesh {}: dp * tp = {} ranks, but ep * etp = {}", mesh.to_string(),
               mesh.dp * mesh.tp, mesh.ep * mesh.etp);
  }
  if (mesh.size() > kMaxRanks)
    user_error("mesh {} has {} ranks, more than {}", mesh.to_string(), mesh.size(), kMaxRanks);
}

}  // namespace shunt
