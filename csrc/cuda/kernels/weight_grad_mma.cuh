// The weight gradient on tensor cores, dw[k, r, s, c] = sum over output pixels of dy[pixel, k] * x[pixel of tap (r, s),
// c], as an implicit GEMM for each group:
//
//   gemm_m  filters k                           A  dy, NHWC: a line of the tile is a pixel, chunks along the filters
//   gemm_n  (tap, c), c innermost               B  x gathered: a line is a pixel, a chunk of channels lies in one tap
//   gemm_k  output pixels, split over blocks    D  partial sums in float, [split][group][k][tap][c]
//
// Both operands lie with M or N contiguous; ldmatrix transposes them on the way to registers. A thread's chunk of B
// keeps its tap and channels for the whole reduction, only pixels go by: one fast division by Q and one by P a chunk.
// The second kernel adds the parts in their order, so that the result is the same on every run.
#pragma once

#include "../primitives/fast_divmod.cuh"
#include "gather_mma.cuh"

namespace fastconv::cuda {

template <class T>
struct WeightGradMmaParams {
  const T* dy;  // channels contiguous, strides in elements; pixels follow one another
  int64_t dy_stride_pixel, dy_stride_group;
  const T* x;  // channels contiguous
  int64_t x_stride_n, x_stride_h, x_stride_w;
  int filters, padded_filters;    // of one group; padded to whole chunks
  int channels, padded_channels;  // likewise
  int H, W, taps, S;
  int stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
  int pixels;  // N * P * Q
  FastDivmod P, Q;
  FastDivmod tiles_m, tiles_n;  // of a block's number
  MmaOutput<T> output;          // the partial sums
  int groups;
};

// Operand B: pixels gathered for one tap, chunks along the channels.
template <class Tile>
class TapLoader {
  using T = typename Tile::Element;
  static_assert(Tile::kMajor == Major::kMN, "a line is a pixel");

 public:
  __device__ __forceinline__ TapLoader(const WeightGradMmaParams<T>& params, int group, int column0, int pixel0,
                                       int pixel_end)
      : params_(params), pixel_(pixel0 + Tile::k(0)), pixel_end_(pixel_end) {
    const int column = column0 + Tile::row(0);
    const int tap = column / params.padded_channels, c = column % params.padded_channels;
    if (tap >= params.taps) pixel_end_ = 0;  // beyond the last column
    row_ = tap / params.S * params.dilation_h - params.pad_top;
    column_ = tap % params.S * params.dilation_w - params.pad_left;
    x_ = params.x + static_cast<int64_t>(group) * params.padded_channels + c;
  }

  __device__ __forceinline__ void load(int slot, void* shared) const {
    const int pixel = pixel_ + slot * Tile::kLinesApart;
    int p, q;
    const int rest = params_.Q.divmod(pixel, q);
    const int n = params_.P.divmod(rest, p);
    const int h = p * params_.stride_h + row_, w = q * params_.stride_w + column_;
    const bool valid = pixel < pixel_end_ && is_inside(h, params_.H) && is_inside(w, params_.W);
    cp_async_16(shared, x_ + n * params_.x_stride_n + h * params_.x_stride_h + w * params_.x_stride_w, valid);
  }
  __device__ __forceinline__ void advance() { pixel_ += Tile::kDepth; }

 private:
  const WeightGradMmaParams<T>& params_;
  const T* x_;
  int row_, column_;  // of the tap, relative to the window's corner at pixel (0, 0)
  int pixel_, pixel_end_;
};

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, kGatherMinBlocks<Config>)
    weight_grad_mma_kernel(const __grid_constant__ WeightGradMmaParams<typename Config::Element> params) {
  unsigned char* shared = dynamic_shared_memory();
  int tile_m, tile_n;
  int number = params.tiles_m.divmod(static_cast<int>(blockIdx.x), tile_m);
  const int group = params.tiles_n.divmod(number, tile_n);
  const int m0 = tile_m * Config::kTileM, n0 = tile_n * Config::kTileN;
  // This block's share of the pixels.
  const int64_t steps = (params.pixels + Config::kTileK - 1) / Config::kTileK;
  const int first_step = static_cast<int>(steps * blockIdx.y / gridDim.y);
  const int last_step = static_cast<int>(steps * (blockIdx.y + 1) / gridDim.y);
  const int pixel0 = first_step * Config::kTileK;
  const int pixel_end = min(last_step * Config::kTileK, params.pixels);

  ChunkLoader<typename Config::TileA> load_a(params.dy + group * params.dy_stride_group, 1, params.dy_stride_pixel, m0,
                                             params.padded_filters, pixel0, pixel_end);
  TapLoader<typename Config::TileB> load_b(params, group, n0, pixel0, pixel_end);
  typename Config::Accumulators acc;
  mma_main_loop<Config>(load_a, load_b, last_step - first_step, shared, acc);
  store_mma_tile<Config>(acc, shared, params.output, n0, [&](int tile_row) {
    const int m = m0 + tile_row;
    MmaRow row;
    row.valid = m < params.filters;
    row.offset = row.n = row.p = row.q = 0;
    row.partial =
        ((static_cast<int64_t>(blockIdx.y) * params.groups + group) * params.filters + m) * params.output.columns;
    return row;
  });
}

template <class T>
struct WeightGradMmaSumParams {
  const float* partials;  // [split][filter][tap][padded channel]
  T* dw;
  int64_t stride_k, stride_c, stride_r, stride_s;  // of dw, in elements
  int64_t elements;                                // of one split
  int splits, taps, S, channels, padded_channels;
};

constexpr int kWeightGradMmaSumThreads = 256;

template <class T>
__global__ void __launch_bounds__(kWeightGradMmaSumThreads)
    weight_grad_mma_sum_kernel(const __grid_constant__ WeightGradMmaSumParams<T> params) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWeightGradMmaSumThreads + threadIdx.x;
  if (index >= params.elements) return;
  const int columns = params.taps * params.padded_channels;
  const int64_t k = index / columns;
  const int column = static_cast<int>(index % columns);
  const int tap = column / params.padded_channels, c = column % params.padded_channels;
  if (c >= params.channels) return;
  float sum = params.partials[index];
#pragma unroll 8
  for (int split = 1; split < params.splits; ++split) sum += params.partials[index + split * params.elements];
  params.dw[k * params.stride_k + c * params.stride_c + tap / params.S * params.stride_r +
            tap % params.S * params.stride_s] = from_accumulate<T>(sum);
}

// dw from `splits` parts of its sums, with `padded_channels` of a group in a line.
template <class T>
void launch_weight_grad_mma_sum(const float* partials, int splits, int64_t padded_channels, const ConvProblem& p,
                                const TensorView& dw, void* stream) {
  const int64_t taps = p.R * p.S, elements = p.K * taps * padded_channels;
  WeightGradMmaSumParams<T> params{partials,
                                   dw.as<T>(),
                                   dw.stride[0],
                                   dw.stride[1],
                                   dw.stride[2],
                                   dw.stride[3],
                                   elements,
                                   splits,
                                   static_cast<int>(taps),
                                   static_cast<int>(p.S),
                                   static_cast<int>(p.channels_per_group()),
                                   static_cast<int>(padded_channels)};
  LaunchConfig config;
  config.stream = stream;
  config.footprint.reads("partial sums", partials, static_cast<size_t>(splits * elements) * sizeof(float))
      .writes("dw", dw);
  config.block = dim3(kWeightGradMmaSumThreads);
  config.grid = dim3(static_cast<unsigned>((elements + kWeightGradMmaSumThreads - 1) / kWeightGradMmaSumThreads));
  launch("weight_grad_mma_sum", config, weight_grad_mma_sum_kernel<T>, params);
}

}  // namespace fastconv::cuda
