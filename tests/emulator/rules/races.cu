// Unordered accesses to shared memory.
#include "rules.h"

namespace {

template <bool kBroken>
__global__ void missing_barrier(float* out) {
  __shared__ float values[64];
  values[threadIdx.x] = 1.0f;
  if (!kBroken) __syncthreads();
  out[threadIdx.x] = values[63 - threadIdx.x];  // breaks: missing_barrier
}

template <bool kBroken>
__global__ void overwritten_too_early(float* out) {
  __shared__ float values[64];
  values[threadIdx.x] = 1.0f;
  __syncthreads();
  const float neighbour = values[(threadIdx.x + 1) % 64];
  if (!kBroken) __syncthreads();
  values[threadIdx.x] = neighbour;  // breaks: overwritten_too_early
  out[threadIdx.x] = neighbour;
}

template <bool kBroken>
__global__ void missing_syncwarp(float* out) {
  __shared__ float values[64];
  values[threadIdx.x] = 1.0f;
  if (!kBroken) __syncwarp();
  out[threadIdx.x] = values[threadIdx.x ^ 1];  // breaks: missing_syncwarp
}

// __syncwarp orders a warp, not the block.
template <bool kBroken>
__global__ void syncwarp_between_warps(float* out) {
  __shared__ float values[64];
  values[threadIdx.x] = 1.0f;
  __syncwarp();
  out[threadIdx.x] = values[kBroken ? threadIdx.x ^ 32 : threadIdx.x ^ 1];  // breaks: syncwarp_between_warps
}

template <bool kBroken>
__global__ void shuffle_is_no_fence(float* out) {
  __shared__ float values[64];
  values[threadIdx.x] = 1.0f;
  __shfl_sync(0xffffffffu, 0, 0);
  if (!kBroken) __syncwarp();
  out[threadIdx.x] = values[threadIdx.x ^ 1];  // breaks: shuffle_is_no_fence
}

template <bool kBroken>
__global__ void unordered_increment(float* out) {
  __shared__ int counter;
  if (threadIdx.x == 0) counter = 0;
  __syncthreads();
  if (kBroken) {
    counter += 1;  // breaks: unordered_increment
  } else {
    atomicAdd(&counter, 1);
  }
  __syncthreads();
  out[threadIdx.x] = static_cast<float>(counter);
}

const AddCases kCases({
    RULE_CASE(missing_barrier, "shared-race", out),
    RULE_CASE(overwritten_too_early, "shared-race", out),
    RULE_CASE(missing_syncwarp, "shared-race", out),
    RULE_CASE(syncwarp_between_warps, "shared-race", out),
    RULE_CASE(shuffle_is_no_fence, "shared-race", out),
    RULE_CASE(unordered_increment, "shared-race", out),
});

}  // namespace
