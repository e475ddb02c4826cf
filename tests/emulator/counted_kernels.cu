// Access patterns whose bank conflicts and sectors are known, for test_emulator_counters.py. The line of each access
// ends in `// counts: NAME`.
#include <cstdio>
#include <cstring>

#include "../../csrc/cuda/primitives/cp_async.cuh"
#include "../../csrc/cuda/primitives/launch.h"
#include "../../csrc/cuda/primitives/ldmatrix.cuh"
#include "../../csrc/cuda/primitives/mbarrier.cuh"

using namespace fastconv;
using namespace fastconv::cuda;

namespace {

// Uses all of it, so that the compiler loads all of it.
__device__ float total(const float2& v) { return v.x + v.y; }
__device__ float total(const float4& v) { return v.x + v.y + v.z + v.w; }

__global__ void shared_patterns(float* out) {
  __shared__ __align__(16) float values[32 * 33];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = lane; i < 32 * 33; i += 32) values[i] = 1.0f;  // counts: fill
  __syncthreads();
  float sum = values[lane];                                            // counts: consecutive
  sum += values[lane * 32];                                            // counts: column
  sum += values[lane * 33];                                            // counts: padded_column
  sum += values[7];                                                    // counts: broadcast
  const float2 pairs = reinterpret_cast<const float2*>(values)[lane];  // counts: pairs
  sum += total(pairs);
  const float4 quads = reinterpret_cast<const float4*>(values)[lane];  // counts: quads
  sum += total(quads);
  const float4 distant_quads = reinterpret_cast<const float4*>(values)[lane * 8 % 256];  // counts: distant_quads
  sum += total(distant_quads);
  sum += reinterpret_cast<const half_t*>(values)[lane].bits;  // counts: halves
  out[threadIdx.x] = sum;
}

__global__ void matrix_patterns(float* out) {
  __shared__ __align__(16) float tight[32][16];
  __shared__ __align__(16) float padded[32][20];
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = 0; i < 16; ++i) tight[lane][i] = padded[lane][i] = 1.0f;
  __syncwarp();
  uint32_t a[4], b[4];
  ldmatrix_x4(a, tight[lane]);   // counts: tight_rows
  ldmatrix_x4(b, padded[lane]);  // counts: padded_rows
  out[lane] = static_cast<float>(a[0] + b[0]);
}

__global__ void global_patterns(const float* in, float* out) {
  const int lane = static_cast<int>(threadIdx.x);
  float sum = in[lane];                                                      // counts: coalesced
  sum += in[lane * 8];                                                       // counts: strided
  sum += in[lane + 1];                                                       // counts: shifted
  const float4 coalesced_quads = reinterpret_cast<const float4*>(in)[lane];  // counts: coalesced_quads
  sum += total(coalesced_quads);
  sum += in[0];     // counts: one_element
  out[lane] = sum;  // counts: coalesced_write
}

__global__ void copy_patterns(const float* in, float* out) {
  __shared__ __align__(16) float values[32 * 32];
  const int lane = static_cast<int>(threadIdx.x);
  cp_async_16(values + lane * 4, in + lane * 4, true);                 // counts: dense_copy
  cp_async_16(values + 128 + lane % 8 * 32 + lane / 8 * 4, in, true);  // counts: distant_copy
  cp_async_commit();
  cp_async_wait<0>();
  out[lane] = values[lane * 4];
}

// Lanes run the loop a different number of times; what they do together is counted as one instruction.
__global__ void divergent_loop(const float* in, float* out) {
  float sum = 0.0f;
  for (int i = 0; i < static_cast<int>(threadIdx.x) % 4; ++i) sum += in[i];  // counts: divergent
  out[threadIdx.x] = sum;
}

// Seven values go round a ring of two slots: four through the first, three through the second. A third barrier counts
// bytes, of which there are none, and a fourth nothing.
__global__ void ring_of_two(const float* in, float* out) {
  __shared__ float slots[2];
  __shared__ uint64_t full[2], empty[2], bytes, unused;
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < 2; ++slot) mbarrier_init(&full[slot], 1), mbarrier_init(&empty[slot], 1);
    mbarrier_init(&bytes, 1), mbarrier_init(&unused, 1);
  }
  __syncthreads();
  for (int i = 0; i < 7; ++i) {
    const int slot = i % 2;
    const uint32_t parity = i / 2 % 2;
    if (threadIdx.x == 0) {
      mbarrier_wait(&empty[slot], parity ^ 1);
      slots[slot] = in[i];
      mbarrier_arrive(&full[slot]);
      if (i == 0) mbarrier_arrive_expect(&bytes, 0);
    }
    if (threadIdx.x == 1) {
      mbarrier_wait(&full[slot], parity);
      out[i] = slots[slot];
      mbarrier_arrive(&empty[slot]);
    }
  }
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int counted(const char* name, char* text, size_t text_bytes) {
  emulator::DeviceBuffer in(4096), out(4096);
  std::memset(in.as<char>(), 0, 4096);
  LaunchConfig c;
  c.grid = dim3(1);
  c.block = dim3(32);
  c.footprint.reads("in", in.as<float>(), 4096).writes("out", out.as<float>(), 4096);
  const float* x = in.as<float>();
  float* y = out.as<float>();
  try {
    if (!strcmp(name, "shared_patterns")) launch(name, c, shared_patterns, y);
    if (!strcmp(name, "matrix_patterns")) launch(name, c, matrix_patterns, y);
    if (!strcmp(name, "global_patterns")) launch(name, c, global_patterns, x, y);
    if (!strcmp(name, "copy_patterns")) launch(name, c, copy_patterns, x, y);
    if (!strcmp(name, "divergent_loop")) launch(name, c, divergent_loop, x, y);
    if (!strcmp(name, "ring_of_two")) launch(name, c, ring_of_two, x, y);
    return 0;
  } catch (const std::exception& error) {
    snprintf(text, text_bytes, "%s", error.what());
    return 1;
  }
}
