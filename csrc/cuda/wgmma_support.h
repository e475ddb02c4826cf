// What the rows that use Hopper's warpgroup instructions share: whether the GPU, and this build, have them, and how a
// convolution is laid out in tiles and rows.
#pragma once

#include "requirements.h"

namespace fastconv::cuda {

void refuse_without_wgmma(Reasons& reasons);

// All but the 16-bit types.
void refuse_wide_types(Reasons& reasons, DType dtype);

// How far the pixels of a convolution's output, or of its residual, lie apart where TMA can take them as rows of a
// matrix for each group, else 0.
int64_t tma_pixel_stride(const TensorView& t, int64_t groups);

// What decides whether the two consumers of a block take turns with whole tiles (ping-pong) or share each.
struct WgmmaTurns {
  int64_t tiles;  // of the narrow kind, the only one of which a consumer can hold all sums
  int64_t steps;  // of a reduction
  bool wide;      // whether the wide tile would be taken otherwise
  bool general;   // GeneralEpilogue: any activation, by the element
};

// With turns, the next tile's products run under an epilogue: for blocks with several tiles, where the narrow tile is
// the choice in any case, or where a reduction is too shallow for the wide tile's smaller traffic to make up for the
// time in which it has no products. Counted, not measured: a step of the wide tile is 1,024 clocks of products; two
// narrow ones take 4 / 3 of that, which is what the L2 cache needs to feed them. In the epilogue between its tiles each
// of the two warps of a scheduler issues 2,850 instructions for its 128 columns of sums, some 100 for each of them if
// the epilogue is general. That is up to 16 steps, or 75.
bool prefer_ping_pong(const WgmmaTurns& turns, const DeviceInfo& device);

}  // namespace fastconv::cuda
