// D = A * B by one warp with cp.async, ldmatrix and mma.sync, for test_emulator_products.py: the whole chain from
// global memory to accumulators, against NumPy. A is 16 x K and B K x 8, both row-major, K a multiple of kDepth.
#include "../../csrc/cuda/primitives/cp_async.cuh"
#include "../../csrc/cuda/primitives/launch.h"
#include "../../csrc/cuda/primitives/ldmatrix.cuh"
#include "../../csrc/cuda/primitives/mma.cuh"
#include "../../csrc/cuda/primitives/stmatrix.cuh"
#include "guarded.h"

using namespace fastconv;
using namespace fastconv::cuda;

namespace {

constexpr int kDepth = 16;
constexpr int kStages = 3;

// A as it lies, B transposed on the way into registers.
template <class T>
__global__ void warp_product_16(const T* a, const T* b, float* d, int K) {
  __shared__ __align__(16) T tile_a[kStages][16][kDepth];
  __shared__ __align__(16) T tile_b[kStages][kDepth][8];
  const int lane = static_cast<int>(threadIdx.x);
  const auto load = [&](int step) {
    const int k = step * kDepth, stage = step % kStages;
    cp_async_16(&tile_a[stage][lane / 2][lane % 2 * 8], a + lane / 2 * K + k + lane % 2 * 8, k < K);
    if (lane < kDepth) cp_async_16(&tile_b[stage][lane][0], b + (k + lane) * 8, k < K);
    cp_async_commit();
  };
  float acc[4] = {};
  for (int step = 0; step < kStages - 1; ++step) load(step);
  for (int step = 0; step * kDepth < K; ++step) {
    cp_async_wait<kStages - 2>();
    __syncwarp();
    load(step + kStages - 1);
    const int stage = step % kStages;
    uint32_t fragment_a[4], fragment_b[4];  // B's 16 rows are two matrices; the other two repeat them
    ldmatrix_x4(fragment_a, &tile_a[stage][lane % 16][lane / 16 * 8]);
    ldmatrix_x4_trans(fragment_b, &tile_b[stage][lane % 16][0]);
    mma_m16n8k16<T>(acc, fragment_a, {fragment_b[0], fragment_b[1]});
  }
  cp_async_wait<0>();
  for (int i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = acc[i];
}

// Without cp.async and ldmatrix: B's columns are gathered element by element, and rounded.
__global__ void warp_product_tf32(const float* a, const float* b, float* d, int K, bool round) {
  const int group = static_cast<int>(threadIdx.x) / 4, t = static_cast<int>(threadIdx.x) % 4;
  const auto convert = [&](float v) { return round ? to_tf32(v) : detail::float_bits(v); };
  float acc[4] = {};
  for (int k = 0; k < K; k += 8) {
    const uint32_t fragment_a[4] = {convert(a[group * K + k + t]), convert(a[(group + 8) * K + k + t]),
                                    convert(a[group * K + k + t + 4]), convert(a[(group + 8) * K + k + t + 4])};
    const uint32_t fragment_b[2] = {convert(b[(k + t) * 8 + group]), convert(b[(k + t + 4) * 8 + group])};
    mma_m16n8k8_tf32(acc, fragment_a, fragment_b);
  }
  for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + t * 2 + i % 2] = acc[i];
}

// ldmatrix on 32-bit elements: the fragments of A for m16n8k8, K-major.
__global__ void load_tf32_fragment(const float* a, float* fragments) {
  __shared__ __align__(16) float tile[16][8];
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 128; i += 32) tile[i / 8][i % 8] = a[i];
  __syncwarp();
  uint32_t r[4];
  ldmatrix_x4(r, &tile[lane % 16][lane / 16 * 4]);
  for (int i = 0; i < 4; ++i) fragments[lane * 4 + i] = detail::bits_float(r[i]);
}

// Fragments of kMatrices 8 x 8 matrices to shared memory, each row at the place of the lane that names it; the lanes
// take the rows in reverse. Leaves as (8 * kMatrices, 8) halves, in the order of the lanes.
template <int kMatrices, bool kTransposed>
__global__ void store_fragments(const uint32_t* fragments, uint16_t* rows) {
  __shared__ __align__(16) uint16_t tile[8 * kMatrices][8];
  const int lane = static_cast<int>(threadIdx.x), last = 8 * kMatrices - 1;
  uint32_t r[kMatrices];
  for (int i = 0; i < kMatrices; ++i) r[i] = fragments[lane * kMatrices + i];
  uint16_t* row = lane <= last ? tile[last - lane] : nullptr;  // not looked at
  kTransposed ? stmatrix_trans(r, row) : stmatrix(r, row);
  __syncwarp();
  if (lane > last) return;
  for (int i = 0; i < 8; ++i) rows[lane * 8 + i] = tile[last - lane][i];
}

template <class... Params, class... Args>
int run(LaunchConfig& config, char* text, size_t text_bytes, void (*kernel)(Params...), Args... args) {
  config.grid = dim3(1);
  config.block = dim3(32);
  return guarded(text, text_bytes, [&] { launch("warp_product", config, kernel, static_cast<Params>(args)...); });
}

}  // namespace

// kind: 0 float16, 1 bfloat16, 2 tf32 cut off, 3 tf32 rounded.
FASTCONV_EXPORT int product(int kind, const void* a, const void* b, float* d, int K, char* text, size_t text_bytes) {
  LaunchConfig config;
  const size_t bytes = kind < 2 ? 2 : 4, depth = static_cast<size_t>(K);
  config.footprint.reads("a", a, 16 * depth * bytes).reads("b", b, 8 * depth * bytes).writes("d", d, 128 * 4);
  if (kind == 0)
    return run(config, text, text_bytes, warp_product_16<half_t>, (const half_t*)a, (const half_t*)b, d, K);
  if (kind == 1) {
    return run(config, text, text_bytes, warp_product_16<bfloat16_t>, (const bfloat16_t*)a, (const bfloat16_t*)b, d, K);
  }
  return run(config, text, text_bytes, warp_product_tf32, (const float*)a, (const float*)b, d, K, kind == 3);
}

FASTCONV_EXPORT int tf32_fragment(const float* a, float* fragments, char* text, size_t text_bytes) {
  LaunchConfig config;
  config.footprint.reads("a", a, 128 * 4).writes("fragments", fragments, 128 * 4);
  return run(config, text, text_bytes, load_tf32_fragment, a, fragments);
}

FASTCONV_EXPORT int store_matrices(int matrices, int transposed, const uint32_t* fragments, uint16_t* rows, char* text,
                                   size_t text_bytes) {
  LaunchConfig config;
  const size_t count = static_cast<size_t>(matrices);
  config.footprint.reads("fragments", fragments, 128 * count).writes("rows", rows, 128 * count);
  const auto kernel = matrices == 1   ? transposed ? store_fragments<1, true> : store_fragments<1, false>
                      : matrices == 2 ? transposed ? store_fragments<2, true> : store_fragments<2, false>
                      : transposed    ? store_fragments<4, true>
                                      : store_fragments<4, false>;
  return run(config, text, text_bytes, kernel, fragments, rows);
}

FASTCONV_EXPORT unsigned round_to_tf32(float v) { return to_tf32(v); }
