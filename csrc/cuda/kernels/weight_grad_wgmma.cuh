// The weight gradient on Hopper's warpgroup tensor cores, dw[k, r, s, c] = sum over output pixels of dy[pixel, k] *
// x[pixel of tap (r, s), c], as tiles of filters x columns (tap, c) for wgmma_pipeline.cuh. A step of the reduction is
// 64 output pixels, which both operands hold one after the other, M or N contiguous:
//
//              64 filters                       64 channels of tap (r, s)
//           +---+---+                        +---+---+---+---+
//   64      |   |   |  boxes of dy as a      |   |   |   |   |  im2col copies, each of its own tap: 64 base pixels,
//   pixels  |   |   |  matrix of pixels      |   |   |   |   |  (s, r) * dilation further on
//           +---+---+                        +---+---+---+---+
//
// Either is the A of the product: filters, or, where there are few of them, columns. The reduction over all images is
// split into parts, which are runs of steps; their sums go to [part][group][k][tap][c], and weight_grad_mma_sum_kernel
// adds them. What a copy reads beyond a group's filters or channels are rows or columns that nobody stores.
#pragma once

#include "../../common/calls.h"
#include "../primitives/fast_divmod.cuh"
#include "../primitives/launch.h"
#include "../primitives/tma_im2col.cuh"
#include "im2col_map.h"
#include "tile_raster.cuh"
#include "weight_grad_mma.cuh"
#include "wgmma_pipeline.cuh"

namespace fastconv::cuda {

// Filters or channels that one copy fetches.
constexpr int kWeightGradBlock = kWgmmaSpan;

// The columns: blocks of 64 channels, tap after tap.
struct WeightGradBlocks {
  int count;
  FastDivmod of_tap;

  // The tap, and the first channel in the group.
  __device__ __forceinline__ int place(int block, int& channel) const {
    const int tap = of_tap.divmod(block, channel);
    channel *= kWeightGradBlock;
    return tap;
  }
};

template <bool kTransposed_>
struct WeightGradPartials {
  static constexpr bool kTransposed = kTransposed_;
  float* data;
  int lines, groups;  // filters of a group
  int channels;       // of a group, padded to multiples of 8
  int64_t columns;    // taps * channels
  WeightGradBlocks blocks;

  __device__ __forceinline__ float* line(const WgmmaTile& tile, int filter) const {
    return data + ((static_cast<int64_t>(tile.part) * groups + tile.batch) * lines + filter) * columns;
  }
  __device__ __forceinline__ WgmmaSpan span(const WgmmaTile& tile, int block) const {
    const int number = (kTransposed ? tile.m : tile.n) / kWeightGradBlock + block;
    if (number >= blocks.count) return {0, 0};
    int channel;
    const int tap = blocks.place(number, channel);
    return {static_cast<int64_t>(tap) * channels + channel, channels - channel};
  }
};

template <bool kColumnsAreRows>
struct WeightGradWgmmaWork {
  TensorMap dy, x;
  WeightGradPartials<kColumnsAreRows> output;
  int steps, parts;             // of the whole reduction
  int tiles_m, tiles_n, tiles;  // tiles: of all groups and parts
  int filters, channels;        // of a group, in dy and in x
  int all_channels;
  FastDivmod image_pixels, width, filter_width;
  int stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;

  // The parts one after the other: blocks that run at the same time read the same pixels.
  template <class Config>
  __device__ __forceinline__ WgmmaTile tile(int number) const {
    const int tiles_of_group = tiles_m * tiles_n, rest = number / tiles_of_group;
    const TilePlace place = raster_tile(number % tiles_of_group, tiles_m, tiles_n);
    WgmmaTile tile = {rest % output.groups, place.row * Config::kTileM, place.column * Config::kTileN, steps};
    take_part(tile, rest / output.groups, parts);
    return tile;
  }

  template <class Config>
  struct Source {
    static constexpr int kBlockBytes = Config::kTileK * kSwizzleBytes;
    const WeightGradWgmmaWork& work;
    int group, m, n, pixel;

    template <int kFilters>
    __device__ __forceinline__ void fetch_filters(unsigned char* to, uint64_t* full, int first) const {
#pragma unroll
      for (int i = 0; i < kFilters / kWeightGradBlock; ++i) {
        tma_load_2d(to + i * kBlockBytes, &work.dy, full, group * work.filters + first + i * kWeightGradBlock, pixel);
      }
    }
    template <int kColumns>
    __device__ __forceinline__ void fetch_columns(unsigned char* to, uint64_t* full, int first) const {
      int of_image, q;
      const int image = work.image_pixels.divmod(pixel, of_image), p = work.width.divmod(of_image, q);
      const int base_h = p * work.stride_h - work.pad_top, base_w = q * work.stride_w - work.pad_left;
#pragma unroll 1
      for (int i = 0; i < kColumns / kWeightGradBlock; ++i) {
        const int block = first / kWeightGradBlock + i;
        // Blocks beyond the last are zeros, which cost no bytes: of no channel.
        int channel = work.all_channels, r = 0, s = 0;
        if (block < work.output.blocks.count) {
          r = work.filter_width.divmod(work.output.blocks.place(block, channel), s);
          channel += group * work.channels;
        }
        tma_load_im2col_4d(to + i * kBlockBytes, &work.x, full, channel, base_w, base_h, image,
                           static_cast<uint16_t>(s * work.dilation_w), static_cast<uint16_t>(r * work.dilation_h));
      }
    }
    __device__ __forceinline__ void fetch(unsigned char* a, unsigned char* b, uint64_t* full) {
      if constexpr (kColumnsAreRows) {
        fetch_columns<Config::kTileM>(a, full, m);
        fetch_filters<Config::kTileN>(b, full, n);
      } else {
        fetch_filters<Config::kTileM>(a, full, m);
        fetch_columns<Config::kTileN>(b, full, n);
      }
      pixel += Config::kTileK;
    }
  };
  template <class Config>
  __device__ __forceinline__ Source<Config> source(const WgmmaTile& tile) const {
    return {*this, tile.batch, tile.m, tile.n, tile.first_step * Config::kTileK};
  }

  template <class F>
  __device__ __forceinline__ void visit_majors(F&& f) const {
    constexpr MajorConstant<OperandMajor::kMn> mn;
    f(mn, mn);
  }
};

template <class Config, bool kColumnsAreRows>
__global__ void __launch_bounds__(Config::kThreads, 1)
    weight_grad_wgmma_kernel(const __grid_constant__ WeightGradWgmmaWork<kColumnsAreRows> work) {
  wgmma_pipeline<Config>(work, WgmmaPartialSums());
}

// The operands in form: channels contiguous, everything in 16-byte multiples, dy's pixels evenly apart.
struct WeightGradWgmmaOperands {
  TensorView dy, x;
  int64_t dy_pixel_stride;
  int64_t filters, channels;  // of a group, padded to multiples of 8
};

// Sums of `parts` parts to `partials`.
template <class Config, bool kColumnsAreRows>
void launch_weight_grad_wgmma(const ConvProblem& p, const WeightGradWgmmaOperands& operands, int parts, float* partials,
                              const LaunchConfig& base, int multiprocessors) {
  const auto narrow = [](int64_t value) { return static_cast<int>(value); };
  const int64_t pixels = p.N * p.P * p.Q, taps = p.R * p.S;
  WeightGradWgmmaWork<kColumnsAreRows> work = {};
  TensorMapSpec dy{operands.dy.data, operands.dy.dtype, 2, {}, {}, {}, kSwizzleBytes};
  dy.extent[0] = static_cast<uint64_t>(operands.dy.size[1]), dy.extent[1] = static_cast<uint64_t>(pixels);
  dy.stride[1] = static_cast<uint64_t>(operands.dy_pixel_stride);
  dy.box[0] = kWeightGradBlock, dy.box[1] = Config::kTileK;
  work.dy = make_tensor_map("dy", dy);
  work.x = image_map(operands.x, p, kWeightGradBlock, Config::kTileK);
  work.filters = narrow(operands.filters), work.channels = narrow(operands.channels);
  work.all_channels = narrow(operands.x.size[1]);
  work.image_pixels = FastDivmod(p.P * p.Q), work.width = FastDivmod(p.Q), work.filter_width = FastDivmod(p.S);
  work.stride_h = narrow(p.stride_h), work.stride_w = narrow(p.stride_w);
  work.pad_top = narrow(p.pad_top), work.pad_left = narrow(p.pad_left);
  work.dilation_h = narrow(p.dilation_h), work.dilation_w = narrow(p.dilation_w);
  work.steps = narrow((pixels + Config::kTileK - 1) / Config::kTileK), work.parts = parts;

  WeightGradPartials<kColumnsAreRows>& out = work.output;
  const int64_t blocks_of_tap = (operands.channels + kWeightGradBlock - 1) / kWeightGradBlock;
  out.data = partials;
  out.lines = narrow(p.filters_per_group()), out.groups = narrow(p.groups);
  out.channels = work.channels, out.columns = taps * operands.channels;
  out.blocks = {narrow(taps * blocks_of_tap), FastDivmod(blocks_of_tap)};

  const int columns = out.blocks.count * kWeightGradBlock;
  const int rows_m = kColumnsAreRows ? columns : out.lines, columns_n = kColumnsAreRows ? out.lines : columns;
  work.tiles_m = (rows_m + Config::kTileM - 1) / Config::kTileM;
  work.tiles_n = (columns_n + Config::kTileN - 1) / Config::kTileN;
  work.tiles = work.tiles_m * work.tiles_n * out.groups * parts;
  launch_wgmma<Config, weight_grad_wgmma_kernel<Config, kColumnsAreRows>>("weight_grad_wgmma", base, work.tiles,
                                                                          multiprocessors, work);
}

}  // namespace fastconv::cuda
