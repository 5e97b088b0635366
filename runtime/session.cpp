// Session: prepare, initialise, run. The order of events is in the constructor and in Impl::run().
// Tested by tests/runtime/session/session_test.cpp (cpu) and by the GPU tests.
#include "runtime/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>

#include "ir/error.h"
#include "ir/target.h"
#include "runtime/device.h"
#include "runtime/load.h"
#include "runtime/program.h"

namespace shunt {

namespace {

constexpr int64_t kAlignment = 256;
constexpr int64_t kMergeGap = 64 << 10;  // inputs closer than this travel in one copy

int64_t align_up(int64_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Host memory, aligned and zeroed (by the system, when first touched).
struct HostBuffer {
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> memory;

  HostBuffer() = default;
  HostBuffer(int64_t bytes, const char* purpose) {
    // calloc gets fresh pages without touching them; align by hand.
    auto* p = static_cast<std::byte*>(std::calloc(static_cast<size_t>(bytes + kAlignment), 1));
    if (p == nullptr) user_error("out of memory: {} MiB for {} do not fit", bytes >> 20, purpose);
    memory.reset(p);
  }
  std::byte* data() const {
    const auto bits = reinterpret_cast<uintptr_t>(memory.get());
    return memory.get() + (kAlignment - bits % kAlignment) % kAlignment;
  }
};

std::vector<char> read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) plan_error("{} is missing: the plan is incomplete, compile it again", path.string());
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

/// What a run writes into the rows of an input that lie between its own size and its bucket's.
struct Padding {
  enum class Rows { T, S, S_plus_1, R } rows;
  enum class Value { zero, one_f32, minus_one, spare_page, tokens } value;
};

std::optional<Padding> padding_of(std::string_view role) {
  using R = Padding::Rows;
  using V = Padding::Value;
  if (role == "tokens" || role == "positions") return Padding{R::T, V::zero};
  if (role == "seq_starts") return Padding{R::S_plus_1, V::tokens};
  if (role == "kv_lens") return Padding{R::S, V::zero};
  if (role == "block_tables") return Padding{R::S, V::spare_page};
  if (role == "logit_rows" || role == "temperature" || role == "top_k" || role == "uniform") {
    return Padding{R::R, V::zero};
  }
  if (role == "top_p") return Padding{R::R, V::one_f32};
  if (role.starts_with("forced.")) return Padding{R::T, V::minus_one};
  return std::nullopt;
}

struct Sizes {
  int64_t T = 0, S = 0, R = 0;
};

}  // namespace

struct Session::Impl {
  /// A byte range of the io memory (from the dims array on) that a run uploads.
  struct Segment {
    int64_t begin, end;
  };
  struct Prepared {
    std::unique_ptr<BoundProgram> bound;
    std::vector<int> inputs;        // ports it reads, but forced.*
    std::vector<int> forced;        // ports forced.* it reads
    std::vector<Segment> segments;  // of `inputs`, merged
    Graph graph;
    bool warm = false;  // has run once, so that libraries have loaded their kernels
  };

  Plan plan;
  SessionOptions options;
  const Target* target = nullptr;
  Machine machine;
  Addresses addresses;
  MemoryUse memory;
  int64_t pages = 0;
  bool alive = true;

  DeviceBuffer device_weights, device_workspace, device_io, device_state;
  HostBuffer host_weights, host_workspace, host_io, host_state;
  PinnedBuffer mirror;             // of the io memory, on a GPU
  std::byte* io_host = nullptr;    // dims array, then the io arena, as the host sees them
  std::optional<Event> uploaded;   // when the device has taken the last inputs
  std::vector<char> forced_dirty;  // by port
  int dim_T = -1, dim_S = -1, dim_R = -1;
  std::vector<int64_t> dims;  // of the run in progress, in the order of plan.dims
  std::vector<Prepared> programs;
  Sizes sizes;

  bool cpu() const { return target->is_cpu(); }
  void activate() const {
    if (!cpu()) use_device(machine.gpu->device);
  }

  // ---- prepare ----
  void prepare() {
    if (options.world != 1 || options.rank != 0) {
      user_error("this plan is for one rank, and was started as rank {} of {}", options.rank,
                 options.world);
    }
    target = &find_target(plan.target);
    if (cpu()) {
      machine.pool = std::make_unique<ThreadPool>(options.threads);
    } else {
      open_device();
    }
    const int64_t dims_bytes = align_up(static_cast<int64_t>(plan.dims.size() * sizeof(int32_t)));
    memory = {plan.weights_bytes, plan.workspace_bytes, dims_bytes + plan.io_bytes, 0};
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
    place_states();
    find_dims();
    forced_dirty.assign(plan.ports.size(), 1);
    for (const Port& port : plan.ports) {
      const Buffer& b = buffer_of(port);
      if (port.role.starts_with("forced."))
        std::memset(host_of(b), 0xff, static_cast<size_t>(b.bytes));
    }
  }

  void open_device() {
    const int count = device_count();
    if (count == 0) {
      plan_error(
          "the plan is for {} and this machine has no usable GPU: compile it with --target cpu",
          plan.target);
    }
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

  /// State i is one array [pages + 1, page_size, row...]: the last page takes what padded sequences
  /// may write.
  void place_states() {
    const int64_t page = plan.page_bytes();
    const int64_t a_sequence = ceil_div(plan.limits.max_model_len, plan.limits.page_size);
    const int64_t all = a_sequence * plan.limits.max_num_seqs;
    if (options.kv_pages < 0) user_error("--kv-pages {} is negative", options.kv_pages);
    pages = options.kv_pages > 0 ? options.kv_pages : all;
    if (options.kv_pages == 0 && page > 0) {
      int64_t room = options.cpu_kv_bytes;
      if (!cpu()) {
        const DeviceInfo info = device_info(machine.gpu->device);
        const auto reserve = static_cast<int64_t>((1 - options.gpu_memory_utilization) *
                                                  static_cast<double>(info.total_bytes));
        room = info.free_bytes - reserve;
        if (room / page < a_sequence + 1) {
          user_error(
              "not enough GPU memory: after weights and activations {} MiB are left, and a "
              "sequence of {} tokens "
              "needs {} MiB (compile with a smaller --max-model-len)",
              std::max<int64_t>(room, 0) >> 20, plan.limits.max_model_len,
              (a_sequence + 1) * page >> 20);
        }
      }
      pages = std::min(all, std::max(room / page - 1, a_sequence));
    }
    if (pages > INT32_MAX / 2) user_error("--kv-pages {} is too large", pages);
    int64_t bytes = 0;
    std::vector<int64_t> offsets;
    for (const StateDecl& s : plan.states) {
      offsets.push_back(bytes);
      bytes += align_up((pages + 1) * plan.limits.page_size * s.row.bytes().constant());
    }
    memory.state = bytes;
    std::byte* base;
    if (cpu()) {
      host_state = HostBuffer(bytes, "the KV cache");
      base = host_state.data();
    } else {
      device_state = DeviceBuffer(bytes, "the KV cache");
      base = device_state.data();
      // Masked positions are multiplied by zero somewhere: they must not hold NaN.
      fill_device(base, 0, bytes, machine.gpu->stream);
    }
    for (const int64_t offset : offsets) addresses.states.push_back(base + offset);
  }

  void find_dims() {
    for (size_t i = 0; i < plan.dims.size(); ++i) {
      if (plan.dims[i].name == "T") dim_T = static_cast<int>(i);
      if (plan.dims[i].name == "S") dim_S = static_cast<int>(i);
      if (plan.dims[i].name == "R") dim_R = static_cast<int>(i);
    }
    dims.assign(plan.dims.size(), 0);
  }

  // ---- initialise ----
  void initialise(const std::filesystem::path& plan_directory) {
    if (!cpu()) load_kernels(plan_directory);
    programs.resize(plan.programs.size());
    for (size_t i = 0; i < plan.programs.size(); ++i) {
      const Program& p = plan.programs[i];
      programs[i].bound = std::make_unique<BoundProgram>(plan, p, addresses, machine);
      find_inputs(p, programs[i]);
      if (p.graph == "load") run_load(p, *programs[i].bound);
    }
    if (!cpu()) {
      machine.gpu->stream.synchronize();
      if (options.capture_at_start && options.cuda_graphs) {
        for (Prepared& p : programs) {
          if (!uses_graph(p)) continue;
          for (int use = 0; use < 2; ++use)
            run(p, {0, 0, 0}, nullptr, nullptr);  // all sequences idle
        }
        machine.gpu->stream.synchronize();
      }
    }
  }

  void load_kernels(const std::filesystem::path& plan_directory) {
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
  void run_load(const Program& p, BoundProgram& bound) {
    int64_t total = 0;
    for (const Step& s : p.steps) {
      if (const auto* r = std::get_if<Read>(&s.what)) total += r->rows * r->row_bytes;
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

  void write_constant(const Constant& c) {
    const auto bytes = static_cast<int64_t>(c.values.size() * sizeof(float));
    std::byte* to = addresses.of(plan, c.to);
    if (cpu()) {
      std::memcpy(to, c.values.data(), static_cast<size_t>(bytes));
    } else {
      copy_to_device(to, c.values.data(), bytes, machine.gpu->stream);
      machine.gpu->stream.synchronize();
    }
  }

  const Buffer& buffer_of(const Port& port) const {
    return plan.buffers[static_cast<size_t>(port.buffer)];
  }
  int64_t io_offset(const Buffer& b) const {
    return align_up(static_cast<int64_t>(plan.dims.size() * sizeof(int32_t))) + b.offset;
  }
  std::byte* host_of(const Buffer& b) const { return io_host + io_offset(b); }

  /// Which input ports a program reads, and the byte ranges to upload for them (and the dims array)
  /// before it runs.
  void find_inputs(const Program& p, Prepared& prepared) {
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

  // ---- run ----
  bool uses_graph(const Prepared& p) const {
    return !cpu() && options.cuda_graphs && !options.sync_each_step && p.bound->program().decode;
  }

  /// The program of @step for these sizes: of those whose ranges hold them, the one with the
  /// smallest bound of T; a decode batch may run as prefill, not the other way round.
  int choose(bool decode, const Sizes& s) const {
    for (const bool kind : {true, false}) {
      if (kind && !decode) continue;
      int best = -1;
      for (size_t i = 0; i < plan.programs.size(); ++i) {
        const Program& p = plan.programs[i];
        if (p.graph != "step" || p.decode != kind || !holds(p, s, uses_graph(programs[i])))
          continue;
        if (best < 0 || range_of(p, dim_T).max <
                            range_of(plan.programs[static_cast<size_t>(best)], dim_T).max) {
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
  DimDecl range_of(const Program& p, int dim) const {
    if (dim >= 0) {
      const std::string& name = plan.dims[static_cast<size_t>(dim)].name;
      for (const DimDecl& d : p.dims) {
        if (d.name == name) return d;
      }
    }
    return {"", 0, INT32_MAX};
  }
  bool holds(const Program& p, const Sizes& s, bool padded) const {
    const auto in = [&](int dim, int64_t value) {
      const DimDecl d = range_of(p, dim);
      return value <= d.max && (padded || value >= d.min);
    };
    return in(dim_T, s.T) && in(dim_S, s.S) && in(dim_R, s.R);
  }

  void set_upper_dims(const Program& p) {
    for (size_t i = 0; i < dims.size(); ++i) {
      const DimDecl d = range_of(p, static_cast<int>(i));
      dims[i] = d.name.empty() ? plan.dims[i].max : d.max;
    }
  }

  void set_dim(int dim, int64_t value) {
    if (dim >= 0) dims[static_cast<size_t>(dim)] = value;
  }

  /// Runs `p` over inputs of `s`: eagerly at these sizes, or as a graph at the program's upper
  /// bounds.
  void run(Prepared& p, const Sizes& s, StepObserver* observer, std::vector<StepTime>* times) {
    if (!alive) throw DeviceError("an earlier run failed: the session cannot be used any more");
    activate();
    sizes = s;
    const Program& program = p.bound->program();
    const bool graph = uses_graph(p) && observer == nullptr && times == nullptr;
    Sizes bucket = s;
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
    pad(p, s, bucket);
    write_true_dims(s);
    try {
      if (!cpu()) upload(p);
      if (options.poison) poison(program);
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
  void run_graph(Prepared& p) {
    Stream& stream = machine.gpu->stream;
    if (!p.warm) {
      p.warm = true;
      return p.bound->run_all();
    }
    if (!p.graph) p.graph = Graph::capture(stream, [&] { p.bound->run_all(); });
    p.graph.launch(stream);
  }

  void run_steps(Prepared& p, StepObserver* observer, std::vector<StepTime>* times) {
    const Program& program = p.bound->program();
    if (observer == nullptr && times == nullptr && !options.sync_each_step)
      return p.bound->run_all();
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

  void run_named(Prepared& p, size_t step, bool wait) {
    try {
      p.bound->run_one(step);
      if (wait && !cpu()) machine.gpu->stream.synchronize();
    } catch (const DeviceError& e) {
      const Step& s = p.bound->program().steps[step];
      throw DeviceError(fmt::format("step {} of {} ({} at {}): {}", step, p.bound->program().name,
                                    s.name, s.loc, e.what()));
    }
  }

  StepTime step_time(const Step& s, double seconds) const {
    DimEnv env;
    for (size_t i = 0; i < dims.size(); ++i) env[plan.dims[i].name] = dims[i];
    return {s.name, s.loc, seconds, s.bytes.evaluate(env), s.flops.evaluate(env)};
  }

  Session* self = nullptr;
  void observe(const Program& program, size_t step, StepObserver& observer) {
    observer.after_step(
        *self, {&program, &program.steps[step], static_cast<int>(step), sizes.T, sizes.S, sizes.R});
  }

  /// Gives the rows of inputs beyond the true sizes values that no kernel can be led astray by.
  void pad(const Prepared& p, const Sizes& s, const Sizes& bucket) {
    if (s.T == bucket.T && s.S == bucket.S && s.R == bucket.R) return;
    for (const auto* list : {&p.inputs, &p.forced}) {
      for (const int i : *list) {
        const Port& port = plan.ports[static_cast<size_t>(i)];
        if (const auto padding = padding_of(port.role)) pad_port(port, *padding, s, bucket);
        if (list == &p.forced) forced_dirty[static_cast<size_t>(i)] = 1;
      }
    }
  }

  void pad_port(const Port& port, const Padding& padding, const Sizes& s, const Sizes& bucket) {
    const Buffer& b = buffer_of(port);
    int64_t columns = 1;
    for (size_t i = 1; i < b.type.shape.size(); ++i) columns *= b.type.shape[i].constant();
    int64_t from = 0, to = 0;
    switch (padding.rows) {
      case Padding::Rows::T: from = s.T, to = bucket.T; break;
      case Padding::Rows::S: from = s.S, to = bucket.S; break;
      case Padding::Rows::S_plus_1: from = s.S + 1, to = bucket.S + 1; break;
      case Padding::Rows::R: from = s.R, to = bucket.R; break;
    }
    if (s.T == 0 && padding.rows == Padding::Rows::S_plus_1)
      from = 0;  // an idle run has no first offset
    int32_t value = 0;
    switch (padding.value) {
      case Padding::Value::zero: break;
      case Padding::Value::one_f32: value = 0x3f800000; break;
      case Padding::Value::minus_one: value = -1; break;
      case Padding::Value::spare_page: value = static_cast<int32_t>(pages); break;
      case Padding::Value::tokens: value = static_cast<int32_t>(s.T); break;
    }
    auto* data = reinterpret_cast<int32_t*>(host_of(b));  // every such port is i32 or f32
    const int64_t end = std::min(to * columns, b.bytes / 4);
    for (int64_t i = from * columns; i < end; ++i) data[i] = value;
  }

  void write_true_dims(const Sizes& s) {
    auto* values = reinterpret_cast<int32_t*>(io_host);
    for (size_t i = 0; i < dims.size(); ++i) values[i] = static_cast<int32_t>(dims[i]);
    if (dim_T >= 0) values[dim_T] = static_cast<int32_t>(s.T);
    if (dim_S >= 0) values[dim_S] = static_cast<int32_t>(s.S);
    if (dim_R >= 0) values[dim_R] = static_cast<int32_t>(s.R);
  }

  void upload(const Prepared& p) {
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
  }

  void poison(const Program& program) {
    std::byte* workspace = addresses.arenas[static_cast<size_t>(Arena::workspace)];
    if (cpu()) {
      std::memset(workspace, 0xff, static_cast<size_t>(program.workspace_bytes));
    } else {
      fill_device(workspace, 0xff, program.workspace_bytes, machine.gpu->stream);
    }
  }

  const Port& port(std::string_view role) const {
    const int i = plan.find_port(std::string(role));
    SHUNT_CHECK(i >= 0, "the plan has no port '{}'", role);
    return plan.ports[static_cast<size_t>(i)];
  }

  Prepared& sample_program(int64_t R) {
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
};

Session::Session(Plan plan, const std::filesystem::path& plan_directory, SessionOptions options)
    : impl_(std::make_unique<Impl>()) {
  impl_->self = this;
  impl_->plan = std::move(plan);
  impl_->options = std::move(options);
  impl_->prepare();
  impl_->initialise(plan_directory);
}

Session::~Session() = default;

const Plan& Session::plan() const { return impl_->plan; }
bool Session::on_cpu() const { return impl_->cpu(); }
int64_t Session::pages() const { return impl_->pages; }
MemoryUse Session::memory() const { return impl_->memory; }
bool Session::alive() const { return impl_->alive; }
bool Session::has_port(std::string_view role) const {
  return impl_->plan.find_port(std::string(role)) >= 0;
}

std::span<std::byte> Session::input(std::string_view role) {
  const Port& port = impl_->port(role);
  if (!impl_->cpu()) impl_->uploaded->synchronize();
  impl_->forced_dirty[static_cast<size_t>(&port - impl_->plan.ports.data())] = 1;
  const Buffer& b = impl_->buffer_of(port);
  return {impl_->host_of(b), static_cast<size_t>(b.bytes)};
}

std::span<const std::byte> Session::output(std::string_view role, int64_t bytes) {
  const Buffer& b = impl_->buffer_of(impl_->port(role));
  if (bytes < 0) bytes = b.bytes;
  SHUNT_CHECK(bytes <= b.bytes, "port '{}' has {} bytes, not {}", role, b.bytes, bytes);
  if (!impl_->cpu()) {
    impl_->activate();
    copy_to_host(impl_->host_of(b), impl_->addresses.dims + impl_->io_offset(b), bytes,
                 impl_->machine.gpu->stream);
    synchronize();
  }
  return {impl_->host_of(b), static_cast<size_t>(bytes)};
}

void Session::run_step(bool decode, int64_t T, int64_t S, int64_t R, StepObserver* observer) {
  SHUNT_CHECK(!decode || T == S, "a decode step of {} tokens and {} sequences", T, S);
  impl_->run(impl_->programs[static_cast<size_t>(impl_->choose(decode, {T, S, R}))], {T, S, R},
             observer, nullptr);
}

std::vector<StepTime> Session::run_step_timed(bool decode, int64_t T, int64_t S, int64_t R) {
  std::vector<StepTime> times;
  impl_->run(impl_->programs[static_cast<size_t>(impl_->choose(decode, {T, S, R}))], {T, S, R},
             nullptr, &times);
  return times;
}

void Session::run_sample(int64_t R, StepObserver* observer) {
  Impl::Prepared& p = impl_->sample_program(R);
  impl_->run(p, {impl_->sizes.T, impl_->sizes.S, R}, observer, nullptr);
}

void Session::synchronize() {
  if (impl_->cpu()) return;
  try {
    impl_->machine.gpu->stream.synchronize();
  } catch (const DeviceError&) {
    impl_->alive = false;
    throw;
  }
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
    copy_to_host(out.data(), from, bytes, impl_->machine.gpu->stream);
    synchronize();
  }
}

}  // namespace shunt
