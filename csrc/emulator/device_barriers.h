// Barriers beside __syncthreads(): named ones, which some of a block's threads meet in, and mbarriers, which count
// arrivals and the bytes of asynchronous copies. Kernels call these through csrc/cuda/primitives/named_barrier.cuh and
// mbarrier.cuh.
#pragma once

#include "device.h"

namespace fastconv::emulator {

constexpr int kNamedBarriers = 16;  // number 0 is the one of __syncthreads()

void named_barrier_sync(int id, int threads, Caller caller);
void named_barrier_arrive(int id, int threads, Caller caller);

void mbarrier_init(uint64_t* barrier, uint32_t arrivals, Caller caller);
void mbarrier_invalidate(uint64_t* barrier, Caller caller);
void mbarrier_arrive(uint64_t* barrier, Caller caller);
// An arrival at the mbarrier that lies at the same place in the shared memory of another block of the cluster. It says
// that asynchronous operations are over which the thread has waited for; what threads read and wrote themselves is not
// ordered by it.
void mbarrier_arrive_remote(uint64_t* barrier, uint32_t rank, Caller caller);
// One arrival, which also adds to the bytes that the phase waits for.
void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes, Caller caller);
// Until the phase of this parity is over; passes at once when the barrier is in a phase of the other parity.
void mbarrier_wait(uint64_t* barrier, uint32_t parity, Caller caller);
// The mbarriers that this thread has initialised may be used by asynchronous engines.
void fence_mbarrier_init();
// Ordinary stores before it may be seen by asynchronous operations after it.
void fence_proxy_async();

}  // namespace fastconv::emulator
