// Compiles the rows of emit/peer_sum.cpp: every element type, odd sizes, 2 to 8 ranks. And holds
// the structs that host and device declare each for themselves against each other.
#include <cstddef>

#include "codegen/emit/families.h"
#include "codegen/kernel_headers.h"
#include "runtime/plan/peer_table.h"
#include "tests/codegen/row_compiler.h"

namespace shunt::codegen {
namespace {

TEST(PeerSumNvrtc, EveryRow) {
  expect_rows_compile(peer_sum_kernels(), R"mir(module @t stage(placed)
mesh dp 2 tp 4 ep 2 etp 4
dim T in [1, 64]
graph @g(%x : bf16[T, 2048], %y : f16[T, 33], %z : f32[T, 7]) {
  %a = all_reduce %x {over = tp, ranks = 4} : bf16[T, 2048]
  %b = all_reduce %y {over = dp, ranks = 2} : f16[T, 33]
  %c = all_reduce %z {over = world, ranks = 8} : f32[T, 7]
  return %a, %b, %c
})mir",
                      {"all_reduce.peer", "all_reduce.peer_sliced"});
}

TEST(PeerSumNvrtc, HostAndDeviceAgree) {
  std::string text = "#include \"ptx/peer.cuh\"\nnamespace shunt {\n";
  const auto holds = [&](const char* device, int64_t host) {
    text += fmt::format("static_assert({} == {});\n", device, host);
  };
  holds("kMaxPeers", kMaxPeers);
  holds("kPeerEpochs", kPeerEpochCounters);
  holds("sizeof(PeerGuard)", sizeof(PeerGuard));
  holds("sizeof(PeerTable)", sizeof(PeerTable));
  text += "}\nextern \"C\" __global__ void same() {}\n";
  JitOptions options;
  options.cache_dir = test_kernel_cache();
  options.headers = kernel_headers();
  options.target = "sm_90a";
  const std::vector<JitSource> sources{{"same", text}};
  EXPECT_NO_THROW(compile_all(sources, options));
}

}  // namespace
}  // namespace shunt::codegen
