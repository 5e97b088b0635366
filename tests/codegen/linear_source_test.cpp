// The text of a kernel, exactly, and the embedded headers against the files they come from.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "codegen/kernel.h"
#include "codegen/kernel_headers.h"
#include "ir/error.h"
#include "tests/paths.h"

namespace shunt::codegen {
namespace {

TEST(KernelSource, TextIsAnIncludeAConfigAndAnEntry) {
  KernelSource source;
  source.name = "twice";
  source.header = "twice.cuh";
  source.function = "map";
  source.config = {TemplateArg::number("kRows", 8),
                   TemplateArg::number("kSize", int64_t{1} << 40),
                   TemplateArg::real("kScale", 2),
                   TemplateArg::real("kEps", 1e-6),
                   TemplateArg::boolean("kGlu", false),
                   TemplateArg::type("Out", DType::bf16),
                   TemplateArg::type("Index", std::string("int"))};
  source.extra = "  static __device__ float epilogue(float x) { return x; }";
  source.parameters =
      "const shunt::bf16* x, shunt::Pair<int, float> pair, float* __restrict__ out, int T";
  source.max_threads = 128;
  source.min_blocks = 2;
  EXPECT_EQ(source.text(), R"(#include "twice.cuh"

struct Config {
  static constexpr auto kRows = 8;
  static constexpr auto kSize = 1099511627776ll;
  static constexpr auto kScale = 2.0f;
  static constexpr auto kEps = 9.99999997e-07f;
  static constexpr auto kGlu = false;
  using Out = shunt::bf16;
  using Index = int;
  static __device__ float epilogue(float x) { return x; }
};

extern "C" __global__ void __launch_bounds__(128, 2)
twice(const shunt::bf16* x, shunt::Pair<int, float> pair, float* __restrict__ out, int T) {
  shunt::map<Config>(x, pair, out, T);
}
)");
}

TEST(KernelSource, ConstantsMustBeFinite) {
  EXPECT_THROW(TemplateArg::real("kScale", 1e300), InternalError);
}

TEST(KernelHeaders, AreTheFiles) {
  ASSERT_FALSE(kernel_headers().empty());
  std::string last;
  for (const EmbeddedHeader& header : kernel_headers()) {
    EXPECT_LT(last, header.name) << "sorted";
    last = header.name;
    std::ifstream file(std::string(source_dir()) + "/codegen/kernels/" +
                       std::string(header.name));
    ASSERT_TRUE(file) << header.name;
    std::stringstream text;
    text << file.rdbuf();
    EXPECT_TRUE(header.text == text.str()) << header.name << " differs";
  }
}

}  // namespace
}  // namespace shunt::codegen
