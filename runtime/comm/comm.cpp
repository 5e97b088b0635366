// What all communicators share. Tested by tests/runtime/comm/in_process_test.cpp.
#include "runtime/comm/comm.h"

#include <algorithm>
#include <utility>

#include "ir/error.h"

namespace shunt {

Communicator::Communicator(CommGroup group, int world_rank) : group_(std::move(group)) {
  const auto& ranks = group_.ranks;
  SHUNT_CHECK(std::count(ranks.begin(), ranks.end(), world_rank) == 1,
              "rank {} must be once in group {} of {}", world_rank, group_.axis, ranks_text(ranks));
  rank_ = static_cast<int>(std::find(ranks.begin(), ranks.end(), world_rank) - ranks.begin());
}

std::string site_text(const char* op, const CommSite& site) {
  return fmt::format("step {}, {}{}{}", site.step, op, site.loc.empty() ? "" : " ", site.loc);
}

}  // namespace shunt
