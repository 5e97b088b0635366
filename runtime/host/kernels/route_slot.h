// Which rank takes a route: the table that placement makes (passes/place/layout.h, route_table).
#pragma once

#include <cstdint>

#include "ir/error.h"
#include "ir/random.h"

namespace shunt::host {

struct RouteTable {
  const float* rows;  // [experts, replicas, 3] of position, slot, upper end of the replica's share
  int64_t experts, replicas;

  /// The slot of expert `id` on ep position `ep` if that takes the route of the token, else -1.
  int32_t slot_of(int32_t id, int64_t token, int64_t ep) const {
    if (id < 0) return -1;
    SHUNT_CHECK(id < experts, "expert {} of {}", id, experts);
    const float u = route_share(static_cast<uint32_t>(token));
    const float* row = rows + id * replicas * 3;
    for (int64_t i = 0; i < replicas; ++i, row += 3) {
      if (u >= row[2]) continue;
      return static_cast<int64_t>(row[0]) == ep ? static_cast<int32_t>(row[1]) : -1;
    }
    return -1;
  }
};

}  // namespace shunt::host
