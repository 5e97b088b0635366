// A session whose kernels reach the memory of other ranks: allocates the peer arena with the others
// and makes the tables that kernels read (runtime/plan/peer_table.h). Tested on GPUs by
// tools/device_check.sh (mesh, launch, kill).
#include <algorithm>
#include <set>

#include "ir/error.h"
#include "runtime/plan/peer_table.h"
#include "runtime/session_impl.h"

namespace shunt {

namespace {

/// The buffers and axes that kernels of the plan name, without repetition.
std::set<std::pair<int, MeshAxis>> tables_of(const Plan& plan) {
  std::set<std::pair<int, MeshAxis>> tables;
  for (const Program& p : plan.programs) {
    for (const Step& s : p.steps) {
      const auto* launch = std::get_if<Launch>(&s.what);
      if (launch == nullptr) continue;
      for (const Arg& a : launch->args) {
        if (a.kind == Arg::Kind::peers) tables.emplace(a.index, a.over);
      }
    }
  }
  return tables;
}

}  // namespace

void Session::Impl::join_peers() {
  const auto wanted = tables_of(plan);
  const int rank = machine.rank();
  std::set<int> reach;
  for (const auto& [buffer, axis] : wanted) {
    for (const int r : plan.mesh.group(axis, rank)) reach.insert(r);
  }
  peer_memory = machine.world->peer_memory(plan.peer_bytes, {reach.begin(), reach.end()});
  addresses.arenas[static_cast<size_t>(Arena::peer)] = peer_memory->of(rank);

  std::vector<PeerTable> tables;
  for (const auto& [index, axis] : wanted) {
    const Buffer& buffer = plan.buffers[static_cast<size_t>(index)];
    const std::vector<int> group = plan.mesh.group(axis, rank);
    PeerTable& table = tables.emplace_back();
    table.guard = reinterpret_cast<PeerGuard*>(peer_memory->guard());
    table.bytes = buffer.bytes;
    table.position = plan.mesh.index(axis, rank);
    table.ranks = static_cast<int32_t>(group.size());
    for (size_t i = 0; i < group.size(); ++i)
      table.at[i] = peer_memory->of(group[i]) + buffer.offset;
  }
  const auto bytes = static_cast<int64_t>(tables.size() * sizeof(PeerTable));
  device_peer_tables = DeviceBuffer(bytes, "addresses of peers");
  copy_to_device(device_peer_tables.data(), tables.data(), bytes, machine.gpu->stream);
  machine.gpu->stream.synchronize();
  std::byte* at = device_peer_tables.data();
  for (const auto& key : wanted) {
    addresses.peer_tables[key] = at;
    at += sizeof(PeerTable);
  }
}

/// Before all ranks meet to end: from then on each may free its memory.
void Session::Impl::leave_peers() {
  if (peer_memory) peer_memory->close();
}

}  // namespace shunt
