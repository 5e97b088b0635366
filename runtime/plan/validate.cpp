// validate(): everything the runtime relies on without looking again. plan.json is outside data
// (anyone may have edited an offset), so each index, size and offset is checked here, at the ends
// of every dim's range, and each message names the place. That no two live buffers overlap is the
// compiler's own check (codegen/memory_plan.h), not repeated here. Tested by
// tests/runtime/plan/validate_test.cpp, fuzzed by tests/fuzz/fuzz_plan.cpp.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "ir/error.h"
#include "ir/expr.h"
#include "ir/target.h"
#include "runtime/plan/host_kernels.h"
#include "runtime/plan/peer_table.h"
#include "runtime/plan/plan.h"

namespace shunt {

namespace {

constexpr int64_t kMaxBytes = int64_t{1} << 46;  // 64 TiB: keeps every later sum far from overflow
constexpr int64_t kMaxCount = INT32_MAX;
constexpr size_t kMaxDims = 6;
constexpr int64_t kAlignment = 256;
constexpr int64_t kCudaGridX = INT32_MAX, kCudaGridYZ = 65535;

struct Range {
  int64_t low = 0, high = 0;
};

class Validator {
 public:
  explicit Validator(const Plan& plan) : plan_(plan) {}

  void run() {
    check_header();
    check_dims("dims", plan_.dims);
    check_files();
    check_buffers();
    check_peer_buffers();
    check_states_and_ports();
    check_kernels();
    std::set<std::string> names;
    int loads = 0;
    for (program_ = 0; program_ < static_cast<int>(plan_.programs.size()); ++program_) {
      const Program& p = plan_.programs[program_];
      if (!names.insert(p.name).second) fail("", "two programs are named '{}'", p.name);
      loads += p.graph == "load";
      check_program(p);
    }
    program_ = -1;
    if (loads > 1) fail("programs", "{} of them are 'load' programs, there can be one", loads);
  }

 private:
  // ---- messages ----
  template <class... Args>
  [[noreturn]] void fail(const std::string& field, fmt::format_string<Args...> f,
                         Args&&... args) const {
    std::string where;
    if (program_ >= 0) where = fmt::format("programs[{}]", program_);
    if (step_ >= 0) where += fmt::format(".steps[{}]", step_);
    if (!field.empty()) where += (where.empty() ? "" : ".") + field;
    std::string who;
    if (step_ >= 0) {
      const Step& s = plan_.programs[program_].steps[step_];
      who = fmt::format(" ({} at {})", s.name, s.loc);
    }
    plan_error("plan.json: {}{}: {}", where, who, fmt::format(f, std::forward<Args>(args)...));
  }
  static std::string at(const char* list, size_t i, const char* field = "") {
    return fmt::format("{}[{}]{}{}", list, i, *field ? "." : "", field);
  }
  void in(const std::string& field, int64_t value, int64_t low, int64_t high) const {
    if (value < low || value > high) fail(field, "{} is outside [{}, {}]", value, low, high);
  }

  // ---- the plan's own tables ----
  void check_header() {
    if (plan_.format != kPlanFormat)
      fail("format", "{}, this program reads format {}", plan_.format, kPlanFormat);
    const auto& targets = all_targets();
    const auto target = std::find_if(targets.begin(), targets.end(),
                                     [&](auto& t) { return t.name == plan_.target; });
    if (target == targets.end()) {
      std::string known;
      for (const Target& t : targets) known += (known.empty() ? "" : ", ") + t.name;
      fail("target", "'{}' is not a target of this program (known: {})", plan_.target, known);
    }
    target_ = &*target;
    const auto& dtype = plan_.activation_dtype;
    if (dtype != "f32" && dtype != "bf16" && dtype != "f16") {
      fail("activation_dtype", "'{}' is not f32, bf16 or f16", dtype);
    }
    check_mesh();
    const Limits& l = plan_.limits;
    in("limits.max_model_len", l.max_model_len, 1, kMaxCount);
    in("limits.max_num_seqs", l.max_num_seqs, 1, kMaxCount);
    in("limits.max_num_batched_tokens", l.max_num_batched_tokens, 1, kMaxCount);
    in("limits.max_logit_rows", l.max_logit_rows, 1, kMaxCount);
    in("limits.page_size", l.page_size, 1, 1 << 20);
    in("model.vocab_size", plan_.model.vocab_size, 1, kMaxCount);
    for (size_t i = 0; i < plan_.model.eos_ids.size(); ++i) {
      in(at("model.eos_ids", i), plan_.model.eos_ids[i], 0, plan_.model.vocab_size - 1);
    }
    in("model.bos_id", plan_.model.bos_id, -1, plan_.model.vocab_size - 1);
    in("weights_bytes", plan_.weights_bytes, 0, kMaxBytes);
    in("workspace_bytes", plan_.workspace_bytes, 0, kMaxBytes);
    in("io_bytes", plan_.io_bytes, 0, kMaxBytes);
    in("counters_bytes", plan_.counters_bytes, 0, kMaxBytes);
    in("peer_bytes", plan_.peer_bytes, 0, kMaxBytes);
  }

  void check_mesh() const {
    const Mesh& m = plan_.mesh;
    for (const MeshAxis axis : {MeshAxis::dp, MeshAxis::tp, MeshAxis::ep, MeshAxis::etp})
      in(fmt::format("mesh.{}", axis_name(axis)), m.size(axis), 1, kMaxRanks);
    if (m.dp * m.tp != m.ep * m.etp)
      fail("mesh", "{} does not have dp * tp == ep * etp", m.to_string());
    for (size_t i = 0; i < plan_.rank_tables.size(); ++i) {
      const auto& table = plan_.rank_tables[i];
      if (table.size() != static_cast<size_t>(m.size()))
        fail(at("rank_tables", i), "{} values for {} ranks", table.size(), m.size());
      for (const int64_t value : table) in(at("rank_tables", i), value, INT32_MIN, INT32_MAX);
    }
  }

  void check_dims(const char* list, const std::vector<DimDecl>& dims) const {
    if (dims.size() > kMaxDims)
      fail(list, "{} dims, at most {} are supported", dims.size(), kMaxDims);
    for (size_t i = 0; i < dims.size(); ++i) {
      if (dims[i].name.empty()) fail(at(list, i, "name"), "is empty");
      for (size_t j = 0; j < i; ++j) {
        if (dims[j].name == dims[i].name)
          fail(at(list, i, "name"), "'{}' is declared twice", dims[i].name);
      }
      in(at(list, i, "max"), dims[i].max, 0, kMaxCount);
      in(at(list, i, "min"), dims[i].min, 0, dims[i].max);
    }
  }

  void check_files() const {
    for (size_t i = 0; i < plan_.files.size(); ++i) {
      const std::filesystem::path name = plan_.files[i].name;
      const bool leaves =
          std::any_of(name.begin(), name.end(), [](auto& part) { return part == ".."; });
      if (name.empty() || name.is_absolute() || leaves) {
        fail(at("files", i, "name"), "'{}' is not a file inside the model directory",
             plan_.files[i].name);
      }
      in(at("files", i, "size"), plan_.files[i].size, 0, kMaxBytes);
    }
  }

  bool declared(const std::string& dim) const {
    return std::any_of(plan_.dims.begin(), plan_.dims.end(),
                       [&](auto& d) { return d.name == dim; });
  }

  int64_t arena_bytes(Arena arena) const {
    switch (arena) {
      case Arena::weights: return plan_.weights_bytes;
      case Arena::workspace: return plan_.workspace_bytes;
      case Arena::io: return plan_.io_bytes;
      case Arena::counters: return plan_.counters_bytes;
      case Arena::peer: return plan_.peer_bytes;
    }
    fail("buffers", "an arena of no known kind");
  }

  void check_counters(size_t i) const {
    const Type& type = plan_.buffers[i].type;
    if (type.dtype != DType::i64 || type.shape.size() != 1 || !type.shape[0].is_constant()) {
      fail(at("buffers", i, "type"), "counters are i64[experts], not {}", type.to_string());
    }
    const int64_t bytes = sized(at("buffers", i, "type"), [&] { return type.bytes().constant(); });
    in(at("buffers", i, "bytes"), plan_.buffers[i].bytes, bytes, kMaxBytes);
  }

  void check_buffers() const {
    for (size_t i = 0; i < plan_.buffers.size(); ++i) {
      const Buffer& b = plan_.buffers[i];
      in(at("buffers", i, "bytes"), b.bytes, 0, kMaxBytes);
      in(at("buffers", i, "offset"), b.offset, 0, kMaxBytes);
      if (b.offset % kAlignment != 0) {
        fail(at("buffers", i, "offset"), "{} is no multiple of {} (buffer '{}')", b.offset,
             kAlignment, b.name);
      }
      if (b.offset + b.bytes > arena_bytes(b.arena)) {
        fail(at("buffers", i), "'{}' ends at byte {} of an arena of {}", b.name, b.offset + b.bytes,
             arena_bytes(b.arena));
      }
      for (const Dim& d : b.type.shape) {
        for (const auto& term : d.terms()) {
          if (!declared(term.first)) {
            fail(at("buffers", i, "type"), "uses the dim '{}', which is not declared", term.first);
          }
        }
      }
      if (b.arena == Arena::counters) check_counters(i);
    }
  }

  /// What one rank writes into another's memory must never be what that one still reads for
  /// something else.
  void check_peer_buffers() const {
    if (plan_.peer_bytes > 0 && (target_->is_cpu() || plan_.mesh.size() == 1)) {
      fail("peer_bytes", "{}: a plan for {} has no peer memory", plan_.peer_bytes,
           target_->is_cpu() ? "cpu" : "one rank");
    }
    std::vector<size_t> peers;
    for (size_t i = 0; i < plan_.buffers.size(); ++i) {
      if (plan_.buffers[i].arena == Arena::peer) peers.push_back(i);
    }
    std::sort(peers.begin(), peers.end(), [&](size_t a, size_t b) {
      return plan_.buffers[a].offset < plan_.buffers[b].offset;
    });
    for (size_t i = 1; i < peers.size(); ++i) {
      const Buffer& before = plan_.buffers[peers[i - 1]];
      const Buffer& b = plan_.buffers[peers[i]];
      if (before.offset + before.bytes > b.offset) {
        fail(at("buffers", peers[i]), "'{}' begins inside of '{}': peer buffers share no memory",
             b.name, before.name);
      }
    }
  }

  void check_states_and_ports() const {
    int64_t page_bytes = 0, slot_bytes = 0;
    for (size_t i = 0; i < plan_.states.size(); ++i) {
      const Type& row = plan_.states[i].row;
      for (const Dim& d : row.shape) {
        if (!d.is_constant())
          fail(at("states", i, "row"), "size {} is not a number", d.to_string());
      }
      const int64_t bytes = sized(at("states", i, "row"), [&] { return row.bytes().constant(); });
      in(at("states", i, "row"), bytes, 1, int64_t{1} << 30);
      const bool paged = plan_.states[i].kind == StateKind::paged;
      (paged ? page_bytes : slot_bytes) += bytes * (paged ? plan_.limits.page_size : 1);
      if (page_bytes > kMaxBytes)
        fail("states", "a page over all states takes more than {} bytes", kMaxBytes);
      if (slot_bytes > kMaxBytes / (plan_.limits.max_num_seqs + 1))
        fail("states", "slot states of all sequences take more than {} bytes", kMaxBytes);
    }
    if (slot_bytes > 0 && plan_.find_port("state_slots") < 0)
      fail("states", "there are slot states and no port 'state_slots'");
    std::set<std::string> roles;
    for (size_t i = 0; i < plan_.ports.size(); ++i) {
      const Port& p = plan_.ports[i];
      if (p.role.empty() || !roles.insert(p.role).second) {
        fail(at("ports", i, "role"), "'{}' is empty or used twice", p.role);
      }
      check_index(at("ports", i, "buffer"), p.buffer, plan_.buffers.size(), "buffers");
      if (plan_.buffers[p.buffer].arena != Arena::io) {
        fail(at("ports", i, "buffer"), "'{}' is not in the io arena", plan_.buffers[p.buffer].name);
      }
    }
  }

  void check_kernels() const {
    for (size_t i = 0; i < plan_.kernels.size(); ++i) {
      const Kernel& k = plan_.kernels[i];
      if (target_->is_cpu()) {
        if (!k.is_host())
          fail(at("kernels", i, "digest"), "a plan for cpu launches host kernels only");
        if (find_host_kernel_index(k.name) < 0) {
          fail(at("kernels", i, "name"),
               "'{}' is not a host kernel of this program: compile the model again", k.name);
        }
        continue;
      }
      if (k.is_host()) {
        fail(at("kernels", i, "digest"), "is empty: a plan for {} cannot launch host kernels",
             plan_.target);
      }
      const bool hex = k.digest.find_first_not_of("0123456789abcdef") == std::string::npos;
      if (!hex || k.digest.size() > 128) {  // becomes a file name
        fail(at("kernels", i, "digest"), "'{}' is not a hexadecimal digest", k.digest);
      }
      if (k.name.empty()) fail(at("kernels", i, "name"), "is empty");
    }
  }

  void check_index(const std::string& field, int index, size_t size, const char* list) const {
    if (index < 0 || static_cast<size_t>(index) >= size) {
      fail(field, "index {} is outside {} (it has {} entries)", index, list, size);
    }
  }

  // ---- programs ----
  void check_program(const Program& p) {
    if (p.graph != "load" && p.graph != "step" && p.graph != "sample") {
      fail("graph", "'{}' is not load, step or sample", p.graph);
    }
    in("workspace_bytes", p.workspace_bytes, 0, plan_.workspace_bytes);
    check_dims("dims", p.dims);
    for (size_t i = 0; i < p.dims.size(); ++i) {
      const DimDecl& d = p.dims[i];
      const auto it = std::find_if(plan_.dims.begin(), plan_.dims.end(),
                                   [&](auto& x) { return x.name == d.name; });
      if (it == plan_.dims.end())
        fail(at("dims", i, "name"), "the plan declares no dim '{}'", d.name);
      if (d.min < it->min || d.max > it->max) {
        fail(at("dims", i), "{} in [{}, {}] leaves the plan's range [{}, {}]", d.name, d.min, d.max,
             it->min, it->max);
      }
    }
    make_corners(p.dims);
    upper_.clear();
    for (const DimDecl& d : p.dims) upper_[d.name] = d.max;
    seen_.assign(plan_.buffers.size(), 0);
    for (step_ = 0; step_ < static_cast<int>(p.steps.size()); ++step_)
      check_step(p, p.steps[step_]);
    step_ = -1;
  }

  /// All combinations of the dims' ends: size expressions are sums and products of them, so their
  /// extremes lie there.
  void make_corners(const std::vector<DimDecl>& dims) {
    corners_.clear();
    for (size_t mask = 0; mask < (size_t{1} << dims.size()); ++mask) {
      std::vector<int64_t> values(dims.size());
      for (size_t i = 0; i < dims.size(); ++i)
        values[i] = (mask >> i & 1) ? dims[i].max : dims[i].min;
      corners_.push_back(std::move(values));
    }
  }

  /// `f()`, with what ir/dim.h counts as our own mistake (overflow, a missing dim) reported as the
  /// plan's.
  template <class F>
  int64_t sized(const std::string& field, F&& f) const {
    try {
      return f();
    } catch (const Error& e) {
      fail(field, "{}", e.what());
    }
  }

  Range range(const std::string& field, const DimExpr& expr) const {
    const std::string text = expr.to_string();
    if (text.find_first_not_of("0123456789") == std::string::npos) {  // most are plain numbers
      const int64_t value = expr.evaluate(static_cast<const int64_t*>(nullptr));
      return {value, value};
    }
    Range r{INT64_MAX, INT64_MIN};
    DimExpr bound = expr;
    sized(field, [&] { return bound.bind(plan_.programs[program_].dims), int64_t{0}; });
    for (const auto& corner : corners_) {
      const int64_t value = sized(field, [&] { return bound.evaluate(corner.data()); });
      r = {std::min(r.low, value), std::max(r.high, value)};
    }
    return r;
  }
  Range range_in(const std::string& field, const DimExpr& expr, int64_t low, int64_t high) const {
    const Range r = range(field, expr);
    if (r.low < low || r.high > high) {
      fail(field, "'{}' takes values in [{}, {}], allowed is [{}, {}]", expr.to_string(), r.low,
           r.high, low, high);
    }
    return r;
  }

  /// Bytes that follow the argument's address in its buffer. Checks index, offset, and on first
  /// sight the buffer.
  int64_t room(const std::string& field, const Arg& a) {
    if (a.kind != Arg::Kind::buffer) fail(field, "is not the address of a buffer");
    check_index(field, a.index, plan_.buffers.size(), "buffers");
    const Buffer& b = plan_.buffers[a.index];
    if (!seen_[a.index]) {
      seen_[a.index] = 1;
      check_buffer_here(field, b);
    }
    if (a.offset < 0 || a.offset > b.bytes || (a.offset == b.bytes && b.bytes > 0)) {
      fail(field, "offset {} is outside buffer '{}' of {} bytes", a.offset, b.name, b.bytes);
    }
    return b.bytes - a.offset;
  }

  void check_buffer_here(const std::string& field, const Buffer& b) const {
    const Program& p = plan_.programs[program_];
    if (b.arena == Arena::workspace && b.offset + b.bytes > p.workspace_bytes) {
      fail(field, "buffer '{}' ends at byte {} of a workspace of {}", b.name, b.offset + b.bytes,
           p.workspace_bytes);
    }
    const int64_t need = sized(field, [&] { return b.type.bytes().evaluate(upper_); });
    if (need < 0 || need > b.bytes) {
      fail(field, "buffer '{}' : {} needs {} bytes in this program and has {}", b.name,
           b.type.to_string(), need, b.bytes);
    }
  }

  void need(const std::string& field, const Arg& a, int64_t bytes) {
    const int64_t has = room(field, a);
    if (bytes > has) {
      fail(field, "{} bytes from offset {} leave buffer '{}' of {} bytes", bytes, a.offset,
           plan_.buffers[a.index].name, plan_.buffers[a.index].bytes);
    }
  }

  /// Parameters are written by the load program only.
  void check_writable(const std::string& field, const Arg& a) const {
    if (plan_.buffers[a.index].arena == Arena::weights &&
        plan_.programs[program_].graph != "load") {
      fail(field, "writes parameter '{}' outside the load program", plan_.buffers[a.index].name);
    }
  }

  void check_arg(const std::string& field, const Arg& a) {
    switch (a.kind) {
      case Arg::Kind::buffer: room(field, a); return;
      case Arg::Kind::state: check_index(field, a.index, plan_.states.size(), "states"); return;
      case Arg::Kind::dim_ptr: check_index(field, a.index, plan_.dims.size(), "dims"); return;
      case Arg::Kind::i32: range_in(field, a.dim, INT32_MIN, INT32_MAX); return;
      case Arg::Kind::i64: range(field, a.dim); return;
      case Arg::Kind::rank:
        check_index(field, a.index, plan_.rank_tables.size(), "rank_tables");
        return;
      case Arg::Kind::peers: check_peers(field, a); return;
      case Arg::Kind::f32:
        if (!std::isfinite(a.number)) fail(field, "{} is not a number", a.number);
        return;
      case Arg::Kind::expr:
        if (!target_->is_cpu()) fail(field, "only host kernels take expressions");
        sized(field, [&] { return Expr::parse(a.text), int64_t{0}; });
        return;
      case Arg::Kind::null: return;
    }
    fail(field, "is of no known kind");
  }

  void check_peers(const std::string& field, const Arg& a) const {
    check_index(field, a.index, plan_.buffers.size(), "buffers");
    const Buffer& b = plan_.buffers[a.index];
    if (b.arena != Arena::peer) fail(field, "'{}' is not in the peer arena", b.name);
    if (plan_.peer_bytes == 0) fail(field, "the plan has no peer memory");
    if (plan_.programs[program_].graph == "load") fail(field, "ranks load by themselves");
    const int ranks = plan_.mesh.size(a.over);
    if (ranks < 2 || ranks > kMaxPeers) {
      fail(field, "{} ranks along {}, peer memory is for 2 to {}", ranks, axis_name(a.over),
           kMaxPeers);
    }
  }

  void check_step(const Program& p, const Step& s) {
    if (const auto* launch = std::get_if<Launch>(&s.what)) check(*launch);
    if (const auto* matmul = std::get_if<Matmul>(&s.what)) check(*matmul);
    if (const auto* copy = std::get_if<Copy>(&s.what)) check(*copy);
    if (const auto* fill = std::get_if<Fill>(&s.what)) check(*fill);
    if (const auto* collective = std::get_if<Collective>(&s.what)) check(p, *collective);
    in("rank", s.rank, -1, p.graph == "load" ? plan_.mesh.size() - 1 : -1);
    const bool loads =
        std::holds_alternative<Constant>(s.what) || std::holds_alternative<Read>(s.what);
    if (loads && p.graph != "load") fail("kind", "only the load program reads files and constants");
    if (const auto* constant = std::get_if<Constant>(&s.what)) {
      need("to", constant->to, static_cast<int64_t>(constant->values.size() * sizeof(float)));
    }
    if (const auto* read = std::get_if<Read>(&s.what)) check(*read);
    range_in("bytes", s.bytes, 0, INT64_MAX);
    range_in("flops", s.flops, 0, INT64_MAX);
    for (size_t i = 0; i < s.writes.size(); ++i) {
      check_index(at("writes", i), s.writes[i], plan_.buffers.size(), "buffers");
    }
  }

  void check(const Launch& l) {
    check_index("kernel", l.kernel, plan_.kernels.size(), "kernels");
    if (l.args.size() > 256) fail("args", "{} arguments, at most 256 are supported", l.args.size());
    for (size_t i = 0; i < l.args.size(); ++i) check_arg(at("args", i), l.args[i]);
    if (target_->is_cpu()) return;  // a host kernel splits its work itself
    for (size_t i = 0; i < 3; ++i) {
      const Range r = range_in(at("grid", i), l.grid[i], 0, i == 0 ? kCudaGridX : kCudaGridYZ);
      if (r.high < 1) fail(at("grid", i), "'{}' is never positive", l.grid[i].to_string());
    }
    in("threads", l.threads, 1, 1024);
    in("smem", l.smem, 0, target_->smem_per_block);
    in("cluster", l.cluster, 1, target_->sm >= 90 ? 16 : 1);
  }

  void check(const Matmul& m) {
    if (target_->is_cpu()) fail("kind", "a plan for cpu has no cuBLASLt matmuls");
    for (const DType t : {m.x_type, m.w_type, m.d_type}) {
      if (t != DType::f32 && t != DType::bf16 && t != DType::f16) {
        fail("x_type", "{} is not f32, bf16 or f16", dtype_name(t));
      }
    }
    if (m.x_type != m.w_type) {
      fail("w_type", "{} differs from x_type {}: cuBLASLt takes one type", dtype_name(m.w_type),
           dtype_name(m.x_type));
    }
    if (m.d_type != m.x_type && m.d_type != DType::f32) {
      fail("d_type", "{} is neither x_type {} nor f32", dtype_name(m.d_type), dtype_name(m.x_type));
    }
    in("n", m.n, 1, kMaxCount);
    in("k", m.k, 1, kMaxCount);
    in("workspace_bytes", m.workspace_bytes, 0, kMaxBytes);
    const int64_t rows = range_in("m", m.m, 0, kMaxCount).high;
    const int64_t x_bytes = dtype_bytes(m.x_type), d_bytes = dtype_bytes(m.d_type);
    need("x", m.x, product("x", {rows, m.k, x_bytes}));
    need("w", m.w, product("w", {m.n, m.k, x_bytes}));
    need("d", m.d, product("d", {rows, m.n, d_bytes}));
    check_writable("d", m.d);
    if (m.c.kind != Arg::Kind::null) need("c", m.c, product("c", {rows, m.n, d_bytes}));
    if (m.bias.kind != Arg::Kind::null) need("bias", m.bias, m.n * d_bytes);
    if (m.workspace_bytes > 0) need("workspace", m.workspace, m.workspace_bytes);
  }

  int64_t product(const std::string& field, std::initializer_list<int64_t> factors) const {
    int64_t result = 1;
    for (const int64_t f : factors) {
      if (__builtin_mul_overflow(result, f, &result) || result > kMaxBytes)
        fail(field, "its size overflows");
    }
    return result;
  }

  void check(const Copy& c) {
    const int64_t bytes = range_in("size", c.bytes, 0, kMaxBytes).high;
    need("from", c.from, bytes);
    need("to", c.to, bytes);
    check_writable("to", c.to);
  }

  void check(const Fill& f) {
    need("to", f.to, range_in("size", f.bytes, 0, kMaxBytes).high);
    check_writable("to", f.to);
    in("value", f.value, -128, 255);
  }

  void check(const Program& p, const Collective& c) {
    if (p.graph == "load") fail("kind", "ranks load by themselves");
    const int64_t ranks = plan_.mesh.size(c.over);
    const int64_t part =
        product("count", {range_in("count", c.count, 0, kMaxCount).high, dtype_bytes(c.dtype)});
    const int64_t all = product("count", {part, ranks});
    using Kind = Collective::Kind;
    const bool exchange = c.kind == Kind::all_to_all;
    need("from", c.from, exchange || c.kind == Kind::reduce_scatter ? all : part);
    need("to", c.to, exchange || c.kind == Kind::all_gather ? all : part);
    check_writable("to", c.to);
    const bool sums = c.kind == Kind::all_reduce || c.kind == Kind::reduce_scatter;
    const bool real = c.dtype == DType::f32 || c.dtype == DType::bf16 || c.dtype == DType::f16;
    if (!real && (sums || c.dtype != DType::i32))
      fail("dtype", "{} is not moved between ranks", dtype_name(c.dtype));
  }

  void check(const Read& r) {
    check_index("file", r.file, plan_.files.size(), "files");
    in("rows", r.rows, 0, kMaxBytes);
    in("row_bytes", r.row_bytes, 0, kMaxBytes);
    in("from_offset", r.from_offset, 0, kMaxBytes);
    const auto e = r.element_bytes;
    if (e != 1 && e != 2 && e != 4 && e != 8) fail("element_bytes", "{} is not 1, 2, 4 or 8", e);
    if (r.row_bytes % e != 0)
      fail("row_bytes", "{} is no multiple of element_bytes {}", r.row_bytes, e);
    if (r.from_stride != 0) in("from_stride", r.from_stride, e, kMaxBytes);
    const int64_t columns = r.row_bytes / e;
    int64_t to_end = 0;
    if (r.transpose_rows != 0) {
      if (r.transpose_rows != r.rows || r.to_pitch < r.rows * e || r.to_pitch % e != 0) {
        fail("transpose_rows", "{} does not fit {} rows of {} bytes (pitch {})", r.transpose_rows,
             r.rows, r.row_bytes, r.to_pitch);
      }
      to_end = columns == 0 ? 0 : product("to", {columns - 1, r.to_pitch}) + r.rows * e;
    } else {
      in("to_pitch", r.to_pitch, r.row_bytes, kMaxBytes);
      to_end = r.rows == 0 ? 0 : product("to", {r.rows - 1, r.to_pitch}) + r.row_bytes;
    }
    need("to", r.to, to_end);
    if (r.dequantize) return check(r, *r.dequantize);
    // Bytes of the file from the first to the last of a row.
    const int64_t span = r.from_stride == 0 || columns == 0
                             ? r.row_bytes
                             : product("from_stride", {columns - 1, r.from_stride}) + e;
    in("from_pitch", r.from_pitch, span, kMaxBytes);
    const int64_t bytes =
        r.rows == 0 ? 0 : product("from_pitch", {r.rows - 1, r.from_pitch}) + span;
    check_in_file("from_offset", r.file, r.tensor, r.from_offset, bytes);
  }

  void check(const Read& r, const Dequantize& d) {
    const auto real = [](DType t) {
      return t == DType::f32 || t == DType::f16 || t == DType::bf16;
    };
    const bool pairs = d.payload == DType::u8;
    if (!pairs && d.payload != DType::f8e4m3)
      fail("dequantize.payload", "{} is not f8e4m3 or u8", dtype_name(d.payload));
    if (!real(d.scale) && d.scale != DType::u8)
      fail("dequantize.scale", "{} is not f32, f16, bf16 or u8", dtype_name(d.scale));
    if (!real(d.result) || dtype_bytes(d.result) != r.element_bytes) {
      fail("dequantize.result", "{} does not have {} bytes", dtype_name(d.result), r.element_bytes);
    }
    if (r.from_stride != 0) fail("from_stride", "{} stands beside dequantize", r.from_stride);
    check_index("dequantize.scale_file", d.scale_file, plan_.files.size(), "files");
    in("dequantize.group_rows", d.group_rows, 1, kMaxCount);
    in("dequantize.group_columns", d.group_columns, 1, kMaxCount);
    in("dequantize.first_row", d.first_row, 0, kMaxCount);
    in("dequantize.first_column", d.first_column, 0, kMaxCount);
    in("dequantize.row_step", d.row_step, 1, kMaxCount);
    in("dequantize.column_step", d.column_step, 1, kMaxCount);
    in("dequantize.scale_offset", d.scale_offset, 0, kMaxBytes);
    const int64_t columns = r.row_bytes / r.element_bytes;
    if (r.rows == 0 || columns == 0) return;
    const int64_t n = product("rows", {r.rows - 1, d.row_step}) + d.first_row;
    const int64_t k = product("row_bytes", {columns - 1, d.column_step}) + d.first_column;
    const int64_t payload_row = pairs ? k / 2 + 1 : k + 1;
    const int64_t scale_row = (k / d.group_columns + 1) * dtype_bytes(d.scale);
    in("from_pitch", r.from_pitch, payload_row, kMaxBytes);
    in("dequantize.scale_pitch", d.scale_pitch, scale_row, kMaxBytes);
    check_in_file("from_offset", r.file, r.tensor, r.from_offset,
                  product("from_pitch", {n, r.from_pitch}) + payload_row);
    check_in_file("dequantize.scale_offset", d.scale_file, d.scale_tensor, d.scale_offset,
                  product("dequantize.scale_pitch", {n / d.group_rows, d.scale_pitch}) + scale_row);
  }

  void check_in_file(const std::string& field, int index, const std::string& tensor, int64_t begin,
                     int64_t bytes) {
    const PlanFile& file = plan_.files[static_cast<size_t>(index)];
    if (bytes > file.size - begin) {
      fail(field, "tensor '{}' would be read up to byte {} of {}, which has {}", tensor,
           bytes + begin, file.name, file.size);
    }
  }

  const Plan& plan_;
  const Target* target_ = nullptr;
  int program_ = -1, step_ = -1;
  std::vector<std::vector<int64_t>> corners_;
  DimEnv upper_;
  std::vector<char> seen_;  // buffers already checked in this program
};

}  // namespace

void validate(const Plan& plan) { Validator(plan).run(); }

}  // namespace shunt
