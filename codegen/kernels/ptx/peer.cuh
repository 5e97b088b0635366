// Reaching the memory of the other ranks of a group: tables, epochs, lines and flags. The structs
// are those of runtime/plan/peer_table.h.
//
// A kernel gets `const PeerTable*` for each buffer that it shares with its group (a plan argument of
// kind "peers"), which may be read before wait_for_predecessor(), and counters of epochs of its own
// (a peer buffer of kPeerEpochs words, never pushed to). All ranks of the group launch the same
// kernels with the same grids in the same order, so an epoch is the same number on all of them: it
// counts the launches over one set of counters, and is what a reader waits for. As it lies in
// memory, a captured graph may be replayed.
//
// Two ways to hand over data:
// - Lines of 8 bytes of payload in 16 bytes, each word with its epoch beside it. One trip over the
//   link, no fence, no barrier; twice the bytes. For small sizes.
// - Any stores, then a barrier of the block, then signal(): a flag with release semantics. The
//   reader's await() acquires. Two trips over the link.
// Memory that peers push lines to is used by alternate epochs (two halves). That suffices if every
// launch waits for every rank: who pushes in epoch e has ended epoch e - 1, so all others have begun
// it, and are done with e - 2, whose half it overwrites. Kernels behind the launch of epoch e may
// read its half, too (epochs[0] is e then), up to the next launch over that role.
//
// A wait ends when the host aborts or its limit is over. Then `dead` is set, all results are void,
// and later kernels neither push nor wait; the host has failed by then, or reads the report.
#pragma once

#include "common/peer_layout.cuh"
#include "common/types.cuh"

namespace shunt {

inline constexpr int kMaxPeers = 8;

struct PeerGuard {
  uint32 dead;
  uint32 reserved;
  uint64 limit_ns;
  const uint32* abort;
  uint32* report;
};

struct PeerTable {
  PeerGuard* guard;
  int64 bytes;   // of the buffer
  int position;  // of this rank in the group
  int ranks;
  uint8* at[kMaxPeers];  // by position; at[position] is this rank's own
};

// ---- words that other ranks, the host or earlier kernels write ----

__device__ __forceinline__ uint32 load_relaxed(const uint32* p) {
  uint32 v;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ uint32 load_acquire(const uint32* p) {
  uint32 v;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ void store_relaxed(uint32* p, uint32 v) {
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
__device__ __forceinline__ void store_release(uint32* p, uint32 v) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
__device__ __forceinline__ uint64 nanoseconds() {
  uint64 t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}

// ---- epochs ----

/// The block's number in a grid of at most kPeerEpochs blocks.
__device__ __forceinline__ int peer_block() {
  return static_cast<int>((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x);
}
/// Of this launch. After wait_for_predecessor().
__device__ __forceinline__ uint32 begin_epoch(const uint32* epochs) {
  return epoch_after(load_relaxed(epochs + peer_block()));
}
/// By all threads of every block, as the last thing. Every block also counts for those that a
/// larger grid would have, so that grids may differ between launches.
__device__ __forceinline__ void end_epoch(uint32* epochs, uint32 epoch) {
  __syncthreads();  // all have read it
  const int blocks = static_cast<int>(gridDim.x * gridDim.y * gridDim.z);
  const int threads = static_cast<int>(blockDim.x);
  for (int i = peer_block() + static_cast<int>(threadIdx.x) * blocks; i < kPeerEpochs;
       i += threads * blocks) {
    epochs[i] = epoch;
  }
}

// ---- waiting ----

/// True if an earlier kernel gave up: to be asked by all threads, after wait_for_predecessor(),
/// before anything is pushed.
__device__ __forceinline__ bool peers_are_dead(const PeerGuard* guard) {
  return load_relaxed(&guard->dead) != 0;
}

/// How often a thread that waits asks for the host's abort word. The word lies across PCIe, where
/// thousands of reads at once take hundreds of microseconds. A rank so delayed delays its peers,
/// which ask in their turn: asked for after a tenth of a millisecond, it made all sums that slow.
inline constexpr uint64 kAskHostNs = 10'000'000;

/// Whether a thread that has waited so long goes on. Not inlined: it is rarely called.
__device__ __noinline__ bool keeps_waiting(PeerGuard* guard, uint64 waited_ns, bool ask_host) {
  const bool late = waited_ns > guard->limit_ns;
  const bool aborted = ask_host && load_relaxed(guard->abort) != 0;
  if (!late && !aborted && load_relaxed(&guard->dead) == 0) return true;
  store_relaxed(&guard->dead, 1);
  if (late) store_relaxed(guard->report, 1);
  return false;
}

/// Of one thread that polls.
class PeerPatience {
 public:
  __device__ __forceinline__ explicit PeerPatience(PeerGuard* guard) : guard_(guard) {}
  /// After a poll in vain. False: give up.
  __device__ __forceinline__ bool again() {
    if ((++polls_ & 255u) != 0) return true;
    const uint64 now = nanoseconds();
    if (start_ == 0) start_ = asked_ = now;
    const bool ask_host = now - asked_ > kAskHostNs;
    if (ask_host) asked_ = now;
    return keeps_waiting(guard_, now - start_, ask_host);
  }

 private:
  PeerGuard* guard_;
  uint64 start_ = 0, asked_ = 0;
  uint32 polls_ = 0;
};

// ---- flags ----

/// Says that everything this block stored before its last barrier is there, in this rank's memory
/// or a peer's. By one thread for each flag.
__device__ __forceinline__ void signal(uint32* flag, uint32 epoch) { store_release(flag, epoch); }

/// Waits until a flag in this rank's memory has come to `epoch` (or a later one: the peer may be
/// ahead). By one thread for each flag, with a barrier behind it for the others. False: given up.
__device__ __forceinline__ bool await(const uint32* flag, uint32 epoch, PeerGuard* guard) {
  PeerPatience patience(guard);
  while (static_cast<int>(load_acquire(flag) - epoch) < 0) {
    if (!patience.again()) return false;
  }
  return true;
}

// ---- lines ----

/// Each word of 8 bytes arrives as a whole.
__device__ __forceinline__ void push_line(uint8* to, uint2 payload, uint32 epoch) {
  const uint64 high = static_cast<uint64>(epoch) << 32;
  asm volatile("st.relaxed.sys.global.v2.u64 [%0], {%1, %2};" ::"l"(to), "l"(high | payload.x),
               "l"(high | payload.y)
               : "memory");
}

/// True if the line of this epoch has arrived.
__device__ __forceinline__ bool poll_line(const uint8* from, uint32 epoch, uint2& payload) {
  uint64 a, b;
  asm volatile("ld.relaxed.sys.global.v2.u64 {%0, %1}, [%2];"
               : "=l"(a), "=l"(b)
               : "l"(from)
               : "memory");
  payload = make_uint2(static_cast<uint32>(a), static_cast<uint32>(b));
  return static_cast<uint32>(a >> 32) == epoch && static_cast<uint32>(b >> 32) == epoch;
}

}  // namespace shunt
