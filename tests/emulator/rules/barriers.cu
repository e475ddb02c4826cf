// Barriers and warp functions that not all threads reach, and launches that a GPU refuses.
#include "rules.h"

namespace {

template <bool kBroken>
__global__ void two_barriers(float* out) {
  if (kBroken && threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();  // breaks: two_barriers
  }
  out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void early_return(float* out) {
  if (kBroken && threadIdx.x >= 40) return;
  __syncthreads();  // breaks: early_return
  out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void waits_forever(float* out) {
  if (kBroken && threadIdx.x % 32 < 16) {
    __syncwarp();  // breaks: waits_forever
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void mask_without_caller(float* out) {
  out[threadIdx.x] = __shfl_sync(kBroken ? 0x0000ffffu : 0xffffffffu, 1.0f, 0);  // breaks: mask_without_caller
}

template <bool kBroken>
__global__ void mask_with_exited_lanes(float* out) {
  if (threadIdx.x % 32 >= 16) return;
  out[threadIdx.x] = __shfl_sync(kBroken ? 0xffffffffu : 0x0000ffffu, 1.0f, 0);  // breaks: mask_with_exited_lanes
}

template <bool kBroken>
__global__ void shuffle_from_outside(float* out) {
  if (threadIdx.x % 32 < 16) {
    out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1.0f, kBroken ? 20 : 3);  // breaks: shuffle_from_outside
  }
}

template <bool kBroken>
__global__ void divergent_warp(float* out) {
  if (kBroken && threadIdx.x % 2) {
    out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
  } else {
    out[threadIdx.x] = __shfl_down_sync(0xffffffffu, 1.0f, 1);  // breaks: divergent_warp
  }
}

// Ends when the float no longer changes, which it always does.
template <bool kBroken>
__global__ void loop_without_end(float* out) {
  volatile float* p = out + threadIdx.x;
  *p = 0.0f;
  do {
    *p = 1.0f - *p;
  } while (kBroken && *p >= 0.0f);
}

__global__ void nothing(float*) {}

const AddCases kCases({
    RULE_CASE(two_barriers, "divergent-barrier", out),
    RULE_CASE(early_return, "divergent-barrier", out),
    RULE_CASE(waits_forever, "deadlock", out),
    RULE_CASE(mask_without_caller, "warp-mask", out),
    RULE_CASE(mask_with_exited_lanes, "warp-mask", out),
    RULE_CASE(shuffle_from_outside, "warp-mask", out),
    RULE_CASE(divergent_warp, "divergent-warp", out),
    RULE_CASE(loop_without_end, "runaway", out),
    {"too_many_threads",
     {"bad-launch",
      [](bool broken, Buffers& b, LaunchConfig& c) {
        c.block = dim3(broken ? 1025 : 1024);
        cuda::launch("too_many_threads", c, nothing, b.out.as<float>());
      }}},
});

}  // namespace
