// y = epilogue(conv2d(x, w)) as an implicit matrix product on Hopper's warpgroup tensor cores: tiles of output pixels x
// filters for wgmma_pipeline.cuh. A step of the reduction is 64 channels of one tap of the filter:
//
//              C of (r, s)                                  K
//           +---+---+---+                            +-------------+
//   n, p, q |   im2col  |  one TMA copy: a column    | w's filters |  a box of (channels, one tap, filters)
//           +---+---+---+  of base pixels, each      +-------------+
//                          (s, r) * dilation further on
//
// Strides, padding, and rows and images that end amid a tile are the copy's own business. Channels beyond the last are
// zeros for every tap. Groups are batches, and their channels whole steps, so that none reads its neighbour's. The
// blocks of a cluster have pixels of their own, and each fetches half of the filters for both; past the last pixel
// there are images of zeros, and nothing is stored.
#pragma once

#include "../../common/calls.h"
#include "../primitives/fast_divmod.cuh"
#include "../primitives/launch.h"
#include "../primitives/tensor_map.h"
#include "../primitives/tma_im2col.cuh"
#include "im2col_map.h"
#include "prepare_weights.cuh"
#include "tile_raster.cuh"
#include "wgmma_pipeline.cuh"

namespace fastconv::cuda {

template <class T>
struct ConvWgmmaOutput {
  TensorMap map, residual;
  bool by_tma, vectors;
  int rows, columns;  // output pixels, filters of a group
  T* data;
  int64_t stride_image, stride_p, stride_q, stride_column;  // in elements
  FastDivmod image_pixels, width;

  __device__ __forceinline__ int rows_of(int) const { return rows; }
  __device__ __forceinline__ int channel(int group, int column) const { return group * columns + column; }
  __device__ __forceinline__ OutputRow<T> row(int group, int pixel) const {
    int of_image, q;
    const int n = image_pixels.divmod(pixel, of_image), p = width.divmod(of_image, q);
    return {data + n * stride_image + p * stride_p + q * stride_q + channel(group, 0) * stride_column, n, p, q};
  }
};

template <class T>
struct ConvWgmmaWork {
  TensorMap x, w;
  ConvWgmmaOutput<T> output;
  int steps;
  int tiles_m, tiles_n, tiles;  // tiles: of all groups; with clusters, two below each other count as one
  int channels;                 // of a group
  int filter_width;
  int stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;

  template <class Config>
  __device__ __forceinline__ WgmmaTile tile(int number) const {
    const int tiles_of_group = tiles_m * tiles_n;
    const TilePlace place = raster_tile(number % tiles_of_group, tiles_m, tiles_n);
    int row = place.row;
    if constexpr (Config::kCluster > 1) row = row * Config::kCluster + static_cast<int>(cluster_rank());
    return {number / tiles_of_group, row * Config::kTileM, place.column * Config::kTileN, steps};
  }

  // One tap after the other, and its channels.
  template <class Config>
  struct Source {
    const ConvWgmmaWork& work;
    int first_channel, first_filter;
    int image, base_h, base_w;
    int c, tap, s;
    int offset_h, offset_w;

    __device__ __forceinline__ void fetch(unsigned char* a, unsigned char* b, uint64_t* full) {
      tma_load_im2col_4d(a, &work.x, full, first_channel + c, base_w, base_h, image, static_cast<uint16_t>(offset_w),
                         static_cast<uint16_t>(offset_h));
      if constexpr (Config::kCluster > 1) {
        constexpr int kShare = Config::kTileN / Config::kCluster;
        const int first = kShare * static_cast<int>(cluster_rank());
        tma_load_multicast_3d(b + first * kSwizzleBytes, &work.w, full, (1 << Config::kCluster) - 1, c, tap,
                              first_filter + first);
      } else {
        tma_load_3d(b, &work.w, full, c, tap, first_filter);
      }
      c += Config::kTileK;
      if (c < work.channels) return;
      c = 0, ++tap, ++s;
      offset_w += work.dilation_w;
      if (s == work.filter_width) s = 0, offset_w = 0, offset_h += work.dilation_h;
    }
  };
  template <class Config>
  __device__ __forceinline__ Source<Config> source(const WgmmaTile& tile) const {
    int of_image, q;
    const int n = output.image_pixels.divmod(tile.m, of_image), p = output.width.divmod(of_image, q);
    return {*this,
            tile.batch * channels,
            tile.batch * output.columns + tile.n,
            n,
            p * stride_h - pad_top,
            q * stride_w - pad_left,
            0,
            0,
            0,
            0,
            0};
  }

  template <class F>
  __device__ __forceinline__ void visit_majors(F&& f) const {
    constexpr MajorConstant<OperandMajor::kK> k;
    f(k, k);
  }
};

template <class Config, class Epilogue>
__global__ void __launch_bounds__(Config::kThreads, 1)
    conv_wgmma_kernel(const __grid_constant__ ConvWgmmaWork<typename Config::Element> work,
                      const __grid_constant__ Epilogue epilogue) {
  wgmma_pipeline<Config>(work, epilogue);
}

// Pixels as rows of a matrix, for y and the residual, where they lie evenly: `pixel_stride` apart.
template <class Config>
TensorMap output_map(const char* name, const TensorView& view, int64_t rows, int64_t columns, int64_t groups,
                     int64_t pixel_stride) {
  const auto extent = [](int64_t value) { return static_cast<uint64_t>(value); };
  TensorMapSpec spec{view.data, view.dtype, 3, {}, {}, {}, kSwizzleBytes};
  spec.extent[0] = extent(columns), spec.extent[1] = extent(rows), spec.extent[2] = extent(groups);
  spec.stride[1] = extent(pixel_stride);
  spec.stride[2] = groups == 1 ? spec.extent[1] * spec.stride[1] : extent(columns);
  spec.box[0] = Config::kChunkN, spec.box[1] = Config::kWgmmaM, spec.box[2] = 1;
  return make_tensor_map(name, spec);
}

// The operands in form: x's and the weights' channels contiguous, `channels` in a group, everything else in 16-byte
// multiples. How far pixels of y and of the residual lie apart, or 0 where TMA cannot take them as a matrix.
template <class T>
struct ConvWgmmaOperands {
  TensorView x;
  int64_t channels;
  PreparedWeights<T> weights;
  int64_t y_pixel_stride, residual_pixel_stride;
};

template <class Config, class Epilogue>
void launch_conv_wgmma(const Conv2dCall& call, const ConvWgmmaOperands<typename Config::Element>& operands,
                       const Epilogue& epilogue, const LaunchConfig& base, int multiprocessors) {
  using T = typename Config::Element;
  const ConvProblem& p = call.problem;
  const int64_t channels = operands.channels;
  const PreparedWeights<T>& weights = operands.weights;
  const auto narrow = [](int64_t value) { return static_cast<int>(value); };
  const int64_t taps = p.R * p.S;
  ConvWgmmaWork<T> work = {};
  work.x = image_map(operands.x, p, Config::kTileK, Config::kTileM);
  TensorMapSpec filters{weights.data, call.dtype, 3, {}, {}, {}, kSwizzleBytes};
  filters.extent[0] = static_cast<uint64_t>(channels), filters.extent[1] = static_cast<uint64_t>(taps);
  filters.extent[2] = static_cast<uint64_t>(p.K);
  filters.stride[1] = static_cast<uint64_t>(channels), filters.stride[2] = static_cast<uint64_t>(weights.stride_out);
  filters.box[0] = Config::kTileK, filters.box[1] = 1, filters.box[2] = Config::kTileN / Config::kCluster;
  work.w = make_tensor_map("w", filters);
  work.channels = narrow(channels), work.filter_width = narrow(p.S);
  work.stride_h = narrow(p.stride_h), work.stride_w = narrow(p.stride_w);
  work.pad_top = narrow(p.pad_top), work.pad_left = narrow(p.pad_left);
  work.dilation_h = narrow(p.dilation_h), work.dilation_w = narrow(p.dilation_w);
  work.steps = narrow(taps * ((channels + Config::kTileK - 1) / Config::kTileK));

  ConvWgmmaOutput<T>& out = work.output;
  out.rows = narrow(p.N * p.P * p.Q), out.columns = narrow(p.filters_per_group());
  out.data = call.y.as<T>();
  out.stride_image = call.y.stride[0], out.stride_p = call.y.stride[2], out.stride_q = call.y.stride[3];
  out.stride_column = call.y.stride[1];
  out.image_pixels = FastDivmod(p.P * p.Q), out.width = FastDivmod(p.Q);
  out.by_tma = Epilogue::kUnrolled && operands.y_pixel_stride > 0;
  if (out.by_tma) out.map = output_map<Config>("y", call.y, out.rows, out.columns, p.groups, operands.y_pixel_stride);
  out.vectors = in_whole_chunks<T>(call.y, out.columns);
  if constexpr (kFetchesResidual<Epilogue>) {
    out.residual = output_map<Config>("residual", call.epilogue.residual, out.rows, out.columns, p.groups,
                                      operands.residual_pixel_stride);
  }

  constexpr int kRows = Config::kCluster * Config::kTileM;
  work.tiles_m = (out.rows + kRows - 1) / kRows;
  work.tiles_n = (out.columns + Config::kTileN - 1) / Config::kTileN;
  work.tiles = work.tiles_m * work.tiles_n * narrow(p.groups);
  launch_wgmma<Config, conv_wgmma_kernel<Config, Epilogue>>(Config::kPingPong ? "conv_wgmma_ping_pong" : "conv_wgmma",
                                                            base, work.tiles, multiprocessors, work, epilogue);
}

}  // namespace fastconv::cuda
