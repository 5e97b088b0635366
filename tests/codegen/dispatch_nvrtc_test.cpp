// Compiles the rows of emit/dispatch*.cpp: even and odd widths, one and
// several replicas.
#include "codegen/emit/families.h"
#include "tests/codegen/row_compiler.h"

namespace shunt::codegen {
namespace {

constexpr const char* kModule = R"mir(module @t stage(placed)
mesh dp 4 tp 2 ep 8 etp 1
dim T in [1, 64]
graph @g(%x : bf16[T, 2048], %ids : i32[T, 8], %w : f32[T, 8], %t : f32[384], %odd : f32[T, 33], %id : i32[T, 1], %w1 : f32[T, 1], %r : f32[768]) {
  %a, %b, %c, %d = dispatch %x, %ids, %w, %t {experts = 128, replicas = 1, over = dp, ranks = 4} : bf16[4*T, 2048], i32[4*T, 8], f32[4*T, 8], i32[T, 4]
  %i = combine %a, %d {over = dp, ranks = 4} : bf16[T, 2048]
  %e, %f, %g, %h = dispatch %odd, %id, %w1, %r {experts = 128, replicas = 2, over = world, ranks = 8} : f32[8*T, 33], i32[8*T, 1], f32[8*T, 1], i32[T, 8]
  %j = combine %e, %h {over = world, ranks = 8} : f32[T, 33]
  return %b, %c, %f, %g, %i, %j
})mir";

TEST(DispatchNvrtc, ThroughMessages) {
  expect_rows_compile(dispatch_kernels(), kModule, {"dispatch.alltoall", "combine.alltoall"},
                      /*decode=*/false, /*peer_memory=*/false);
  expect_rows_compile(dispatch_kernels(), kModule, {});  // all or nothing goes over peer memory
}

TEST(DispatchNvrtc, OverPeerMemory) {
  expect_rows_compile(dispatch_peer_kernels(), kModule, {"dispatch.peer", "combine.peer"});
}

/// The odd width is of 33 elements of 4 bytes, which no lines of 8 make up.
TEST(DispatchNvrtc, InLines) {
  std::string even = kModule;
  for (size_t at; (at = even.find(", 33]")) != std::string::npos;) even.replace(at, 5, ", 34]");
  expect_rows_compile(dispatch_lines_kernels(), even.c_str(),
                      {"dispatch.peer_lines", "combine.peer_lines"});
}

/// Two dispatches before the first one's combine would write where a slow rank still reads.
TEST(DispatchNvrtc, PeerMemoryNeedsPairs) {
  const CompiledRows rows = compile_rows(dispatch_peer_kernels(), R"mir(module @t stage(placed)
mesh dp 2 tp 1 ep 2 etp 1
dim T in [1, 64]
graph @g(%x : bf16[T, 64], %ids : i32[T, 2], %w : f32[T, 2], %t : f32[24]) {
  %a, %b, %c, %d = dispatch %x, %ids, %w, %t {experts = 8, replicas = 1, over = dp, ranks = 2} : bf16[2*T, 64], i32[2*T, 2], f32[2*T, 2], i32[T, 2]
  %e, %f, %g, %h = dispatch %x, %ids, %w, %t {experts = 8, replicas = 1, over = dp, ranks = 2} : bf16[2*T, 64], i32[2*T, 2], f32[2*T, 2], i32[T, 2]
  %i = combine %a, %d {over = dp, ranks = 2} : bf16[T, 64]
  %j = combine %e, %h {over = dp, ranks = 2} : bf16[T, 64]
  return %b, %c, %f, %g, %i, %j
})mir",
                                         "sm_90a");
  EXPECT_EQ(rows.rows, std::set<std::string>{});
}

}  // namespace
}  // namespace shunt::codegen
