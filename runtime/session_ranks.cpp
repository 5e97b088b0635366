// A session that is one of several ranks: groups of the mesh, and how rank 0's runs become
// everybody's. Rank 0 sends the sizes of each run with the contents of its inputs before it runs
// itself; the others wait in follow(). Tested by tests/tools/mesh_test.cpp.
#include <algorithm>
#include <cstring>

#include "ir/error.h"
#include "runtime/session_impl.h"

namespace shunt {

namespace {

// Bits of StepDescriptor::flags.
constexpr int64_t kForced = 1;  // values to force come with the inputs
constexpr int64_t kEager = 2;   // not as a captured graph, whose sizes would be the bucket's

}  // namespace

/// Communicators along the axes that collectives of the plan name, made in the same order by all
/// ranks.
void Session::Impl::join_ranks() {
  std::array<bool, 5> used{};
  used[static_cast<size_t>(MeshAxis::world)] = true;
  for (const Program& p : plan.programs) {
    for (const Step& s : p.steps) {
      if (const auto* c = std::get_if<Collective>(&s.what))
        used[static_cast<size_t>(c->over)] = true;
    }
  }
  for (size_t i = 0; i < used.size(); ++i) {
    if (!used[i]) continue;
    const auto axis = static_cast<MeshAxis>(i);
    machine.groups[i] = machine.world->group(
        {std::string(axis_name(axis)), plan.mesh.group(axis, machine.world->rank())});
  }
}

/// Rank 0 hands out pages for all, so the rank with the least memory decides.
int64_t Session::Impl::agree_on_pages(int64_t mine) {
  const auto ranks = static_cast<size_t>(machine.world->size());
  std::vector<int32_t> all(ranks, static_cast<int32_t>(mine));
  Communicator& group = *machine.groups[static_cast<size_t>(MeshAxis::world)];
  const CommSite site{0, -1, "pages of the KV cache"};
  if (cpu()) {
    const auto own = static_cast<int32_t>(mine);
    group.all_gather(&own, all.data(), 1, DType::i32, site, nullptr);
    return *std::min_element(all.begin(), all.end());
  }
  const auto bytes = static_cast<int64_t>(ranks * sizeof(int32_t));
  DeviceBuffer buffer(bytes, "the handshake of ranks");
  const auto own = static_cast<int64_t>(sizeof(int32_t)) * machine.world->rank();
  copy_to_device(buffer.data() + own, &all[0], sizeof(int32_t), machine.gpu->stream);
  group.all_gather(buffer.data() + own, buffer.data(), 1, DType::i32, site, machine.stream());
  copy_to_host(all.data(), buffer.data(), bytes, machine.gpu->stream);
  machine.wait(site.loc);
  return *std::min_element(all.begin(), all.end());
}

/// Brings the counters of all ranks together, on every rank: rank r's from r * counters_bytes on.
void Session::Impl::gather_counters() {
  ++machine.step;
  machine.world->control().set_progress({machine.step, -1});
  const std::byte* own = addresses.arenas[static_cast<size_t>(Arena::counters)];
  const CommSite site{machine.step, -1, "route counters"};
  machine.groups[static_cast<size_t>(MeshAxis::world)]->all_gather(
      own, gathered, plan.counters_bytes / static_cast<int64_t>(sizeof(int32_t)), DType::i32, site,
      machine.stream());
}

/// Inputs of a program that rank 0's caller fills; logits of @sample are on every rank already.
/// Values to force travel only when they changed.
std::vector<int> Session::Impl::ports_to_send(const Prepared& p) const {
  std::vector<int> ports;
  for (const int i : p.inputs) {
    if (!plan.ports[static_cast<size_t>(i)].output) ports.push_back(i);
  }
  return ports;
}

int64_t Session::Impl::port_bytes(const Port& port, const Sizes& s) const {
  DimEnv env;
  for (const DimDecl& d : plan.dims)
    env[d.name] = d.name == "T" ? s.T : d.name == "S" ? s.S : d.name == "R" ? s.R : d.max;
  return buffer_of(port).type.bytes().evaluate(env);
}

/// The payload: sizes of every dp group (three int32 each), then its inputs, group after group.
void Session::Impl::send(const Prepared& p, std::span<const Sizes> groups, bool graph) {
  std::vector<int> ports = ports_to_send(p);
  const bool forced = std::any_of(p.forced.begin(), p.forced.end(),
                                  [&](int i) { return forced_dirty[static_cast<size_t>(i)] != 0; });
  if (forced) ports.insert(ports.end(), p.forced.begin(), p.forced.end());
  std::vector<std::byte> payload;
  const auto append = [&](const void* from, size_t bytes) {
    const auto* first = static_cast<const std::byte*>(from);
    payload.insert(payload.end(), first, first + bytes);
  };
  for (const Sizes& s : groups) {
    const int32_t values[] = {static_cast<int32_t>(s.T), static_cast<int32_t>(s.S),
                              static_cast<int32_t>(s.R)};
    append(values, sizeof values);
  }
  for (size_t g = 0; g < groups.size(); ++g) {
    for (const int i : ports) {
      const Port& port = plan.ports[static_cast<size_t>(i)];
      append(host_of(buffer_of(port), static_cast<int>(g)),
             static_cast<size_t>(port_bytes(port, groups[g])));
    }
  }
  StepDescriptor step;
  step.program = static_cast<int32_t>(&p - programs.data());
  step.flags = (forced ? kForced : 0) | (graph ? 0 : kEager);
  machine.world->control().send_step(step, payload);
}

void Session::Impl::receive(const StepDescriptor& step, std::span<const std::byte> payload) {
  SHUNT_CHECK(step.program >= 0 && static_cast<size_t>(step.program) < programs.size(),
              "rank 0 runs program {}", step.program);
  Prepared& p = programs[static_cast<size_t>(step.program)];
  size_t at = 0;
  const auto take = [&](void* to, size_t bytes) {
    SHUNT_CHECK(at + bytes <= payload.size(), "the inputs of a step are {} bytes short",
                at + bytes - payload.size());
    if (to != nullptr) std::memcpy(to, payload.data() + at, bytes);
    at += bytes;
  };
  std::vector<Sizes> groups;
  for (int g = 0; g < plan.mesh.dp; ++g) {
    int32_t values[3];
    take(values, sizeof values);
    groups.push_back({values[0], values[1], values[2]});
  }
  std::vector<int> ports = ports_to_send(p);
  if ((step.flags & kForced) != 0) ports.insert(ports.end(), p.forced.begin(), p.forced.end());
  await_upload();
  for (int g = 0; g < plan.mesh.dp; ++g) {
    for (const int i : ports) {
      const Port& port = plan.ports[static_cast<size_t>(i)];
      const bool mine = g == group();
      take(mine ? host_of(buffer_of(port)) : nullptr,
           static_cast<size_t>(port_bytes(port, groups[static_cast<size_t>(g)])));
      if (mine) forced_dirty[static_cast<size_t>(i)] = 1;
    }
  }
  follows_eagerly = (step.flags & kEager) != 0;
  run(p, groups, nullptr, nullptr);
}

void Session::follow() {
  SHUNT_CHECK(impl_->machine.world != nullptr && !impl_->leads(), "rank 0 leads");
  ControlChannel& control = impl_->machine.world->control();
  std::vector<std::byte> payload;
  while (true) {
    const auto step = control.receive_step(payload, Milliseconds(1000));
    impl_->machine.world->check();
    if (!step) continue;
    if (step->kind == StepDescriptor::Kind::stop) break;
    if (step->kind == StepDescriptor::Kind::counters) {
      impl_->activate();
      impl_->gather_counters();
    } else {
      impl_->receive(*step, payload);
    }
  }
  impl_->synchronize();
  impl_->leave_peers();
}

void Session::release() {
  if (!impl_->leads() || impl_->released) return;
  impl_->released = true;
  StepDescriptor stop;
  stop.kind = StepDescriptor::Kind::stop;
  impl_->machine.world->control().send_step(stop, {});
  if (!impl_->peer_memory) return;
  impl_->synchronize();
  impl_->leave_peers();
}

}  // namespace shunt
