// Rules of wgmma. One warpgroup, 64 x 64 x 16, both operands one row of the swizzle wide.
#include "../../../csrc/cuda/primitives/mbarrier.cuh"
#include "../../../csrc/cuda/primitives/wgmma.cuh"
#include "rules.h"

using namespace fastconv::cuda;

namespace {

constexpr int kThreads = 128, kAccumulators = 32;

struct alignas(kSwizzlePatternBytes) Operands {
  half_t a[64 * 64], b[64 * 64];
};
__device__ Operands& operands() { return *reinterpret_cast<Operands*>(dynamic_shared_memory()); }

__device__ void fill(Operands& s) {
  for (int i = static_cast<int>(threadIdx.x); i < 64 * 64; i += kThreads) s.a[i].bits = 0x3c00, s.b[i].bits = 0x3c00;
}

__device__ __forceinline__ uint64_t descriptor(const half_t* tile) {
  return matrix_descriptor<OperandMajor::kK>(tile, 64);
}

#define PRODUCT(d, a, b) wgmma_k16<half_t, OperandMajor::kK, OperandMajor::kK>(d, descriptor(a), descriptor(b), false)

__device__ __forceinline__ void store(const float (&d)[kAccumulators], float* out) {
  if (threadIdx.x < 64) out[threadIdx.x] = d[5];
}

template <bool kBroken>
__global__ void product_without_fence(float* out) {
  Operands& s = operands();
  fill(s);
  fence_proxy_async();
  __syncthreads();
  float d[kAccumulators] = {};
  if (!kBroken) wgmma_fence(d);
  PRODUCT(d, s.a, s.b);  // breaks: product_without_fence
  wgmma_commit();
  wgmma_wait<0>(d);
  store(d, out);
}

// After a wait the accumulators were ordinary registers again.
template <bool kBroken>
__global__ void second_product_without_fence(float* out) {
  Operands& s = operands();
  fill(s);
  fence_proxy_async();
  __syncthreads();
  float d[kAccumulators] = {};
  wgmma_fence(d);
  PRODUCT(d, s.a, s.b);
  wgmma_commit();
  wgmma_wait<0>(d);
  if (!kBroken) wgmma_fence(d);
  PRODUCT(d, s.a, s.b);  // breaks: second_product_without_fence
  wgmma_commit();
  wgmma_wait<0>(d);
  store(d, out);
}

template <bool kBroken>
__global__ void result_before_the_wait(float* out) {
  Operands& s = operands();
  fill(s);
  fence_proxy_async();
  __syncthreads();
  float d[kAccumulators] = {};
  wgmma_fence(d);
  PRODUCT(d, s.a, s.b);
  wgmma_commit();
  if (!kBroken) wgmma_wait<0>(d);
  if (threadIdx.x < 64) out[threadIdx.x] = d[5];  // breaks: result_before_the_wait
  wgmma_wait<0>(d);
}

template <bool kBroken>
__global__ void result_of_the_last_group(float* out) {
  Operands& s = operands();
  fill(s);
  fence_proxy_async();
  __syncthreads();
  float first[kAccumulators] = {}, second[kAccumulators] = {};
  wgmma_fence(first);
  PRODUCT(first, s.a, s.b);
  wgmma_commit();
  PRODUCT(second, s.a, s.b);
  wgmma_commit();
  wgmma_wait<1>(first);
  const float* ready = kBroken ? second : first;
  if (threadIdx.x < 64) out[threadIdx.x] = ready[5];  // breaks: result_of_the_last_group
  wgmma_wait<0>(second);
}

template <bool kBroken>
__global__ void product_never_waited_for(float* out) {
  Operands& s = operands();
  fill(s);
  fence_proxy_async();
  __syncthreads();
  float d[kAccumulators] = {};
  wgmma_fence(d);
  PRODUCT(d, s.a, s.b);  // breaks: product_never_waited_for
  wgmma_commit();
  if (!kBroken) wgmma_wait<0>(d);
  if (threadIdx.x < 64) out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void operands_without_proxy_fence(float* out) {
  Operands& s = operands();
  fill(s);
  if (!kBroken) fence_proxy_async();
  __syncthreads();
  float d[kAccumulators] = {};
  wgmma_fence(d);
  PRODUCT(d, s.a, s.b);  // breaks: operands_without_proxy_fence
  wgmma_commit();
  wgmma_wait<0>(d);
  store(d, out);
}

template <bool kBroken>
__global__ void operands_without_barrier(float* out) {
  Operands& s = operands();
  fill(s);
  fence_proxy_async();
  if (!kBroken) __syncthreads();
  float d[kAccumulators] = {};
  wgmma_fence(d);
  PRODUCT(d, s.a, s.b);  // breaks: operands_without_barrier
  wgmma_commit();
  wgmma_wait<0>(d);
  store(d, out);
}

template <bool kBroken>
__global__ void operand_overwritten(float* out) {
  Operands& s = operands();
  fill(s);
  fence_proxy_async();
  __syncthreads();
  float d[kAccumulators] = {};
  wgmma_fence(d);
  PRODUCT(d, s.a, s.b);
  wgmma_commit();
  if (!kBroken) wgmma_wait<0>(d);
  __syncthreads();
  if (threadIdx.x == 0) s.a[0].bits = 0;  // breaks: operand_overwritten
  wgmma_wait<0>(d);
  store(d, out);
}

template <bool kBroken>
__global__ void descriptors_differ(float* out) {
  Operands& s = operands();
  fill(s);
  fence_proxy_async();
  __syncthreads();
  float d[kAccumulators] = {};
  wgmma_fence(d);
  const half_t* a = kBroken && threadIdx.x >= 64 ? s.b : s.a;
  PRODUCT(d, a, s.b);  // breaks: descriptors_differ
  wgmma_commit();
  wgmma_wait<0>(d);
  store(d, out);
}

// The pattern starts on multiples of 1024 bytes.
template <bool kBroken>
__global__ void operand_amid_the_pattern(float* out) {
  Operands& s = operands();
  fill(s);
  fence_proxy_async();
  __syncthreads();
  float d[kAccumulators] = {};
  wgmma_fence(d);
  const half_t* a = s.a + (kBroken ? 4 * 64 : 0);
  PRODUCT(d, a, s.b);  // breaks: operand_amid_the_pattern
  wgmma_commit();
  wgmma_wait<0>(d);
  store(d, out);
}

template <bool kBroken>
__global__ void part_of_a_warpgroup(float* out) {
  Operands& s = operands();
  fill(s);
  fence_proxy_async();
  __syncthreads();
  if (!kBroken || threadIdx.x < 96) {
    float d[kAccumulators] = {};
    wgmma_fence(d);
    PRODUCT(d, s.a, s.b);
    wgmma_commit();
    wgmma_wait<0>(d);  // breaks: part_of_a_warpgroup
    store(d, out);
  }
}

#define WGMMA_CASE(name, rule)                                                        \
  {                                                                                   \
    #name, {                                                                          \
      rule, [](bool broken, Buffers& b, LaunchConfig& c) {                            \
        c.block = dim3(kThreads);                                                     \
        c.dynamic_shared_bytes = sizeof(Operands);                                    \
        cuda::launch(#name, c, broken ? name<true> : name<false>, b.out.as<float>()); \
      }                                                                               \
    }                                                                                 \
  }

const AddCases kCases({
    WGMMA_CASE(product_without_fence, "missing-wgmma-fence"),
    WGMMA_CASE(second_product_without_fence, "missing-wgmma-fence"),
    WGMMA_CASE(result_before_the_wait, "accumulator-in-flight"),
    WGMMA_CASE(result_of_the_last_group, "accumulator-in-flight"),
    WGMMA_CASE(product_never_waited_for, "unfinished-wgmma"),
    WGMMA_CASE(operands_without_proxy_fence, "missing-proxy-fence"),
    WGMMA_CASE(operands_without_barrier, "shared-race"),
    WGMMA_CASE(operand_overwritten, "shared-race"),
    WGMMA_CASE(descriptors_differ, "wgmma-divergent"),
    WGMMA_CASE(operand_amid_the_pattern, "wgmma-descriptor"),
    WGMMA_CASE(part_of_a_warpgroup, "deadlock"),
});

}  // namespace
