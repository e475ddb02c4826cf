// The first convolution of a network, up to four input channels, on tensor cores (fp16, bf16). A general implicit GEMM
// would pad three channels to eight; here a block reads the input patch of an 8 x 16 tile of output pixels as it is,
// any layout, and holds it in shared memory with four channels a pixel. With 8 bytes a pixel a lane's share of mma's
// operand A is one load, for k in the order (r, four taps s, four channels), of which B's copy is laid out to match:
//
//   patch                              one k-step: filter row r, taps s .. s + 3
//     +--------------------------+     A  lane (g, t): pixel (p, q + g) at tap s + t, its four channels
//     |  [r..] [s s+1 s+2 s+3]   |     B  lane (g, t): filter n + g   at tap s + t, its four channels
//     +--------------------------+
//
// A warp owns two rows of 16 output pixels and 64 filters. Blocks stay for several tiles and fill the weights once.
#pragma once

#include "../primitives/fast_divmod.cuh"
#include "mma_output.cuh"

namespace fastconv::cuda {

template <class T>
struct StemMmaConfig {
  static constexpr int kTileP = 8, kTileQ = 16, kFilters = 64, kTaps = 4;
  // Four warps over 128 pixels x 64 filters: accumulators and their way out are those of the other products.
  using Product = MmaConfig<T, kTileP * kTileQ, kFilters, 2 * kTileQ, kFilters, 2, Major::kK, Major::kK>;
  static constexpr int kThreads = Product::kThreads;
  static_assert(sizeof(T) == 2 && kTileQ == 16, "a fragment's 16 rows are 16 output columns");
};

// Four channels of a pixel, or of a filter's tap; absent ones are zero.
template <class T>
using StemQuad = Pack<T, 4>;

template <class T>
struct StemMmaParams {
  TensorView x, w;
  int C, H, W, P, Q, R, S;
  int stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
  int patch_rows, patch_columns;
  FastDivmod patch_width;
  FastDivmod tiles_q, tiles_p;  // of a tile's number
  int tiles;
  int64_t out_stride_n, out_stride_h, out_stride_w;
  MmaOutput<T> output;

  FC_HOST_DEVICE int steps() const { return R * ((S + 3) / 4); }
  // Bytes of the weights in shared memory; the patch, later the slice of outputs, follows.
  FC_HOST_DEVICE int weight_bytes() const {
    return steps() * StemMmaConfig<T>::kFilters * StemMmaConfig<T>::kTaps * static_cast<int>(sizeof(StemQuad<T>));
  }
};

template <class T>
__device__ __forceinline__ StemQuad<T> load_quad(const T* from, int64_t stride_c, int channels, bool valid) {
  StemQuad<T> quad;
#pragma unroll
  for (int c = 0; c < 4; ++c) quad.value[c] = valid && c < channels ? from[c * stride_c] : T{};
  return quad;
}

// [k-step][filter][tap]: the 32 lanes of a fragment read 256 consecutive bytes.
template <class T>
__device__ __forceinline__ void fill_stem_weights(const StemMmaParams<T>& params, int filter0, StemQuad<T>* weights) {
  using Config = StemMmaConfig<T>;
  const int count = params.steps() * Config::kFilters * Config::kTaps, groups = (params.S + 3) / 4;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += Config::kThreads) {
    const int filter = filter0 + i / Config::kTaps % Config::kFilters, step = i / (Config::kTaps * Config::kFilters);
    const int r = step / groups, s = step % groups * Config::kTaps + i % Config::kTaps;
    const bool valid = filter < params.output.columns && s < params.S;
    weights[i] = load_quad(params.w.template as<const T>() + params.w.offset(filter, 0, r, s), params.w.stride[1],
                           params.C, valid);
  }
}

// The input under the tile at output (p0, q0) of image n, padding as zeros.
template <class T>
__device__ __forceinline__ void fill_stem_patch(const StemMmaParams<T>& params, int n, int p0, int q0,
                                                StemQuad<T>* patch) {
  const int h0 = p0 * params.stride_h - params.pad_top, w0 = q0 * params.stride_w - params.pad_left;
  const int count = params.patch_rows * params.patch_columns;
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x); i < count; i += StemMmaConfig<T>::kThreads) {
    int column;
    const int row = params.patch_width.divmod(i, column);
    const int h = h0 + row, w = w0 + column;
    const bool valid = static_cast<unsigned>(h) < static_cast<unsigned>(params.H) &&
                       static_cast<unsigned>(w) < static_cast<unsigned>(params.W);
    patch[i] =
        load_quad(params.x.template as<const T>() + params.x.offset(n, 0, h, w), params.x.stride[1], params.C, valid);
  }
}

// This warp's product: two rows of 16 pixels against 64 filters.
template <class T>
__device__ __forceinline__ void multiply_stem_patch(const StemMmaParams<T>& params, const StemQuad<T>* patch,
                                                    const StemQuad<T>* weights,
                                                    typename StemMmaConfig<T>::Product::Accumulators& acc) {
  using Config = StemMmaConfig<T>;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4, t = lane % 4;
  const auto bits = [](const T& low, const T& high) {
    return static_cast<uint32_t>(low.bits) | static_cast<uint32_t>(high.bits) << 16;
  };
  const StemQuad<T>* filters = weights + lane;
#pragma unroll 1
  for (int r = 0; r < params.R; ++r) {
#pragma unroll 1
    for (int s = 0; s < params.S; s += Config::kTaps) {
      // A tap beyond the filter meets a weight of zero, but its pixel may be infinite: it must be zero too.
      const bool inside = s + t < params.S;
      uint32_t a[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = (warp * 2 + i) * params.stride_h + r * params.dilation_h;
        const int column = g * params.stride_w + (s + t) * params.dilation_w;
        const StemQuad<T>* pixel = patch + row * params.patch_columns + column;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          StemQuad<T> quad{};
          if (inside) quad = load_pack<4>(&pixel[half * 8 * params.stride_w].value[0]);
          a[i][half] = bits(quad.value[0], quad.value[1]);
          a[i][half + 2] = bits(quad.value[2], quad.value[3]);
        }
      }
#pragma unroll
      for (int j = 0; j < Config::Product::kMmaN; ++j) {
        const StemQuad<T> quad = load_pack<4>(&filters[j * 32].value[0]);
        const uint32_t b[2] = {bits(quad.value[0], quad.value[1]), bits(quad.value[2], quad.value[3])};
#pragma unroll
        for (int i = 0; i < 2; ++i) mma_m16n8k16<T>(acc[i][j], a[i], b);
      }
      filters += Config::kFilters * Config::kTaps;
    }
  }
}

// Blocks on one multiprocessor: leaves up to 168 registers a thread.
constexpr int kStemMinBlocks = 3;

template <class T>
__global__ void __launch_bounds__(StemMmaConfig<T>::kThreads, kStemMinBlocks)
    stem_mma_kernel(const __grid_constant__ StemMmaParams<T> params) {
  using Config = StemMmaConfig<T>;
  using Product = typename Config::Product;
  unsigned char* shared = dynamic_shared_memory();
  auto* weights = reinterpret_cast<StemQuad<T>*>(shared);
  unsigned char* work = shared + params.weight_bytes();
  auto* patch = reinterpret_cast<StemQuad<T>*>(work);
  const int filter0 = static_cast<int>(blockIdx.y) * Config::kFilters;
  fill_stem_weights(params, filter0, weights);
#pragma unroll 1
  for (int tile = static_cast<int>(blockIdx.x); tile < params.tiles; tile += static_cast<int>(gridDim.x)) {
    int tile_p, tile_q;
    const int n = params.tiles_p.divmod(params.tiles_q.divmod(tile, tile_q), tile_p);
    const int p0 = tile_p * Config::kTileP, q0 = tile_q * Config::kTileQ;
    fill_stem_patch(params, n, p0, q0, patch);
    __syncthreads();
    typename Product::Accumulators acc = {};
    multiply_stem_patch(params, patch, weights, acc);
    store_mma_tile<Product>(acc, work, params.output, filter0, [&](int row) {
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
