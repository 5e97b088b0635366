// What a Session does before it runs: prepare() makes the arenas, initialise() loads kernels and
// weights. Tested by tests/runtime/session/session_test.cpp (cpu) and by the GPU tests.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>

#include "ir/error.h"
#include "runtime/load.h"
#include "runtime/session_impl.h"

namespace shunt {

namespace {

constexpr int64_t kMergeGap = 64 << 10;  // inputs closer than this travel in one copy
constexpr int64_t kMaxPages = 1 << 30;   // page numbers are int32
constexpr int64_t kMaxStateBytes = int64_t{1} << 50;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// State i is one array [pages + 1, page_size, row...] or [max_num_seqs + 1, row...]: the last page
/// or row takes what padded sequences may write.
int64_t state_bytes(const Plan& plan, const StateDecl& state, int64_t pages) {
  const int64_t rows = state.kind == StateKind::slot ? plan.limits.max_num_seqs + 1
                                                     : (pages + 1) * plan.limits.page_size;
  return align_up(rows * state.row.bytes().constant());
}

std::vector<char> read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) plan_error("{} is missing: the plan is incomplete, compile it again", path.string());
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace

MemoryUse memory_needed(const Plan& plan, int64_t pages) {
  const int64_t dims_bytes = align_up(static_cast<int64_t>(plan.dims.size() * sizeof(int32_t)));
  MemoryUse use{plan.weights_bytes, plan.workspace_bytes, dims_bytes + plan.io_bytes, 0, 0, 0};
  const int64_t ranks = plan.mesh.size();
  use.counters = plan.counters_bytes * (ranks > 1 ? ranks + 1 : 1);
  use.peer = plan.peer_bytes;
  for (const StateDecl& s : plan.states)
    (s.kind == StateKind::slot ? use.slots : use.state) += state_bytes(plan, s, pages);
  return use;
}

HostBuffer::HostBuffer(int64_t bytes, const char* purpose) {
  // calloc gets fresh pages without touching them; aligned by hand.
  auto* p = static_cast<std::byte*>(std::calloc(static_cast<size_t>(bytes + kArenaAlignment), 1));
  if (p == nullptr) {
    throw DeviceError(fmt::format("out of memory: {} MiB for {} do not fit", bytes >> 20, purpose));
  }
  memory_.reset(p);
}

std::byte* HostBuffer::data() const {
  const auto bits = reinterpret_cast<uintptr_t>(memory_.get());
  return memory_.get() + (kArenaAlignment - bits % kArenaAlignment) % kArenaAlignment;
}

// ---- prepare ----

void Session::Impl::prepare() {
  machine.world = options.world;
  const int ranks = options.world == nullptr ? 1 : options.world->size();
  if (ranks != plan.mesh.size()) {
    user_error("the plan is for {} ranks ({}), and was started with {}", plan.mesh.size(),
               plan.mesh.to_string(), ranks);
  }
  target = &find_target(plan.target);
  if (cpu()) {
    machine.pool = std::make_unique<ThreadPool>(options.threads);
  } else {
    open_device();
  }
  if (machine.world != nullptr) join_ranks();
  make_arenas();
  if (plan.peer_bytes > 0) join_peers();
  place_states();
  find_dims();
  forced_dirty.assign(plan.ports.size(), 1);
  for (int g = 1; leads() && g < plan.mesh.dp; ++g)
    staged.emplace_back(plan.io_bytes, "inputs of the dp groups");
  for (const Port& port : plan.ports) {
    const Buffer& b = buffer_of(port);
    if (port.role.starts_with("forced.")) {
      for (int g = 0; g < (leads() ? plan.mesh.dp : 1); ++g)
        std::memset(host_of(b, g), 0xff, static_cast<size_t>(b.bytes));
    }
  }
}

void Session::Impl::make_arenas() {
  memory = memory_needed(plan, 0);
  const int64_t dims_bytes = memory.io - plan.io_bytes;
  std::byte* weights;
  std::byte* workspace;
  std::byte* io;
  if (cpu()) {
    host_weights = HostBuffer(memory.weights, "weights");
    host_workspace = HostBuffer(memory.workspace, "activations");
    host_io = HostBuffer(memory.io, "inputs and outputs");
    weights = host_weights.data();
    workspace = host_workspace.data();
    io = io_host = host_io.data();
  } else {
    device_weights = DeviceBuffer(memory.weights, "weights");
    device_workspace = DeviceBuffer(memory.workspace, "activations");
    device_io = DeviceBuffer(memory.io, "inputs and outputs");
    mirror = PinnedBuffer(memory.io, "inputs and outputs");
    uploaded.emplace();
    weights = device_weights.data();
    workspace = device_workspace.data();
    io = device_io.data();
    io_host = mirror.data();
    fill_device(io, 0, memory.io, machine.gpu->stream);
  }
  addresses.arenas[static_cast<size_t>(Arena::weights)] = weights;
  addresses.arenas[static_cast<size_t>(Arena::workspace)] = workspace;
  addresses.arenas[static_cast<size_t>(Arena::io)] = io + dims_bytes;
  addresses.dims = io;
  if (options.poison) poison(Arena::weights, memory.weights);
  make_counters();
}

/// This rank's counters, and on several ranks room for everybody's behind them.
void Session::Impl::make_counters() {
  std::byte* counters;
  if (cpu()) {
    host_counters = HostBuffer(memory.counters, "route counters");
    counters = host_counters.data();
  } else {
    device_counters = DeviceBuffer(memory.counters, "route counters");
    counters = device_counters.data();
    fill_device(counters, 0, memory.counters, machine.gpu->stream);
  }
  addresses.arenas[static_cast<size_t>(Arena::counters)] = counters;
  gathered = plan.mesh.size() == 1 ? counters : counters + plan.counters_bytes;
}

void Session::Impl::open_device() {
  const int count = usable_devices(plan.target);
  if (options.device < 0 || options.device >= count) {
    user_error("there is no GPU {}: this machine has {}", options.device, count);
  }
  const DeviceInfo info = device_info(options.device);
  // sm_90a is for 9.0 exactly; others run on later minor versions of the same major one.
  const bool exact = plan.target.ends_with('a');
  const bool fits =
      exact ? info.sm == target->sm : info.sm / 10 == target->sm / 10 && info.sm >= target->sm;
  if (!fits) {
    plan_error("the plan is for {} and GPU {} ({}) is sm_{}: compile the model for that",
               plan.target, options.device, info.name, info.sm);
  }
  machine.gpu = std::make_unique<Machine::Gpu>();
  machine.gpu->device = options.device;
}

/// Pages for requests: what was asked for, or as many as the limits need and memory allows.
int64_t Session::Impl::choose_pages() const {
  const int64_t page = plan.page_bytes();
  if (options.kv_pages < 0) user_error("--kv-pages {} is negative", options.kv_pages);
  if (options.kv_pages > kMaxPages || (page > 0 && options.kv_pages > kMaxStateBytes / page)) {
    user_error("--kv-pages {} is too large: a page has {} bytes", options.kv_pages, page);
  }
  if (options.kv_pages > 0) return options.kv_pages;
  const int64_t a_sequence = ceil_div(plan.limits.max_model_len, plan.limits.page_size);
  const int64_t all = std::min(kMaxPages, a_sequence * plan.limits.max_num_seqs);
  if (page == 0) return all;
  int64_t room = options.cpu_kv_bytes;
  if (!cpu()) {
    const DeviceInfo info = device_info(machine.gpu->device);
    const double reserve =
        (1 - options.gpu_memory_utilization) * static_cast<double>(info.total_bytes);
    const int64_t slots = memory_needed(plan, 0).slots;
    room = info.free_bytes - static_cast<int64_t>(reserve) - slots;
    if (room / page < a_sequence + 1) {
      user_error(
          "not enough GPU memory: after weights, activations and {} MiB of recurrent state {} MiB "
          "are "
          "left for the KV cache, and a sequence of {} tokens needs {} MiB (compile with a smaller "
          "--max-model-len{})",
          slots >> 20, std::max<int64_t>(room, 0) >> 20, plan.limits.max_model_len,
          (a_sequence + 1) * page >> 20, slots > 0 ? " or --max-num-seqs" : "");
    }
  }
  return std::min(all, std::max(room / page - 1, a_sequence));
}

void Session::Impl::place_states() {
  pages = choose_pages();
  if (machine.world != nullptr) pages = agree_on_pages(pages);
  int64_t bytes = 0;
  std::vector<int64_t> offsets;
  for (const StateDecl& s : plan.states) {
    offsets.push_back(bytes);
    bytes += state_bytes(plan, s, pages);
  }
  memory.state = memory_needed(plan, pages).state;
  std::byte* base;
  if (cpu()) {
    host_state = HostBuffer(bytes, "the KV cache and recurrent state");
    base = host_state.data();
  } else {
    device_state = DeviceBuffer(bytes, "the KV cache and recurrent state");
    base = device_state.data();
    // Masked positions are multiplied by zero somewhere: they must not hold NaN.
    fill_device(base, 0, bytes, machine.gpu->stream);
  }
  for (const int64_t offset : offsets) addresses.states.push_back(base + offset);
}

void Session::Impl::find_dims() {
  for (size_t i = 0; i < plan.dims.size(); ++i) {
    if (plan.dims[i].name == "T") dim_T = static_cast<int>(i);
    if (plan.dims[i].name == "S") dim_S = static_cast<int>(i);
    if (plan.dims[i].name == "R") dim_R = static_cast<int>(i);
  }
  dims.assign(plan.dims.size(), 0);
}

// ---- initialise ----

void Session::Impl::initialise(const std::filesystem::path& plan_directory) {
  if (!cpu()) load_kernels(plan_directory);
  programs.resize(plan.programs.size());
  for (size_t i = 0; i < plan.programs.size(); ++i) {
    const Program& p = plan.programs[i];
    programs[i].bound = std::make_unique<BoundProgram>(plan, p, addresses, machine);
    find_inputs(p, programs[i]);
    if (p.graph == "load") run_load(p, *programs[i].bound);
  }
  if (machine.world != nullptr) machine.world->control().barrier("weights loaded");
  if (!cpu()) {
    machine.gpu->stream.synchronize();
    if (options.log && machine.gpu->gemm.queries() > 0) {
      options.log(fmt::format("cuBLASLt: {} algorithms chosen for {} shapes of matmul",
                              machine.gpu->gemm.queries(), machine.gpu->gemm.shapes()));
    }
    if (options.capture_at_start && options.cuda_graphs) {
      for (Prepared& p : programs) {
        if (!uses_graph(p)) continue;
        // With all sequences idle: the first use warms up, the second captures.
        const std::vector<Sizes> idle(static_cast<size_t>(plan.mesh.dp));
        for (int use = 0; use < 2; ++use) run(p, idle, nullptr, nullptr);
      }
      machine.wait("capture");
    }
  }
  starting = false;
}

void Session::Impl::load_kernels(const std::filesystem::path& plan_directory) {
  Machine::Gpu& gpu = *machine.gpu;
  std::map<std::string, size_t> by_digest;
  for (const Kernel& k : plan.kernels) {
    const auto [it, added] = by_digest.emplace(k.digest, gpu.libraries.size());
    if (added) {
      const auto path = plan_directory / "kernels" / (k.digest + ".cubin");
      gpu.libraries.emplace_back(read_file(path), path.string());
    }
    gpu.kernels.push_back(gpu.libraries[it->second].kernel(k.name));
  }
  std::vector<std::pair<int64_t, int>> most(plan.kernels.size());  // shared memory, cluster
  for (const Program& p : plan.programs) {
    for (const Step& s : p.steps) {
      if (const auto* l = std::get_if<Launch>(&s.what)) {
        auto& [smem, cluster] = most[static_cast<size_t>(l->kernel)];
        smem = std::max(smem, l->smem);
        cluster = std::max(cluster, l->cluster);
      }
    }
  }
  for (size_t i = 0; i < most.size(); ++i)
    allow_launch(gpu.kernels[i], most[i].first, most[i].second);
}

/// Runs of consecutive Reads go to the loader together; everything else runs in between, in
/// order.
void Session::Impl::run_load(const Program& p, BoundProgram& bound) {
  int64_t total = 0;
  const auto mine = [&](const Step& s) { return s.rank < 0 || s.rank == machine.rank(); };
  for (const Step& s : p.steps) {
    const auto* r = std::get_if<Read>(&s.what);
    if (r != nullptr && mine(s)) total += r->rows * r->row_bytes;
  }
  std::optional<WeightLoader> loader;
  if (total > 0) {
    const auto& directory = options.model_directory.empty()
                                ? std::filesystem::path(plan.model_directory)
                                : options.model_directory;
    const int threads =
        cpu() ? std::min(4, machine.pool->threads()) : std::min(8, ThreadPool::default_threads());
    loader.emplace(plan.files, directory, cpu() ? -1 : machine.gpu->device, threads);
  }
  set_upper_dims(p);
  bound.set_dims(dims);
  std::vector<ReadJob> jobs;
  const auto flush = [&] {
    if (jobs.empty()) return;
    if (!cpu()) machine.gpu->stream.synchronize();  // earlier steps may still use the memory
    loader->run(jobs, total, options.progress);
    jobs.clear();
  };
  for (size_t i = 0; i < p.steps.size(); ++i) {
    if (!mine(p.steps[i])) continue;
    if (const auto* r = std::get_if<Read>(&p.steps[i].what)) {
      jobs.push_back({r, addresses.of(plan, r->to)});
      continue;
    }
    flush();
    if (const auto* c = std::get_if<Constant>(&p.steps[i].what)) {
      write_constant(*c);
    } else {
      bound.run_one(i);
    }
  }
  flush();
}

void Session::Impl::write_constant(const Constant& c) {
  const auto bytes = static_cast<int64_t>(c.values.size() * sizeof(float));
  std::byte* to = addresses.of(plan, c.to);
  if (cpu()) {
    std::memcpy(to, c.values.data(), static_cast<size_t>(bytes));
  } else {
    copy_to_device(to, c.values.data(), bytes, machine.gpu->stream);
    machine.gpu->stream.synchronize();
  }
}

/// Which input ports a program reads, and the byte ranges to upload for them (and the dims array)
/// before it runs.
void Session::Impl::find_inputs(const Program& p, Prepared& prepared) {
  std::vector<char> used(plan.buffers.size(), 0);
  const auto use = [&](const Arg& a) {
    if (a.kind == Arg::Kind::buffer) used[static_cast<size_t>(a.index)] = 1;
  };
  for (const Step& s : p.steps) {
    if (const auto* l = std::get_if<Launch>(&s.what))
      std::for_each(l->args.begin(), l->args.end(), use);
    if (const auto* m = std::get_if<Matmul>(&s.what)) {
      for (const Arg* a : {&m->x, &m->w, &m->c, &m->bias}) use(*a);
    }
    if (const auto* c = std::get_if<Copy>(&s.what)) use(c->from);
    if (const auto* c = std::get_if<Collective>(&s.what)) use(c->from);
  }
  const int64_t dims_bytes = static_cast<int64_t>(plan.dims.size() * sizeof(int32_t));
  prepared.segments.push_back({0, dims_bytes});
  std::vector<Segment> outputs;
  std::vector<Segment> inputs;
  for (size_t i = 0; i < plan.ports.size(); ++i) {
    const Port& port = plan.ports[i];
    const Buffer& b = buffer_of(port);
    const Segment range{io_offset(b), io_offset(b) + b.bytes};
    if (port.output) {
      outputs.push_back(range);
    } else if (used[static_cast<size_t>(port.buffer)]) {
      const bool forced = port.role.starts_with("forced.");
      (forced ? prepared.forced : prepared.inputs).push_back(static_cast<int>(i));
      if (!forced) inputs.push_back(range);
    }
  }
  std::sort(inputs.begin(), inputs.end(), [](auto& a, auto& b) { return a.begin < b.begin; });
  for (const Segment& s : inputs) {
    Segment& last = prepared.segments.back();
    // Never over an output: it may be this program's input on the device (the logits of @sample).
    const bool output_between = std::any_of(outputs.begin(), outputs.end(), [&](auto& o) {
      return o.begin < s.begin && o.end > last.end;
    });
    if (s.begin - last.end <= kMergeGap && !output_between) {
      last.end = std::max(last.end, s.end);
    } else {
      prepared.segments.push_back(s);
    }
  }
}

}  // namespace shunt
