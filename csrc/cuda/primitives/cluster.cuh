// Clusters: LaunchConfig::cluster blocks that run at the same time on neighbouring multiprocessors. They meet in a
// barrier, copy into one another's shared memory (tma.cuh), arrive at one another's mbarriers (mbarrier.cuh) and may
// read and write one another's shared memory, from when they are known to run (a barrier) until they return: so before
// returning a block waits for what others do in its memory. From sm_90 on.
#pragma once

#include <cstdint>

#include "cuda.h"
#include "sm90_asm.cuh"
#if defined(FASTCONV_EMULATED)
#include "../../emulator/device_cluster.h"
#endif

namespace fastconv::cuda {

#if defined(FASTCONV_EMULATED)

__forceinline__ uint32_t cluster_rank() { return static_cast<uint32_t>(emulator::self().cluster_rank); }
__forceinline__ uint32_t cluster_blocks() {
  const dim3& extent = emulator::self().cluster_extent;
  return extent.x * extent.y * extent.z;
}
__forceinline__ void cluster_arrive(emulator::Caller caller = emulator::Caller::here()) {
  emulator::cluster_arrive(caller);
}
__forceinline__ void cluster_wait(emulator::Caller caller = emulator::Caller::here()) {
  emulator::cluster_wait(caller);
}
__forceinline__ void cluster_sync(emulator::Caller caller = emulator::Caller::here()) {
  emulator::cluster_arrive(caller);
  emulator::cluster_wait(caller);
}
template <class T>
__forceinline__ T* map_shared_rank(T* p, uint32_t rank, emulator::Caller caller = emulator::Caller::here()) {
  return static_cast<T*>(emulator::map_shared_rank(p, rank, caller));
}

#else

// Number of the block in its cluster, x fastest.
__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank = 0;
  FASTCONV_SM90("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ uint32_t cluster_blocks() {
  uint32_t blocks = 1;
  FASTCONV_SM90("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
  return blocks;
}

// The barrier of the cluster's threads that have not returned, in its two halves: what was done before the arrivals is
// seen after the wait. Every arrival is followed by a wait of the same thread.
__device__ __forceinline__ void cluster_arrive() { FASTCONV_SM90("barrier.cluster.arrive.release;" :: : "memory"); }
__device__ __forceinline__ void cluster_wait() { FASTCONV_SM90("barrier.cluster.wait.acquire;" :: : "memory"); }
__device__ __forceinline__ void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

// The place in the dynamic shared memory of block `rank` where `p` points in the own block, for loads and stores.
template <class T>
__device__ __forceinline__ T* map_shared_rank(T* p, uint32_t rank) {
  uint64_t mapped = 0;
  FASTCONV_SM90("mapa.u64 %0, %1, %2;" : "=l"(mapped) : "l"(p), "r"(rank));
  return reinterpret_cast<T*>(mapped);
}

#endif

}  // namespace fastconv::cuda
