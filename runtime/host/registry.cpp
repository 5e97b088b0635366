// Name -> function of the host kernels. Entry point: find_host_kernel. Test:
// tests/runtime/host/registry_test.cpp.
#include <array>

#include "runtime/host/host.h"

namespace shunt {

HostKernel find_host_kernel(std::string_view name) {
  static constexpr HostKernel kTable[] = {
#define SHUNT_HOST_ENTRY(name) &host::name,
      SHUNT_HOST_KERNELS(SHUNT_HOST_ENTRY)
#undef SHUNT_HOST_ENTRY
  };
  const int index = find_host_kernel_index(name);
  return index < 0 ? nullptr : kTable[index];
}

}  // namespace shunt
