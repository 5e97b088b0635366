#include "tests/meshes/random_mesh.h"

#include <algorithm>

#include "passes/place/moe_shapes.h"

namespace shunt {

Mesh draw_mesh(Dice& dice, int64_t most) {
  const auto n =
      static_cast<int>(dice.number(std::min<int64_t>(dice.one_in(12) ? 1 : 2, most), most));
  const auto divisor = [&] {
    int d = 0;
    do d = static_cast<int>(dice.number(1, n));
    while (n % d != 0);
    return d;
  };
  const int tp = divisor(), ep = divisor();
  return {n / tp, tp, ep, n / ep};
}

ExpertMap draw_map(Dice& dice, const ir::Module& module, const Mesh& mesh) {
  ExpertMap map;
  map.ranks = mesh.ep;
  for (const passes::MoeShape& shape : passes::moe_shapes(module)) {
    ExpertMapLayer& layer = map.layers.emplace_back();
    layer.layer = shape.layer;
    for (int e = 0; e < shape.experts; ++e) {
      const int64_t copies = dice.one_in(3) ? dice.number(1, mesh.ep) : 1;
      std::vector<int32_t> ranks = dice.different(copies, mesh.ep);
      std::sort(ranks.begin(), ranks.end());
      std::vector<ExpertReplica>& replicas = layer.experts.emplace_back();
      double left = 1;
      for (const int32_t rank : ranks) {
        const double share = replicas.size() + 1 == ranks.size() ? left : left * 0.4;
        replicas.push_back({rank, share});
        left -= share;
      }
    }
  }
  return map;
}

}  // namespace shunt
