// What the rows that use Hopper's warpgroup instructions share: whether the GPU, and this build, have them, and how a
// convolution is laid out in tiles and rows.
#pragma once

#include <functional>

#include "requirements.h"

namespace fastconv::cuda {

void refuse_without_wgmma(Reasons& reasons);

// All but the 16-bit types.
void refuse_wide_types(Reasons& reasons, DType dtype);

// How far the pixels of a convolution's output, or of its residual, lie apart where TMA can take them as rows of a
// matrix for each group, else 0.
int64_t tma_pixel_stride(const TensorView& t, int64_t groups);

// Columns of the tile, 256, 128 or 64, for a convolution with tiles(columns) tiles.
int wgmma_tile_width(const std::function<int64_t(int)>& tiles);

}  // namespace fastconv::cuda
