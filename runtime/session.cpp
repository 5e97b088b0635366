// Session's public functions and the running of programs. Entry point Session::run_step(); the
// order of a run's events is in Impl::run(). Tested by tests/runtime/session/session_test.cpp (cpu)
// and by the GPU tests.
#include "runtime/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "ir/error.h"
#include "runtime/session_impl.h"

namespace shunt {

namespace {

/// What a run writes into the rows of an input that lie between its own size and its bucket's.
struct Padding {
  enum class Rows { T, S, S_plus_1, R } rows;
  enum class Value { zero, one_f32, minus_one, spare_page, spare_slot, tokens } value;
};

std::optional<Padding> padding_of(std::string_view role) {
  using R = Padding::Rows;
  using V = Padding::Value;
  if (role == "tokens" || role == "positions") return Padding{R::T, V::zero};
  if (role == "seq_starts") return Padding{R::S_plus_1, V::tokens};
  if (role == "kv_lens") return Padding{R::S, V::zero};
  if (role == "block_tables") return Padding{R::S, V::spare_page};
  if (role == "state_slots") return Padding{R::S, V::spare_slot};
  if (role == "logit_rows" || role == "temperature" || role == "top_k" || role == "uniform") {
    return Padding{R::R, V::zero};
  }
  if (role == "top_p") return Padding{R::R, V::one_f32};
  if (role.starts_with("forced.")) return Padding{R::T, V::minus_one};
  return std::nullopt;
}

/// What a program that all dp groups run must hold.
Sizes largest(std::span<const Sizes> groups) {
  Sizes most;
  for (const Sizes& s : groups) {
    most.T = std::max(most.T, s.T);
    most.S = std::max(most.S, s.S);
    most.R = std::max(most.R, s.R);
  }
  return most;
}

}  // namespace

bool Session::Impl::uses_graph(const Prepared& p) const {
  return !cpu() && options.cuda_graphs && !options.sync_each_step && p.bound->program().decode;
}

/// The program of @step for these sizes: of those whose ranges hold them, the one with the
/// smallest bound of T; a decode batch may run as prefill, not the other way round.
int Session::Impl::choose(bool decode, const Sizes& s) const {
  for (const bool kind : {true, false}) {
    if (kind && !decode) continue;
    int best = -1;
    for (size_t i = 0; i < plan.programs.size(); ++i) {
      const Program& p = plan.programs[i];
      if (p.graph != "step" || p.decode != kind || !holds(p, s, uses_graph(programs[i]))) continue;
      if (best < 0 ||
          range_of(p, dim_T).max < range_of(plan.programs[static_cast<size_t>(best)], dim_T).max) {
        best = static_cast<int>(i);
      }
    }
    if (best >= 0) return best;
  }
  internal_error(__FILE__, __LINE__,
                 "the plan has no program for {} tokens of {} sequences with {} rows of logits",
                 s.T, s.S, s.R);
}

/// A program's range of a dim of the plan; any value if it does not declare it.
DimDecl Session::Impl::range_of(const Program& p, int dim) const {
  if (dim >= 0) {
    const std::string& name = plan.dims[static_cast<size_t>(dim)].name;
    for (const DimDecl& d : p.dims) {
      if (d.name == name) return d;
    }
  }
  return {"", 0, INT32_MAX};
}

bool Session::Impl::holds(const Program& p, const Sizes& s, bool padded) const {
  const auto in = [&](int dim, int64_t value) {
    const DimDecl d = range_of(p, dim);
    return value <= d.max && (padded || value >= d.min);
  };
  return in(dim_T, s.T) && in(dim_S, s.S) && in(dim_R, s.R);
}

void Session::Impl::set_upper_dims(const Program& p) {
  for (size_t i = 0; i < dims.size(); ++i) {
    const DimDecl d = range_of(p, static_cast<int>(i));
    dims[i] = d.name.empty() ? plan.dims[i].max : d.max;
  }
}

void Session::Impl::set_dim(int dim, int64_t value) {
  if (dim >= 0) dims[static_cast<size_t>(dim)] = value;
}

/// Runs `p` over inputs of `s`: eagerly at these sizes, or as a graph at the program's upper
/// bounds.
void Session::Impl::run(Prepared& p, std::span<const Sizes> groups, StepObserver* observer,
                        std::vector<StepTime>* times) {
  if (!alive) throw DeviceError("an earlier run failed: the session cannot be used any more");
  activate();
  const bool graph = uses_graph(p) && observer == nullptr && times == nullptr && !follows_eagerly;
  if (leads() && !starting) send(p, groups, graph);
  if (machine.world != nullptr) machine.world->control().set_progress({++machine.step, -1});
  await_upload();  // the mirror is about to change
  const Sizes s = sizes = groups[static_cast<size_t>(group())];
  const Program& program = p.bound->program();
  Sizes bucket = largest(groups);
  set_upper_dims(program);
  if (graph) {
    // Every sequence has one token, so there are no more sequences and rows than tokens.
    bucket.T = range_of(program, dim_T).max;
    bucket.S = std::min(range_of(program, dim_S).max, bucket.T);
    bucket.R = std::min(range_of(program, dim_R).max, bucket.T);
  }
  set_dim(dim_T, bucket.T);
  set_dim(dim_S, bucket.S);
  set_dim(dim_R, bucket.R);
  group_rows = bucket.R;
  pad(p, s, bucket);
  write_true_dims(s);
  try {
    if (!cpu()) upload(p);
    if (options.poison) poison(Arena::workspace, program.workspace_bytes);
    if (!graph || !p.graph) p.bound->set_dims(dims);
    if (graph) {
      run_graph(p);
    } else {
      run_steps(p, observer, times);
    }
  } catch (const DeviceError&) {
    alive = false;
    throw;
  }
}

/// The first use runs eagerly at the bucket's sizes, which loads what libraries load lazily; the
/// second captures.
void Session::Impl::run_graph(Prepared& p) {
  Stream& stream = machine.gpu->stream;
  if (!p.warm) {
    p.warm = true;
    return p.bound->run_all();
  }
  if (!p.graph) p.graph = Graph::capture(stream, [&] { p.bound->run_all(); });
  p.graph.launch(stream);
}

void Session::Impl::run_steps(Prepared& p, StepObserver* observer, std::vector<StepTime>* times) {
  const Program& program = p.bound->program();
  if (observer == nullptr && times == nullptr && !options.sync_each_step) return p.bound->run_all();
  std::vector<Event> events;
  if (times != nullptr && !cpu()) {
    for (size_t i = 0; i <= program.steps.size(); ++i) events.emplace_back(true);
    machine.gpu->stream.record(events[0]);
  }
  for (size_t i = 0; i < program.steps.size(); ++i) {
    const auto start = std::chrono::steady_clock::now();
    run_named(p, i, options.sync_each_step || observer != nullptr);
    if (times != nullptr) {
      const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
      times->push_back(step_time(program.steps[i], spent.count()));
      if (!cpu()) machine.gpu->stream.record(events[i + 1]);
    }
    if (observer != nullptr) observe(program, i, *observer);
  }
  if (events.empty()) return;
  machine.gpu->stream.synchronize();
  for (size_t i = 0; i < program.steps.size(); ++i)
    (*times)[i].seconds = events[i + 1].seconds_since(events[i]);
}

void Session::Impl::run_named(Prepared& p, size_t step, bool wait) {
  try {
    p.bound->run_one(step);
    if (wait) machine.wait(p.bound->program().steps[step].loc);
  } catch (const DeviceError& e) {
    const Step& s = p.bound->program().steps[step];
    throw DeviceError(fmt::format("step {} of {} ({} at {}): {}", step, p.bound->program().name,
                                  s.name, s.loc, e.what()));
  }
}

StepTime Session::Impl::step_time(const Step& s, double seconds) const {
  DimEnv env;
  for (size_t i = 0; i < dims.size(); ++i) env[plan.dims[i].name] = dims[i];
  return {s.name, s.loc, seconds, s.bytes.evaluate(env), s.flops.evaluate(env)};
}

void Session::Impl::observe(const Program& program, size_t step, StepObserver& observer) {
  observer.after_step(
      *self, {&program, &program.steps[step], static_cast<int>(step), sizes.T, sizes.S, sizes.R});
}

/// Gives the rows of inputs beyond the true sizes values that no kernel can be led astray by.
void Session::Impl::pad(const Prepared& p, const Sizes& s, const Sizes& bucket) {
  if (s.T == bucket.T && s.S == bucket.S && s.R == bucket.R) return;
  for (const auto* list : {&p.inputs, &p.forced}) {
    for (const int i : *list) {
      const Port& port = plan.ports[static_cast<size_t>(i)];
      pad_port(port, s, bucket);
      if (list == &p.forced) forced_dirty[static_cast<size_t>(i)] = 1;
    }
  }
}

void Session::Impl::pad_port(const Port& port, const Sizes& s, const Sizes& bucket) {
  const std::optional<Padding> padding = padding_of(port.role);
  if (!padding) return;
  const Buffer& b = buffer_of(port);
  int64_t columns = 1;
  for (size_t i = 1; i < b.type.shape.size(); ++i) columns *= b.type.shape[i].constant();
  int64_t from = 0, to = 0;
  switch (padding->rows) {
    case Padding::Rows::T: from = s.T, to = bucket.T; break;
    case Padding::Rows::S: from = s.S, to = bucket.S; break;
    case Padding::Rows::S_plus_1: from = s.S + 1, to = bucket.S + 1; break;
    case Padding::Rows::R: from = s.R, to = bucket.R; break;
  }
  if (s.T == 0 && padding->rows == Padding::Rows::S_plus_1)
    from = 0;  // an idle run has no first offset
  int32_t value = 0;
  switch (padding->value) {
    case Padding::Value::zero: break;
    case Padding::Value::one_f32: value = 0x3f800000; break;
    case Padding::Value::minus_one: value = -1; break;
    case Padding::Value::spare_page: value = static_cast<int32_t>(pages); break;
    case Padding::Value::spare_slot: value = static_cast<int32_t>(self->slots()); break;
    case Padding::Value::tokens: value = static_cast<int32_t>(s.T); break;
  }
  auto* data = reinterpret_cast<int32_t*>(host_of(b));  // every such port is i32 or f32
  const int64_t end = std::min(to * columns, b.bytes / 4);
  for (int64_t i = from * columns; i < end; ++i) data[i] = value;
}

void Session::Impl::write_true_dims(const Sizes& s) {
  auto* values = reinterpret_cast<int32_t*>(io_host);
  for (size_t i = 0; i < dims.size(); ++i) values[i] = static_cast<int32_t>(dims[i]);
  if (dim_T >= 0) values[dim_T] = static_cast<int32_t>(s.T);
  if (dim_S >= 0) values[dim_S] = static_cast<int32_t>(s.S);
  if (dim_R >= 0) values[dim_R] = static_cast<int32_t>(s.R);
}

void Session::Impl::upload(const Prepared& p) {
  Stream& stream = machine.gpu->stream;
  for (const Segment& s : p.segments) {
    copy_to_device(addresses.dims + s.begin, io_host + s.begin, s.end - s.begin, stream);
  }
  for (const int i : p.forced) {
    if (!std::exchange(forced_dirty[static_cast<size_t>(i)], 0)) continue;
    const Buffer& b = buffer_of(plan.ports[static_cast<size_t>(i)]);
    copy_to_device(addresses.dims + io_offset(b), host_of(b), b.bytes, stream);
  }
  stream.record(*uploaded);
  upload_pending = true;
}

void Session::Impl::await_upload() {
  if (!std::exchange(upload_pending, false)) return;
  uploaded->synchronize();
}

void Session::Impl::poison(Arena arena, int64_t bytes) {
  std::byte* begin = addresses.arenas[static_cast<size_t>(arena)];
  if (cpu()) {
    std::memset(begin, 0xff, static_cast<size_t>(bytes));
  } else {
    fill_device(begin, 0xff, bytes, machine.gpu->stream);
  }
}

const Port& Session::Impl::port(std::string_view role) const {
  const int i = plan.find_port(std::string(role));
  SHUNT_CHECK(i >= 0, "the plan has no port '{}'", role);
  return plan.ports[static_cast<size_t>(i)];
}

Session::Impl::Prepared& Session::Impl::sample_program(int64_t R) {
  Prepared* best = nullptr;
  for (Prepared& p : programs) {
    const Program& program = p.bound->program();
    const DimDecl rows = range_of(program, dim_R);
    if (program.graph != "sample" || R < rows.min || R > rows.max) continue;
    if (best == nullptr || rows.max < range_of(best->bound->program(), dim_R).max) best = &p;
  }
  SHUNT_CHECK(best != nullptr, "the plan has no program that samples {} rows", R);
  return *best;
}

void Session::Impl::synchronize() {
  try {
    machine.wait("the end of a step");
  } catch (const DeviceError&) {
    alive = false;
    throw;
  }
}

/// The ranks of a tp group see the same batch and count the same routes: one of each group is
/// asked.
std::vector<RouteCounts> Session::Impl::read_counters() {
  SHUNT_CHECK(machine.rank() == 0, "rank {} has no counts of the others", machine.rank());
  if (!alive) throw DeviceError("an earlier run failed: the session cannot be used any more");
  activate();
  std::vector<int> ranks = {0};
  const std::byte* counts = gathered;
  std::vector<std::byte> on_host;
  if (plan.mesh.size() > 1) {
    ranks = plan.mesh.group(MeshAxis::dp, 0);
    StepDescriptor step;
    step.kind = StepDescriptor::Kind::counters;
    try {
      machine.world->control().send_step(step, {});
      gather_counters();
    } catch (const DeviceError&) {
      alive = false;
      throw;
    }
  }
  if (!cpu()) {
    on_host.resize(static_cast<size_t>(plan.counters_bytes * plan.mesh.size()));
    download(on_host.data(), gathered, static_cast<int64_t>(on_host.size()));
    counts = on_host.data();
  }
  std::vector<RouteCounts> out;
  for (const Buffer& b : plan.buffers) {
    if (b.arena != Arena::counters) continue;
    std::vector<int64_t>& sum = out.emplace_back(RouteCounts{b.name, {}}).routes;
    sum.resize(static_cast<size_t>(b.type.shape[0].constant()));
    for (const int rank : ranks) {
      const auto* own =
          reinterpret_cast<const int64_t*>(counts + rank * plan.counters_bytes + b.offset);
      for (size_t e = 0; e < sum.size(); ++e) sum[e] += own[e];
    }
  }
  return out;
}

/// Device memory to the host, after everything queued so far.
void Session::Impl::download(std::byte* to, const std::byte* from, int64_t bytes) {
  activate();
  try {
    copy_to_host(to, from, bytes, machine.gpu->stream);
  } catch (const DeviceError&) {
    alive = false;
    throw;
  }
  synchronize();
}

// ---- the public interface ----

Session::Session(Plan plan, const std::filesystem::path& plan_directory, SessionOptions options)
    : impl_(std::make_unique<Impl>()) {
  impl_->self = this;
  impl_->plan = std::move(plan);
  impl_->options = std::move(options);
  impl_->prepare();
  impl_->initialise(plan_directory);
}

Session::~Session() {
  try {
    release();
  } catch (const Error&) {  // a rank failed: the others have ended by that
  }
}

const Plan& Session::plan() const { return impl_->plan; }
bool Session::on_cpu() const { return impl_->cpu(); }
int64_t Session::pages() const { return impl_->pages; }
MemoryUse Session::memory() const { return impl_->memory; }
bool Session::alive() const { return impl_->alive; }
bool Session::has_port(std::string_view role) const {
  return impl_->plan.find_port(std::string(role)) >= 0;
}

std::span<std::byte> Session::input(std::string_view role, int group) {
  const Port& port = impl_->port(role);
  impl_->await_upload();
  impl_->forced_dirty[static_cast<size_t>(&port - impl_->plan.ports.data())] = 1;
  const Buffer& b = impl_->buffer_of(port);
  return {impl_->host_of(b, group), static_cast<size_t>(b.bytes)};
}

std::span<const std::byte> Session::output(std::string_view role, int64_t bytes) {
  const Buffer& b = impl_->buffer_of(impl_->port(role));
  if (bytes < 0) bytes = b.bytes;
  SHUNT_CHECK(bytes <= b.bytes, "port '{}' has {} bytes, not {}", role, b.bytes, bytes);
  if (!impl_->cpu()) {
    impl_->download(impl_->host_of(b), impl_->addresses.dims + impl_->io_offset(b), bytes);
  }
  return {impl_->host_of(b), static_cast<size_t>(bytes)};
}

void Session::run_step(bool decode, std::span<const StepSizes> groups, StepObserver* observer) {
  SHUNT_CHECK(static_cast<int>(groups.size()) == this->groups(), "sizes of {} dp groups, not {}",
              groups.size(), this->groups());
  for (const StepSizes& s : groups)
    SHUNT_CHECK(!decode || s.T == s.S, "a decode step of {} tokens and {} sequences", s.T, s.S);
  impl_->run(impl_->programs[static_cast<size_t>(impl_->choose(decode, largest(groups)))], groups,
             observer, nullptr);
}

std::vector<StepTime> Session::run_step_timed(bool decode, int64_t T, int64_t S, int64_t R) {
  std::vector<StepTime> times;
  const std::vector<Sizes> groups(static_cast<size_t>(this->groups()), {T, S, R});
  impl_->run(impl_->programs[static_cast<size_t>(impl_->choose(decode, {T, S, R}))], groups,
             nullptr, &times);
  return times;
}

void Session::run_sample(std::span<const int64_t> rows, StepObserver* observer) {
  std::vector<Sizes> groups;
  for (const int64_t r : rows) groups.push_back({impl_->sizes.T, impl_->sizes.S, r});
  SHUNT_CHECK(static_cast<int>(groups.size()) == this->groups(), "rows of {} dp groups, not {}",
              groups.size(), this->groups());
  impl_->run(impl_->sample_program(largest(groups).R), groups, observer, nullptr);
}

int64_t Session::group_rows() const { return impl_->group_rows; }

void Session::synchronize() { impl_->synchronize(); }

std::vector<RouteCounts> Session::route_counts() {
  const Plan& plan = impl_->plan;
  if (plan.counters_bytes == 0) return {};
  return impl_->read_counters();
}

const Program& Session::step_program(bool decode, int64_t T, int64_t S, int64_t R) const {
  return impl_->plan.programs[static_cast<size_t>(impl_->choose(decode, {T, S, R}))];
}

int Session::find_buffer(const Program& program, std::string_view name) const {
  for (const Step& s : program.steps) {
    for (const int b : s.writes) {
      if (impl_->plan.buffers[static_cast<size_t>(b)].name == name) return b;
    }
  }
  return -1;
}

void Session::read_buffer(int buffer, std::vector<std::byte>& out) {
  const Buffer& b = impl_->plan.buffers.at(static_cast<size_t>(buffer));
  DimEnv env;
  for (size_t i = 0; i < impl_->dims.size(); ++i) env[impl_->plan.dims[i].name] = impl_->dims[i];
  const int64_t bytes = b.type.bytes().evaluate(env);
  SHUNT_CHECK(bytes <= b.bytes, "buffer '{}' has {} bytes, not {}", b.name, b.bytes, bytes);
  out.resize(static_cast<size_t>(bytes));
  const std::byte* from = impl_->addresses.arenas[static_cast<size_t>(b.arena)] + b.offset;
  if (impl_->cpu()) {
    std::memcpy(out.data(), from, out.size());
  } else {
    impl_->download(out.data(), from, bytes);
  }
}

}  // namespace shunt
