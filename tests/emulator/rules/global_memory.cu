// Races in global memory, and scratch memory that is read before it is written.
#include "rules.h"

namespace {

constexpr int kHalf = 32;

// Both blocks write all of `out`.
template <bool kBroken>
__global__ void blocks_write_the_same(float* out) {
  const unsigned first = kBroken ? 0 : blockIdx.x * kHalf;
  if (threadIdx.x < kHalf) out[first + threadIdx.x] = 1.0f;  // breaks: blocks_write_the_same
}

// Right as long as blocks run in order.
template <bool kBroken>
__global__ void block_reads_of_another(float* out) {
  if (threadIdx.x >= kHalf) return;
  if (blockIdx.x == 0) out[threadIdx.x] = 1.0f;
  if (blockIdx.x == 1) out[threadIdx.x + kHalf] = kBroken ? out[threadIdx.x] : 1.0f;
}

// The same the other way round: what is read is overwritten by another block.
template <bool kBroken>
__global__ void block_overwrites_what_another_reads(float* out) {
  if (threadIdx.x >= kHalf) return;
  if (blockIdx.x == 1) out[threadIdx.x + kHalf] = kBroken ? out[threadIdx.x] : 1.0f;
  if (blockIdx.x == 0) out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void threads_meet_in_global_memory(float* out) {
  out[threadIdx.x] = 1.0f;
  if (!kBroken) __syncthreads();
  const float neighbour = out[threadIdx.x ^ 32];  // breaks: threads_meet_in_global_memory
  __syncthreads();
  out[threadIdx.x] = neighbour;
}

// One element narrower than what its neighbours write.
template <bool kBroken>
__global__ void vector_overlaps_scalar(float* out) {
  if (threadIdx.x < 15) *reinterpret_cast<float4*>(out + threadIdx.x * 4) = float4{1, 1, 1, 1};
  if (threadIdx.x == 63) out[kBroken ? 59 : 60] = 2.0f;
}

template <bool kBroken>
__global__ void sum_without_atomic(float* out) {
  if (kBroken) {
    out[0] += 1.0f;  // breaks: sum_without_atomic
  } else {
    atomicAdd(out, 1.0f);
  }
}

// The last block to arrive reads what the others have written: their atomics order that.
template <bool kBroken>
__global__ void last_block_adds_up(float* out) {
  __shared__ bool last;
  if (threadIdx.x == 0) out[blockIdx.x] = 1.0f;
  __threadfence();
  if (threadIdx.x == 0) last = kBroken ? blockIdx.x == 1 : atomicAdd(out + 63, 1.0f) == 1.0f;
  __syncthreads();
  if (last && threadIdx.x == 0) out[2] = out[0] + out[1];
}

template <bool kBroken>
__global__ void write_half(float* out) {
  if (!kBroken || threadIdx.x != 40) out[threadIdx.x] = 1.0f;
}
__global__ void read_all(const float* in, float* out) {
  out[threadIdx.x] = in[threadIdx.x];  // breaks: scratch_read_by_the_next_kernel
}

template <bool kBroken>
__global__ void scratch_read_first(float* scratch, float* out) {
  if (!kBroken || threadIdx.x >= 32) scratch[threadIdx.x] = 1.0f;
  out[threadIdx.x] = scratch[threadIdx.x];  // breaks: scratch_read_first
}

// Kernels of two blocks; out starts with zeros where a test needs them.
#define TWO_BLOCKS(name)                                                \
  {                                                                     \
    #name, {                                                            \
      "global-race", [](bool broken, Buffers& b, LaunchConfig& c) {     \
        float* out = b.out.as<float>();                                 \
        std::fill(out, out + 64, 0.0f);                                 \
        c.grid = dim3(2);                                               \
        cuda::launch(#name, c, broken ? name<true> : name<false>, out); \
      }                                                                 \
    }                                                                   \
  }

const AddCases kCases({
    TWO_BLOCKS(blocks_write_the_same),
    TWO_BLOCKS(block_reads_of_another),
    TWO_BLOCKS(block_overwrites_what_another_reads),
    RULE_CASE(threads_meet_in_global_memory, "global-race", out),
    RULE_CASE(vector_overlaps_scalar, "global-race", out),
    RULE_CASE(sum_without_atomic, "global-race", out),
    TWO_BLOCKS(last_block_adds_up),
    {"scratch_read_first",
     {"uninitialised-global-read",
      [](bool broken, Buffers& b, LaunchConfig& c) {
        emulator::DeviceBuffer scratch(64 * sizeof(float));
        c.footprint.scratch("scratch", scratch.as<float>(), 64 * sizeof(float));
        cuda::launch("scratch_read_first", c, broken ? scratch_read_first<true> : scratch_read_first<false>,
                     scratch.as<float>(), b.out.as<float>());
      }}},
    {"scratch_read_by_the_next_kernel",
     {"uninitialised-global-read",
      [](bool broken, Buffers& b, LaunchConfig& c) {
        emulator::DeviceBuffer scratch(64 * sizeof(float));
        LaunchConfig first = c;
        first.footprint.scratch("scratch", scratch.as<float>(), 64 * sizeof(float));
        cuda::launch("write_half", first, broken ? write_half<true> : write_half<false>, scratch.as<float>());
        c.footprint.reads("scratch", scratch.as<float>(), 64 * sizeof(float));
        cuda::launch("scratch_read_by_the_next_kernel", c, read_all, (const float*)scratch.as<float>(),
                     b.out.as<float>());
      }}},
});

}  // namespace
