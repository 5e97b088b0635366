// Host kernels: how the session calls what a plan of the `cpu` target launches.
//
// At load the session finds each kernel by name and turns a launch's Args into slots, in order;
// before a step it refreshes only the integers that depend on dims. A call allocates nothing
// (scratch only grows), parses nothing.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "runtime/host/host_expr.h"
#include "runtime/host/thread_pool.h"
#include "runtime/plan/host_kernels.h"

namespace shunt {

/// One argument, resolved from a plan Arg: buffer, state -> p (address + offset); dim_ptr -> p
/// (address of an int32); i32, i64 -> i; f32 -> f; expr -> e (owned by the session); null -> p =
/// nullptr.
union HostSlot {
  void* p;
  int64_t i;
  double f;
  const HostExpr* e;

  static HostSlot pointer(void* value) {
    HostSlot s;
    s.p = value;
    return s;
  }
  static HostSlot integer(int64_t value) {
    HostSlot s;
    s.i = value;
    return s;
  }
  static HostSlot real(double value) {
    HostSlot s;
    s.f = value;
    return s;
  }
  static HostSlot expr(const HostExpr* value) {
    HostSlot s;
    s.e = value;
    return s;
  }
  static HostSlot null() { return pointer(nullptr); }
};

/// Runs one launch. The slots' meaning is in SHUNT_HOST_KERNELS. Throws InternalError on a
/// malformed argument list.
using HostKernel = void (*)(std::span<const HostSlot> args, ThreadPool& pool);

/// nullptr if there is no such kernel.
HostKernel find_host_kernel(std::string_view name);

namespace host {
#define SHUNT_HOST_DECLARE(name) void name(std::span<const HostSlot> args, ThreadPool& pool);
SHUNT_HOST_KERNELS(SHUNT_HOST_DECLARE)
#undef SHUNT_HOST_DECLARE
}  // namespace host

}  // namespace shunt
