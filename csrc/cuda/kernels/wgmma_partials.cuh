// How the sums of one part of a split reduction leave wgmma_pipeline.cuh: as floats, straight from the accumulators to
// the workspace, where a second kernel adds the parts in their order. The work's `output` is then a description of
// where they go. Sums lie in lines of memory: a row of the tile, or with kTransposed a column of it, is part of a line.
// Along the line the tile consists of blocks of 64 sums, each of which lies anywhere in it:
//   static constexpr bool kTransposed
//   int lines                       of the whole matrix
//   float* line(tile, number)       its beginning, for the tile's part; a multiple of 32 bytes
//   WgmmaSpan span(tile, block)     where a block of the tile lies
// Four lanes, or eight, write the 32 bytes of a sector.
#pragma once

#include "../primitives/pack.cuh"
#include "wgmma_output.cuh"

namespace fastconv::cuda {

// In the place of an epilogue.
struct WgmmaPartialSums {};

// Of a line, in floats: both multiples of 8.
struct WgmmaSpan {
  int64_t offset;
  int count;  // from here on; where it is less than the block's 64, the rest is nobody's
};
constexpr int kWgmmaSpan = 64;

// Makes a tile of all steps one of a part: a run of them, of nearly the same length for each part.
__device__ __forceinline__ void take_part(WgmmaTile& tile, int part, int parts) {
  const int64_t steps = tile.steps;
  tile.part = part;
  tile.first_step = static_cast<int>(steps * part / parts);
  tile.steps = static_cast<int>(steps * (part + 1) / parts) - tile.first_step;
}

namespace wgmma_detail {

template <class Config, class Output>
__device__ __forceinline__ void store_partials(const float (&acc)[Config::kAccumulators], const Output& output,
                                               const WgmmaTile& tile, int consumer) {
  static_assert(Config::kConsumerM == kWgmmaSpan && Config::kTileN % kWgmmaSpan == 0, "whole blocks either way");
  const int thread = static_cast<int>(threadIdx.x) % Config::kWarpgroup;
  const int row = thread / 32 * 16 + thread % 32 / 4, column = thread % 4 * 2;
  if constexpr (Output::kTransposed) {
    const WgmmaSpan span = output.span(tile, consumer);
#pragma unroll
    for (int i = 0; i < Config::kAccumulators; ++i) {
      const int number = tile.n + i / 4 * 8 + column + i % 2, along = row + i / 2 % 2 * 8;
      if (number < output.lines && along < span.count) output.line(tile, number)[span.offset + along] = acc[i];
    }
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int number = tile.m + consumer * Config::kConsumerM + row + half * 8;
      if (number >= output.lines) break;
      float* line = output.line(tile, number) + column;
#pragma unroll
      for (int block = 0; block < Config::kTileN / kWgmmaSpan; ++block) {
        const WgmmaSpan span = output.span(tile, block);
#pragma unroll
        for (int j = 0; j < kWgmmaSpan / 8; ++j) {
          const float* sums = &acc[(block * kWgmmaSpan / 8 + j) * 4 + half * 2];
          if (j * 8 < span.count) store_pack<2>(line + span.offset + j * 8, Pack<float, 2>{{sums[0], sums[1]}});
        }
      }
    }
  }
}

}  // namespace wgmma_detail
}  // namespace fastconv::cuda
