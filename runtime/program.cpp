// Binds a program's steps to addresses and runs them. Entry points: the constructor, set_dims(),
// run_all(). Tested by tests/runtime/session/session_test.cpp.
#include "runtime/program.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "ir/error.h"

namespace shunt {

namespace {

/// How far an address is aligned, at most 256 bytes.
int64_t alignment_of(const void* p) {
  const auto bits = reinterpret_cast<uintptr_t>(p);
  return bits == 0 ? 256 : std::min<int64_t>(256, int64_t{1} << std::countr_zero(bits));
}

}  // namespace

std::byte* Addresses::of(const Plan& plan, const Arg& arg) const {
  switch (arg.kind) {
    case Arg::Kind::buffer: {
      const Buffer& b = plan.buffers[static_cast<size_t>(arg.index)];
      return arenas[static_cast<size_t>(b.arena)] + b.offset + arg.offset;
    }
    case Arg::Kind::state: return states[static_cast<size_t>(arg.index)];
    case Arg::Kind::dim_ptr: return dims + arg.index * static_cast<int64_t>(sizeof(int32_t));
    case Arg::Kind::peers: return peer_tables.at({arg.index, arg.over});
    case Arg::Kind::null: return nullptr;
    default: break;
  }
  internal_error(__FILE__, __LINE__, "an argument of kind {} has no address",
                 static_cast<int>(arg.kind));
}

BoundProgram::BoundProgram(const Plan& plan, const Program& program, const Addresses& addresses,
                           Machine& machine)
    : plan_(plan), program_(program), addresses_(addresses), machine_(machine) {
  for (const DimDecl& d : program.dims) upper_[d.name] = d.max;
  size_t slots = 0, memory_calls = 0, matmuls = 0, launches = 0, collectives = 0;
  for (const Step& s : program.steps) {
    if (const auto* l = std::get_if<Launch>(&s.what)) {
      slots += l->args.size();
      ++launches;
    }
    matmuls += std::holds_alternative<Matmul>(s.what);
    collectives += std::holds_alternative<Collective>(s.what);
    memory_calls += std::holds_alternative<Copy>(s.what) || std::holds_alternative<Fill>(s.what);
  }
  // Refreshes point into these, so they must not move.
  slots_.reserve(slots);
  pointers_.reserve(slots);
  gpu_calls_.reserve(launches);
  matmuls_.reserve(matmuls);
  memory_calls_.reserve(memory_calls);
  collectives_.reserve(collectives);
  for (const Step& s : program.steps) {
    if (const auto* launch = std::get_if<Launch>(&s.what)) {
      add(*launch);
    } else if (const auto* matmul = std::get_if<Matmul>(&s.what)) {
      add(*matmul);
    } else if (const auto* copy = std::get_if<Copy>(&s.what)) {
      steps_.push_back({Kind::copy, static_cast<uint32_t>(memory_calls_.size())});
      memory_calls_.push_back({addresses.of(plan, copy->to), addresses.of(plan, copy->from), 0, 0});
      memory_calls_.back().bytes = bind(copy->bytes, &memory_calls_.back().bytes);
    } else if (const auto* fill = std::get_if<Fill>(&s.what)) {
      steps_.push_back({Kind::fill, static_cast<uint32_t>(memory_calls_.size())});
      memory_calls_.push_back({addresses.of(plan, fill->to), nullptr, 0, fill->value});
      memory_calls_.back().bytes = bind(fill->bytes, &memory_calls_.back().bytes);
    } else if (const auto* collective = std::get_if<Collective>(&s.what)) {
      add(*collective, steps_.size());
    } else {
      steps_.push_back({Kind::load, 0});
    }
  }
}

int64_t BoundProgram::upper(const DimExpr& value) const { return value.evaluate(upper_); }

/// The value at the dims' upper bounds. If it depends on dims, `to` will be refreshed with them.
int64_t BoundProgram::bind(const DimExpr& value, int64_t* to) {
  const std::string text = value.to_string();
  const bool constant = std::none_of(plan_.dims.begin(), plan_.dims.end(), [&](const DimDecl& d) {
    return text.find(d.name) !=
           std::string::npos;  // a part of a longer name costs a needless refresh, no more
  });
  if (!constant) {
    refreshes_.push_back({to, value});
    refreshes_.back().value.bind(plan_.dims);
  }
  return upper(value);
}

void BoundProgram::add_slot(const Arg& arg) {
  slots_.push_back(HostSlot::null());
  HostSlot& slot = slots_.back();
  switch (arg.kind) {
    case Arg::Kind::i32:
    case Arg::Kind::i64:  // a GPU kernel's int parameter reads the low half: x86 and the GPU are
                          // little-endian
      slot.i = bind(arg.dim, &slot.i);
      break;
    case Arg::Kind::f32:
      if (machine_.gpu) {
        slot.i = static_cast<int64_t>(std::bit_cast<uint32_t>(static_cast<float>(arg.number)));
      } else {
        slot.f = arg.number;
      }
      break;
    case Arg::Kind::rank:
      slot.i =
          plan_.rank_tables[static_cast<size_t>(arg.index)][static_cast<size_t>(machine_.rank())];
      break;
    case Arg::Kind::expr: slot.e = &exprs_.emplace_back(HostExpr::compile(arg.text)); break;
    default: slot.p = addresses_.of(plan_, arg); break;
  }
  pointers_.push_back(&slot);
}

void BoundProgram::add(const Launch& l) {
  const auto first = static_cast<uint32_t>(slots_.size());
  for (const Arg& arg : l.args) add_slot(arg);
  const Kernel& kernel = plan_.kernels[static_cast<size_t>(l.kernel)];
  if (machine_.pool) {
    const HostKernel f = find_host_kernel(kernel.name);
    SHUNT_CHECK(f != nullptr, "no host kernel {}", kernel.name);
    steps_.push_back({Kind::host, static_cast<uint32_t>(host_calls_.size())});
    host_calls_.push_back({f, first, static_cast<uint32_t>(l.args.size())});
    return;
  }
  const Kind previous = steps_.empty() ? Kind::load : steps_.back().kind;
  steps_.push_back({Kind::launch, static_cast<uint32_t>(gpu_calls_.size())});
  gpu_calls_.push_back({machine_.gpu->kernels[static_cast<size_t>(l.kernel)], {}, first, {}});
  GpuCall& call = gpu_calls_.back();
  call.config.threads = static_cast<uint32_t>(l.threads);
  call.config.smem = static_cast<uint32_t>(l.smem);
  call.config.cluster = l.cluster;
  // After a copy or fill there is no kernel whose end could be awaited: then it starts the usual
  // way.
  const bool after_kernel = previous == Kind::launch || previous == Kind::matmul;
  call.config.dependent = l.dependent && after_kernel;
  for (size_t i = 0; i < 3; ++i) call.grid[i] = bind(l.grid[i], &call.grid[i]);
}

void BoundProgram::add(const Matmul& m) {
  SHUNT_CHECK(machine_.gpu, "a matmul step on the cpu target");
  steps_.push_back({Kind::matmul, static_cast<uint32_t>(matmuls_.size())});
  MatmulCall& call = matmuls_.emplace_back();
  GemmOperands& o = call.operands;
  o.x = addresses_.of(plan_, m.x);
  o.w = addresses_.of(plan_, m.w);
  o.c = addresses_.of(plan_, m.c);
  o.bias = addresses_.of(plan_, m.bias);
  o.d = addresses_.of(plan_, m.d);
  o.workspace = addresses_.of(plan_, m.workspace);
  GemmShape shape{m.x_type,          m.d_type, m.n, m.k, o.c != nullptr,
                  o.bias != nullptr, 0,        0,   0,   m.workspace_bytes};
  shape.x_alignment = alignment_of(o.x);
  shape.w_alignment = alignment_of(o.w);
  shape.d_alignment = std::min(alignment_of(o.d), alignment_of(o.c));
  call.shape = machine_.gpu->gemm.prepare(shape, upper(m.m));
  call.m = bind(m.m, &call.m);
}

void BoundProgram::add(const Collective& c, size_t step) {
  Communicator* group = machine_.groups[static_cast<size_t>(c.over)].get();
  SHUNT_CHECK(group != nullptr, "no communicator along {}", axis_name(c.over));
  steps_.push_back({Kind::collective, static_cast<uint32_t>(collectives_.size())});
  collectives_.push_back({c.kind, group, addresses_.of(plan_, c.from), addresses_.of(plan_, c.to),
                          0, c.dtype, static_cast<int32_t>(step), program_.steps[step].loc});
  collectives_.back().count = bind(c.count, &collectives_.back().count);
}

void BoundProgram::run_collective(const CollectiveCall& c) {
  if (c.count <= 0) return;
  const CommSite site{machine_.step, c.op, c.loc};
  void* stream = machine_.stream();
  switch (c.kind) {
    case Collective::Kind::all_reduce:
      return c.group->all_reduce(c.from, c.to, c.count, c.dtype, site, stream);
    case Collective::Kind::all_gather:
      return c.group->all_gather(c.from, c.to, c.count, c.dtype, site, stream);
    case Collective::Kind::reduce_scatter:
      return c.group->reduce_scatter(c.from, c.to, c.count, c.dtype, site, stream);
    case Collective::Kind::all_to_all:
      return c.group->all_to_all(c.from, c.to, c.count, c.dtype, site, stream);
  }
}

void Machine::wait(std::string_view loc) {
  if (!gpu) return;
  if (world == nullptr) return gpu->stream.synchronize();
  world->wait(stream(), {step, -1, loc});
}

void BoundProgram::set_dims(std::span<const int64_t> dims) {
  for (const Refresh& r : refreshes_) *r.to = r.value.evaluate(dims.data());
}

void BoundProgram::run_launch(GpuCall& call) {
  for (size_t i = 0; i < 3; ++i) {
    if (call.grid[i] <= 0) return;  // nothing to do at these sizes
    call.config.grid[i] = static_cast<uint32_t>(call.grid[i]);
  }
  launch(call.kernel, call.config, pointers_.data() + call.first, machine_.gpu->stream);
}

void BoundProgram::run_one(size_t step) {
  const Bound b = steps_[step];
  switch (b.kind) {
    case Kind::host: {
      const HostCall& c = host_calls_[b.index];
      c.kernel({slots_.data() + c.first, c.count}, *machine_.pool);
      return;
    }
    case Kind::launch: return run_launch(gpu_calls_[b.index]);
    case Kind::matmul: {
      const MatmulCall& c = matmuls_[b.index];
      if (c.m > 0) machine_.gpu->gemm.run(c.shape, c.m, c.operands, machine_.gpu->stream);
      return;
    }
    case Kind::copy: {
      const MemoryCall& c = memory_calls_[b.index];
      if (c.bytes <= 0) return;
      if (machine_.gpu) return copy_on_device(c.to, c.from, c.bytes, machine_.gpu->stream);
      std::memmove(c.to, c.from, static_cast<size_t>(c.bytes));
      return;
    }
    case Kind::fill: {
      const MemoryCall& c = memory_calls_[b.index];
      if (c.bytes <= 0) return;
      if (machine_.gpu) return fill_device(c.to, c.value, c.bytes, machine_.gpu->stream);
      std::memset(c.to, c.value, static_cast<size_t>(c.bytes));
      return;
    }
    case Kind::collective: return run_collective(collectives_[b.index]);
    case Kind::load: return;
  }
}

void BoundProgram::run_all() {
  for (size_t i = 0; i < steps_.size(); ++i) run_one(i);
}

}  // namespace shunt
