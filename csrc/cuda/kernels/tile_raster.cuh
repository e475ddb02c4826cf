// The order in which blocks visit the tiles of a matrix: down the rows of a group of kRasterRows rows of tiles, then on
// to the next column, so that blocks that run at the same time share both operands in the L2 cache.
#pragma once

#include "../primitives/cuda.h"

namespace fastconv::cuda {

struct TilePlace {
  int row, column;
};

__device__ __forceinline__ TilePlace raster_tile(int block, int tiles_m, int tiles_n) {
  constexpr int kRasterRows = 8;
  const int group_tiles = kRasterRows * tiles_n;
  const int first_row = block / group_tiles * kRasterRows;
  const int rows_in_group = min(kRasterRows, tiles_m - first_row);
  const int in_group = block % group_tiles;
  return {first_row + in_group % rows_in_group, in_group / rows_in_group};
}

}  // namespace fastconv::cuda
