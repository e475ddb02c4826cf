// Convolution with small groups, 8 or 16 channels to as many filters, on tensor cores (fp16, bf16; NHWC). A tile of a
// general implicit GEMM belongs to one group and would be mostly empty; here a block takes 32 channels, two or four
// groups, of an 8 x 16 tile of output pixels, and holds their input patch in shared memory:
//
//   patch, 64 bytes a pixel       a 16 x 16 fragment of A is 16 output columns x 16 channels of a tap:
//     +------------------+          16 channels a group: one mma for every 8 filters
//     |  [p q at r s]    |           8 channels a group: one mma for each half, the other half of A being zero
//     +------------------+
//
// No product crosses groups, so that infinities stay in theirs. A warp owns two rows of 16 output pixels and the 32
// filters. Blocks stay for several tiles and fill the weights, laid out by fragment, once.
#pragma once

#include "../primitives/fast_divmod.cuh"
#include "gather_mma.cuh"

namespace fastconv::cuda {

template <class T, int kGroup_>
struct GroupedMmaConfig {
  using Element = T;
  static constexpr int kGroup = kGroup_;  // channels, and filters
  static constexpr int kTileP = 8, kTileQ = 16, kSlab = 32;
  using Product = MmaConfig<T, kTileP * kTileQ, kSlab, 2 * kTileQ, kSlab, 2, Major::kK, Major::kK>;
  static constexpr int kThreads = Product::kThreads;
  static constexpr int kPixelBytes = kSlab * sizeof(T), kPixelChunks = kPixelBytes / 16;
  static constexpr int kWords = kGroup / 8;  // registers of a fragment of B that are not zero
  // Blocks on one multiprocessor: leaves up to 128 registers a thread.
  static constexpr int kMinBlocks = 4;
  static_assert(sizeof(T) == 2 && (kGroup == 8 || kGroup == 16), "a half or the whole of mma's depth");
  static_assert(kPixelChunks == 4, "the swizzle is for 64 bytes a pixel");
};

template <class T>
struct GroupedMmaParams {
  const T* x;  // channels contiguous, in whole chunks; strides in elements
  int64_t x_stride_n, x_stride_h, x_stride_w;
  TensorView w;
  int H, W, P, Q, R, S;
  int stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
  int patch_rows, patch_columns;
  FastDivmod patch_width;
  FastDivmod tiles_q, tiles_p;  // of a tile's number
  int tiles;
  int weight_bytes;  // in shared memory; the patch, later the slice of outputs, follows
  int64_t out_stride_n, out_stride_h, out_stride_w;
  MmaOutput<T> output;
};

// Chunk `chunk` of patch pixel `pixel`: pixels that a fragment reads together lie in different banks.
__device__ __forceinline__ int grouped_patch_offset(int pixel, int chunk) {
  return (pixel * 4 + (chunk ^ pixel / 2 % 4)) * 16;
}

// [tap][8 filters][register of the fragment][lane].
template <class Config>
__device__ __forceinline__ void fill_grouped_weights(const GroupedMmaParams<typename Config::Element>& params,
                                                     int filter0, uint32_t* weights) {
  using T = typename Config::Element;
  const int count = params.weight_bytes / 4;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += Config::kThreads) {
    const int lane = i % 32, word = i / 32 % Config::kWords;
    const int j = i / (32 * Config::kWords) % Config::Product::kMmaN,
              tap = i / (32 * Config::kWords) / Config::Product::kMmaN;
    const T* from =
        params.w.template as<const T>() +
        params.w.offset(filter0 + j * 8 + lane / 4, word * 8 + lane % 4 * 2, tap / params.S, tap % params.S);
    weights[i] = static_cast<uint32_t>(from[0].bits) | static_cast<uint32_t>(from[params.w.stride[1]].bits) << 16;
  }
}

template <class Config>
__device__ __forceinline__ void fill_grouped_patch(const GroupedMmaParams<typename Config::Element>& params, int n,
                                                   int p0, int q0, int channel0, unsigned char* patch) {
  const int h0 = p0 * params.stride_h - params.pad_top, w0 = q0 * params.stride_w - params.pad_left;
  const int count = params.patch_rows * params.patch_columns * Config::kPixelChunks;
  const auto* image = params.x + n * params.x_stride_n + channel0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += Config::kThreads) {
    const int pixel = i / Config::kPixelChunks, chunk = i % Config::kPixelChunks;
    int column;
    const int h = h0 + params.patch_width.divmod(pixel, column), w = w0 + column;
    cp_async_16(patch + grouped_patch_offset(pixel, chunk),
                image + h * params.x_stride_h + w * params.x_stride_w + chunk * 8,
                is_inside(h, params.H) && is_inside(w, params.W));
  }
  cp_async_commit();
  cp_async_wait<0>();
}

// This warp's product: two rows of 16 pixels against the 32 filters.
template <class Config>
__device__ __forceinline__ void multiply_grouped_patch(const GroupedMmaParams<typename Config::Element>& params,
                                                       const unsigned char* patch, const uint32_t* weights,
                                                       typename Config::Product::Accumulators& acc) {
  using T = typename Config::Element;
  constexpr int kWords = Config::kWords, kMmaN = Config::Product::kMmaN;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const uint32_t* fragment = weights + lane;
#pragma unroll 1
  for (int r = 0; r < params.R; ++r) {
#pragma unroll 1
    for (int s = 0; s < params.S; ++s) {
      uint32_t b[kMmaN][kWords];
#pragma unroll
      for (int j = 0; j < kMmaN; ++j) {
#pragma unroll
        for (int word = 0; word < kWords; ++word) b[j][word] = fragment[(j * kWords + word) * 32];
      }
      fragment += kMmaN * kWords * 32;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = (warp * 2 + i) * params.stride_h + r * params.dilation_h;
        const int pixel = row * params.patch_columns + lane % 16 * params.stride_w + s * params.dilation_w;
#pragma unroll
        for (int f = 0; f < 2; ++f) {
          uint32_t a[4];
          ldmatrix_x4(a, patch + grouped_patch_offset(pixel, f * 2 + lane / 16));
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int j = f * 2 + half;
            if constexpr (kWords == 2) {
              mma_m16n8k16<T>(acc[i][j], a, b[j]);
            } else {
              const uint32_t own[4] = {a[half * 2], a[half * 2 + 1], 0, 0}, filter[2] = {b[j][0], 0};
              mma_m16n8k16<T>(acc[i][j], own, filter);
            }
          }
        }
      }
    }
  }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, Config::kMinBlocks)
    grouped_mma_kernel(const __grid_constant__ GroupedMmaParams<typename Config::Element> params) {
  using Product = typename Config::Product;
  unsigned char* shared = dynamic_shared_memory();
  auto* weights = reinterpret_cast<uint32_t*>(shared);
  unsigned char* work = shared + params.weight_bytes;
  const int channel0 = static_cast<int>(blockIdx.y) * Config::kSlab;
  fill_grouped_weights<Config>(params, channel0, weights);
#pragma unroll 1
  for (int tile = static_cast<int>(blockIdx.x); tile < params.tiles; tile += static_cast<int>(gridDim.x)) {
    int tile_p, tile_q;
    const int n = params.tiles_p.divmod(params.tiles_q.divmod(tile, tile_q), tile_p);
    const int p0 = tile_p * Config::kTileP, q0 = tile_q * Config::kTileQ;
    fill_grouped_patch<Config>(params, n, p0, q0, channel0, work);
    __syncthreads();
    typename Product::Accumulators acc = {};
    multiply_grouped_patch<Config>(params, work, weights, acc);
    store_mma_tile<Product>(acc, work, params.output, channel0, [&](int row) {
      MmaRow at;
      at.n = n, at.p = p0 + row / Config::kTileQ, at.q = q0 + row % Config::kTileQ;
      at.valid = at.p < params.P && at.q < params.Q;
      at.offset = at.n * params.out_stride_n + at.p * params.out_stride_h + at.q * params.out_stride_w;
      at.partial = 0;
      return at;
    });
    __syncthreads();  // the slice has been read; the next patch goes there
  }
}

}  // namespace fastconv::cuda
