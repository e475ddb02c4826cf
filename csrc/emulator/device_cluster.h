// Clusters: blocks that run at the same time, meet in a barrier of their own and reach into one another's shared
// memory. Kernels call these through csrc/cuda/primitives/cluster.cuh.
#pragma once

#include "device.h"

namespace fastconv::emulator {

// The barrier of all threads of the cluster that have not returned. An arrival publishes what the thread has done; the
// wait takes in what all have published.
void cluster_arrive(Caller caller);
void cluster_wait(Caller caller);

// The place in the shared memory of the block of that rank where `address` lies in the calling block.
void* map_shared_rank(const void* address, uint32_t rank, Caller caller);

}  // namespace fastconv::emulator
