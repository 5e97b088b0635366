// What device.h promises of a machine without a GPU: the program starts, and says that there is
// none.
#include "runtime/device.h"

#include <gtest/gtest.h>

#include "ir/error.h"

namespace shunt {
namespace {

TEST(Device, CountDoesNotThrow) { EXPECT_GE(device_count(), 0); }

TEST(Device, ErrorsNameTheCall) {
  if (device_count() > 0) GTEST_SKIP() << "this machine has a GPU";
  try {
    DeviceBuffer buffer(256, "a test");
    ADD_FAILURE() << "no error";
  } catch (const DeviceError& e) {
    EXPECT_NE(std::string(e.what()).find("cudaMalloc"), std::string::npos) << e.what();
  }
  EXPECT_THROW(Stream(), DeviceError);
}

TEST(Device, HandlesAreEmptyByDefault) {
  EXPECT_EQ(DeviceBuffer().data(), nullptr);
  EXPECT_EQ(PinnedBuffer().data(), nullptr);
  EXPECT_FALSE(Graph());
}

}  // namespace
}  // namespace shunt
