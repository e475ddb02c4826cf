// Accesses out of bounds, to bytes that nobody has written, and from misaligned addresses.
#include <cstring>

#include "rules.h"

namespace {

template <bool kBroken>
__global__ void read_past_the_end(const float* in, float* out) {
  out[threadIdx.x] = in[threadIdx.x + (kBroken ? 1 : 0)];  // breaks: read_past_the_end
}

template <bool kBroken>
__global__ void write_before_the_start(float* out) {
  out[static_cast<int>(threadIdx.x) - (kBroken ? 1 : 0)] = 1.0f;  // breaks: write_before_the_start
}

template <bool kBroken>
__global__ void write_to_input(const float* in, float* out) {
  float* target = kBroken ? const_cast<float*>(in) : out;
  target[threadIdx.x] = 1.0f;  // breaks: write_to_input
}

template <bool kBroken>
__global__ void atomic_past_the_end(float* out) {
  atomicAdd(out + (kBroken ? 64 : 0), 1.0f);  // breaks: atomic_past_the_end
}

template <bool kBroken>
__global__ void shared_pointer_overrun(float* out, int stride) {
  __shared__ float values[64];
  float* p = values;
  p[threadIdx.x * (kBroken ? stride : 1)] = 1.0f;  // breaks: shared_pointer_overrun
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

template <bool kBroken>
__global__ void dynamic_shared_overrun(float* out) {
  float* values = reinterpret_cast<float*>(cuda::dynamic_shared_memory());
  values[threadIdx.x + (kBroken ? 1 : 0)] = 1.0f;  // breaks: dynamic_shared_overrun
  out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void array_index(float* out, int shift) {
  __shared__ float values[64];
  values[threadIdx.x + (kBroken ? shift : 0)] = 1.0f;  // breaks: array_index
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

template <bool kBroken>
__global__ void register_array_index(float* out, int shift) {
  float values[4] = {1, 2, 3, 4};
  out[threadIdx.x] = values[threadIdx.x % 4 + (kBroken ? shift : 0)];  // breaks: register_array_index
}

template <bool kBroken>
__global__ void uninitialised(float* out) {
  __shared__ float values[64];
  if (!kBroken || threadIdx.x != 17) values[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];  // breaks: uninitialised
}

// Shared memory does not survive from one block to the next.
template <bool kBroken>
__global__ void left_by_another_block(float* out) {
  __shared__ float values[64];
  if (!kBroken || blockIdx.x == 0) values[threadIdx.x] = 1.0f;
  if (blockIdx.x == 1) out[threadIdx.x] = values[threadIdx.x];  // breaks: left_by_another_block
}

template <bool kBroken>
__global__ void misaligned_shared(float* out, int shift) {
  __shared__ __align__(16) float values[64];
  values[threadIdx.x] = 1.0f;
  __syncthreads();
  const unsigned at = threadIdx.x / 8 * 4 + (kBroken ? shift : 0);
  const float4 v = *reinterpret_cast<float4*>(&values[at]);  // breaks: misaligned_shared
  out[threadIdx.x] = v.x + v.w;
}

template <bool kBroken>
__global__ void misaligned_global(const float* in, float* out, int shift) {
  if (threadIdx.x > 7) return;
  const unsigned at = threadIdx.x * 4 + (kBroken ? shift : 0);
  const float4 v = *reinterpret_cast<const float4*>(in + at);  // breaks: misaligned_global
  out[threadIdx.x] = v.x + v.w;
}

template <bool kBroken>
__global__ void foreign_local_memory(float* out) {
  __shared__ float* shared_pointer;
  volatile float mine = 1.0f;
  if (threadIdx.x == 0) shared_pointer = const_cast<float*>(&mine);
  __syncthreads();
  const float* p = kBroken ? shared_pointer : const_cast<float*>(&mine);
  out[threadIdx.x] = *p;  // breaks: foreign_local_memory
  __syncthreads();
}

// g++ does not instrument a call of memcpy; the checker notices that something changed, though not where.
template <bool kBroken>
__global__ void unseen_store(const float* in, float* out, int bytes) {
  __shared__ float values[64];
  values[threadIdx.x] = 1.0f;
  __shared__ float copy[64];
  if (threadIdx.x == 0) copy[0] = 1.0f;
  if (kBroken && threadIdx.x == 1) memcpy(&copy[1], &in[1], static_cast<size_t>(bytes));
  out[threadIdx.x] = values[threadIdx.x];
}

const AddCases kCases({
    RULE_CASE(read_past_the_end, "global-out-of-bounds", in, out),
    RULE_CASE(write_before_the_start, "global-out-of-bounds", out),
    RULE_CASE(write_to_input, "read-only-write", in, out),
    RULE_CASE(atomic_past_the_end, "global-out-of-bounds", out),
    RULE_CASE(shared_pointer_overrun, "shared-out-of-bounds", out, 2),
    {"dynamic_shared_overrun",
     {"shared-out-of-bounds",
      [](bool broken, Buffers& b, LaunchConfig& c) {
        c.dynamic_shared_bytes = 64 * sizeof(float);
        cuda::launch("dynamic_shared_overrun", c, broken ? dynamic_shared_overrun<true> : dynamic_shared_overrun<false>,
                     b.out.as<float>());
      }}},
    RULE_CASE(array_index, "index-out-of-range", out, 1),
    RULE_CASE(register_array_index, "index-out-of-range", out, 1),
    RULE_CASE(uninitialised, "uninitialised-shared-read", out),
    {"left_by_another_block",
     {"uninitialised-shared-read",
      [](bool broken, Buffers& b, LaunchConfig& c) {
        c.grid = dim3(2);
        cuda::launch("left_by_another_block", c, broken ? left_by_another_block<true> : left_by_another_block<false>,
                     b.out.as<float>());
      }}},
    RULE_CASE(misaligned_shared, "misaligned-access", out, 1),
    RULE_CASE(misaligned_global, "misaligned-access", in, out, 1),
    RULE_CASE(foreign_local_memory, "foreign-local-memory", out),
    RULE_CASE(unseen_store, "unseen-store", in, out, 8),
});

}  // namespace
