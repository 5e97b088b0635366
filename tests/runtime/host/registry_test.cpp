// Host kernels are found by the names of SHUNT_HOST_KERNELS, and refuse malformed argument lists.
#include <gtest/gtest.h>

#include "ir/error.h"
#include "runtime/host/host.h"

namespace shunt {
namespace {

TEST(HostKernels, EveryNameHasAFunction) {
  for (std::string_view name : kHostKernelNames) EXPECT_NE(find_host_kernel(name), nullptr) << name;
  EXPECT_EQ(find_host_kernel("linear"), &host::linear);
  EXPECT_EQ(find_host_kernel_index("embedding"), static_cast<int>(HostKernelId::embedding));
  EXPECT_EQ(find_host_kernel_index("sample"), static_cast<int>(HostKernelId::sample));
}

TEST(HostKernels, UnknownNameIsNull) {
  EXPECT_EQ(find_host_kernel("linea"), nullptr);
  EXPECT_EQ(find_host_kernel(""), nullptr);
}

TEST(HostKernels, WrongArgumentCountIsAnError) {
  ThreadPool pool(1);
  for (std::string_view name : kHostKernelNames) {
    EXPECT_THROW(find_host_kernel(name)({}, pool), InternalError) << name;
  }
  const std::vector<HostSlot> seven(7, HostSlot::integer(0));  // gather_rows takes six
  EXPECT_THROW(host::gather_rows(seven, pool), InternalError);
}

}  // namespace
}  // namespace shunt
