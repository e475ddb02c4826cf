// cp.async: reading too early, waiting for too little, and addresses it refuses.
#include "../../../csrc/cuda/primitives/cp_async.cuh"

#include "rules.h"

using namespace fastconv::cuda;

namespace {

// The bytes of 16 lanes, four floats each, make all of `values`.
__device__ __forceinline__ void copy_quad(float* values, const float* in) {
  if (threadIdx.x < 16) cp_async_16(values + threadIdx.x * 4, in + threadIdx.x * 4, true);
  cp_async_commit();
}

template <bool kBroken>
__global__ void copy_without_wait(const float* in, float* out) {
  __shared__ __align__(16) float values[64];
  copy_quad(values, in);
  if (!kBroken) cp_async_wait<0>();
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];  // breaks: copy_without_wait
  cp_async_wait<0>();
}

// The issuing thread reads its own copy: no barrier needed, but the wait is.
template <bool kBroken>
__global__ void own_copy_without_wait(const float* in, float* out) {
  __shared__ __align__(16) float values[64];
  cp_async_4(&values[threadIdx.x], in + threadIdx.x, true);
  cp_async_commit();
  if (!kBroken) cp_async_wait<0>();
  out[threadIdx.x] = values[threadIdx.x];  // breaks: own_copy_without_wait
  cp_async_wait<0>();
}

template <bool kBroken>
__global__ void wait_for_too_little(const float* in, float* out) {
  __shared__ __align__(16) float values[2][64];
  copy_quad(values[0], in);
  copy_quad(values[1], in);
  cp_async_wait<kBroken ? 2 : 1>();
  __syncthreads();
  out[threadIdx.x] = values[0][threadIdx.x];  // breaks: wait_for_too_little
  cp_async_wait<0>();
}

// Copies that were not committed belong to no group that a wait covers.
template <bool kBroken>
__global__ void copy_without_commit(const float* in, float* out) {
  __shared__ __align__(16) float values[64];
  cp_async_4(&values[threadIdx.x], in + threadIdx.x, true);
  if (!kBroken) cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = values[threadIdx.x];  // breaks: copy_without_commit
  cp_async_commit();
  cp_async_wait<0>();
}

// A thread waits for its own copies only.
template <bool kBroken>
__global__ void no_barrier_after_wait(const float* in, float* out) {
  __shared__ __align__(16) float values[64];
  copy_quad(values, in);
  __syncthreads();
  cp_async_wait<0>();
  if (!kBroken) __syncthreads();
  if (threadIdx.x >= 16) out[threadIdx.x] = values[threadIdx.x];  // breaks: no_barrier_after_wait
}

// The ring's slot is filled again while other threads still read it.
template <bool kBroken>
__global__ void slot_refilled_too_early(const float* in, float* out) {
  __shared__ __align__(16) float values[64];
  copy_quad(values, in);
  cp_async_wait<0>();
  __syncthreads();
  const float value = values[63 - threadIdx.x];
  if (!kBroken) __syncthreads();
  if (threadIdx.x < 16) cp_async_16(values + threadIdx.x * 4, in, true);  // breaks: slot_refilled_too_early
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = value;
}

template <bool kBroken>
__global__ void copy_overwritten(const float* in, float* out) {
  __shared__ __align__(16) float values[64];
  cp_async_4(&values[threadIdx.x], in + threadIdx.x, true);
  cp_async_commit();
  if (!kBroken) cp_async_wait<0>();
  values[threadIdx.x] = 1.0f;  // breaks: copy_overwritten
  cp_async_wait<0>();
  out[threadIdx.x] = values[threadIdx.x];
}

template <bool kBroken>
__global__ void copy_never_waited_for(const float* in, float* out) {
  __shared__ __align__(16) float values[64];
  cp_async_4(&values[threadIdx.x], in + threadIdx.x, true);  // breaks: copy_never_waited_for
  cp_async_commit();
  if (!kBroken) cp_async_wait<0>();
  out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void misaligned_copy_source(const float* in, float* out, int shift) {
  __shared__ __align__(16) float values[64];
  if (threadIdx.x < 8)
    cp_async_16(values + threadIdx.x * 4, in + (kBroken ? shift : 0), true);  // breaks: misaligned_copy_source
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void misaligned_copy_target(const float* in, float* out, int shift) {
  __shared__ __align__(16) float values[64];
  if (threadIdx.x < 4)
    cp_async_16(values + threadIdx.x * 4 + (kBroken ? shift : 0), in, true);  // breaks: misaligned_copy_target
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = 1.0f;
}

// What is not valid is not read: the clean twin names addresses outside the buffer, too.
template <bool kBroken>
__global__ void copy_past_the_end(const float* in, float* out) {
  __shared__ __align__(16) float values[64];
  cp_async_4(&values[threadIdx.x], in + threadIdx.x + 32, kBroken || threadIdx.x < 32);  // breaks: copy_past_the_end
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = values[threadIdx.x];
}

template <bool kBroken>
__global__ void copy_past_the_shared_end(const float* in, float* out, int shift) {
  __shared__ __align__(16) float values[64];
  float* target = values + threadIdx.x;
  cp_async_4(target + (kBroken ? shift : 0), in + threadIdx.x, true);  // breaks: copy_past_the_shared_end
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void copy_to_registers(const float* in, float* out) {
  __shared__ __align__(16) float values[64];
  float mine = 0.0f;
  float* target = kBroken ? &mine : &values[threadIdx.x];
  cp_async_4(target, in + threadIdx.x, true);  // breaks: copy_to_registers
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = *target;
}

const AddCases kCases({
    RULE_CASE(copy_without_wait, "pending-copy-read", in, out),
    RULE_CASE(own_copy_without_wait, "pending-copy-read", in, out),
    RULE_CASE(wait_for_too_little, "pending-copy-read", in, out),
    RULE_CASE(copy_without_commit, "pending-copy-read", in, out),
    RULE_CASE(no_barrier_after_wait, "shared-race", in, out),
    RULE_CASE(slot_refilled_too_early, "shared-race", in, out),
    RULE_CASE(copy_overwritten, "pending-copy-overwrite", in, out),
    RULE_CASE(copy_never_waited_for, "unfinished-copy", in, out),
    RULE_CASE(misaligned_copy_source, "misaligned-access", in, out, 1),
    RULE_CASE(misaligned_copy_target, "misaligned-access", in, out, 1),
    RULE_CASE(copy_past_the_end, "global-out-of-bounds", in, out),
    RULE_CASE(copy_past_the_shared_end, "shared-out-of-bounds", in, out, 1),
    RULE_CASE(copy_to_registers, "shared-address", in, out),
});

}  // namespace
