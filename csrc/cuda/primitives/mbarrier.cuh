// mbarriers: 64-bit objects in shared memory that count arrivals of threads and bytes of bulk copies. A phase ends when
// both are complete, and the next begins. Waiting names the parity of the phase to wait for: 0 for the first, 1 for the
// second, and so on in turn; a barrier nobody has used counts as having completed a phase of parity 1. From sm_90 on.
#pragma once

#include "shared_address.cuh"
#include "sm90_asm.cuh"
#if defined(FASTCONV_EMULATED)
#include "../../emulator/device_barriers.h"
#endif

namespace fastconv::cuda {

#if defined(FASTCONV_EMULATED)

__forceinline__ void mbarrier_init(uint64_t* barrier, uint32_t arrivals,
                                   emulator::Caller caller = emulator::Caller::here()) {
  emulator::mbarrier_init(barrier, arrivals, caller);
}
__forceinline__ void mbarrier_invalidate(uint64_t* barrier, emulator::Caller caller = emulator::Caller::here()) {
  emulator::mbarrier_invalidate(barrier, caller);
}
__forceinline__ void mbarrier_arrive(uint64_t* barrier, emulator::Caller caller = emulator::Caller::here()) {
  emulator::mbarrier_arrive(barrier, caller);
}
__forceinline__ void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes,
                                            emulator::Caller caller = emulator::Caller::here()) {
  emulator::mbarrier_arrive_expect(barrier, bytes, caller);
}
__forceinline__ void mbarrier_wait(uint64_t* barrier, uint32_t parity,
                                   emulator::Caller caller = emulator::Caller::here()) {
  emulator::mbarrier_wait(barrier, parity, caller);
}
__forceinline__ void mbarrier_arrive_remote(uint64_t* barrier, uint32_t rank,
                                            emulator::Caller caller = emulator::Caller::here()) {
  emulator::mbarrier_arrive_remote(barrier, rank, caller);
}
__forceinline__ void fence_mbarrier_init() { emulator::fence_mbarrier_init(); }
__forceinline__ void fence_proxy_async() { emulator::fence_proxy_async(); }

#else

__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
  FASTCONV_SM90("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// The eight bytes are ordinary memory again.
__device__ __forceinline__ void mbarrier_invalidate(uint64_t* barrier) {
  FASTCONV_SM90("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
}
__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
  FASTCONV_SM90("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// One arrival; the phase also waits for `bytes` more of bulk copies.
__device__ __forceinline__ void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
  FASTCONV_SM90("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
                "r"(bytes) : "memory");
}
// Returns when the phase of this parity is over. What was done before the arrivals is then seen, bulk copies included;
// of the arrivals, those from the own block.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  FASTCONV_SM90(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(parity) : "memory");
}
// An arrival at the mbarrier that lies at the same place in the shared memory of the cluster's block `rank`, the own
// one included: asynchronous operations that the thread has waited for are over. Of its own loads and stores it says
// nothing: ordering those across blocks would take a fence for the whole GPU, and then there is cluster_sync().
__device__ __forceinline__ void mbarrier_arrive_remote(uint64_t* barrier, uint32_t rank) {
  FASTCONV_SM90(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(rank) : "memory");
}
// After initialising barriers: asynchronous copies may report to them.
__device__ __forceinline__ void fence_mbarrier_init() {
  FASTCONV_SM90("fence.mbarrier_init.release.cluster;" :: : "memory");
}
// Between ordinary stores to shared memory and asynchronous reads of it (bulk stores, wgmma), by the threads that
// stored, before the barrier that tells the one that issues.
__device__ __forceinline__ void fence_proxy_async() { FASTCONV_SM90("fence.proxy.async.shared::cta;" :: : "memory"); }

#endif

}  // namespace fastconv::cuda
