// The register tile of the weight gradient: MR filters x NR vectors of channels, reduced over pixels.
//
//            NR vectors of x's channels
//          +---------------------------+     acc[i][j] += dy[pixel][i] * x[pixel][j]: NR loads, MR broadcasts and
//   MR     |                           |     MR * NR FMAs a pixel. Both operands are packed, [pixel][channel], so
//   filters|                           |     that a pixel costs two pointer increments.
//          +---------------------------+
//
// The tile's sum over its pixels is added to memory once, at the end: sums of sums, which also keeps float accurate
// over many pixels.
#pragma once

#include "runs.h"

namespace fastconv::cpu::FASTCONV_ISA {

template <class Acc>
struct WeightGradTile {
  const Acc* dy;            // [pixel][filter]
  const Acc* x;             // [pixel][channel], the pixel that the tap reads
  int64_t dy_step, x_step;  // from pixel to pixel
  int64_t dy_row, x_row;    // from one row of pixels to the next
  int64_t rows, pixels;     // pixels of one row
  Acc* sum;                 // [filter][channel]
  int64_t sum_step;
};

template <class Acc>
using WeightGradTileFunction = void (*)(const WeightGradTile<Acc>&);

template <class Acc, int MR, int NR>
void weight_grad_tile(const WeightGradTile<Acc>& t) {
  using V = Vec<Acc>;
  V acc[MR][NR];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) acc[i][j] = V(0);
  }
  for (int64_t row = 0; row < t.rows; ++row) {
    const Acc *dy = t.dy + row * t.dy_row, *x = t.x + row * t.x_row;
    for (int64_t left = t.pixels; left > 0; --left, dy += t.dy_step, x += t.x_step) {
      V in[NR];
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) in[j] = V::load(x + j * V::kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const V g(dy[i]);
#pragma GCC unroll 4
        for (int j = 0; j < NR; ++j) acc[i][j] = fma(g, in[j], acc[i][j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) {
      Acc* sum = t.sum + i * t.sum_step + j * V::kLanes;
      (V::load(sum) + acc[i][j]).store(sum);
    }
  }
}

// Heights that exist, and what a filter costs in each relative to the best: low tiles wait for loads or for the latency
// of their few accumulators. Filters are padded with zeros to whole tiles.
struct WeightGradHeight {
  int rows;
  double cost;
};
constexpr WeightGradHeight kWeightGradHeights[] = {
    {kTileRows, 1.0}, {kTileRows >= 12 ? 8 : 4, 1.06}, {kTileRows >= 12 ? 4 : 3, 1.3}, {2, 2.0}, {1, 4.0}};

FC_INLINE int weight_grad_height(int64_t filters) {
  int best = 0;
  double best_cost = 0;
  for (const WeightGradHeight& h : kWeightGradHeights) {
    const double cost = static_cast<double>(ceil_div(filters, h.rows) * h.rows) * h.cost;
    if (best == 0 || cost < best_cost) {
      best = h.rows;
      best_cost = cost;
    }
  }
  return best;
}

template <class Acc, int kVectors>
WeightGradTileFunction<Acc> find_weight_grad_tile(int rows) {
  constexpr const WeightGradHeight* kHeights = kWeightGradHeights;
  switch (rows) {
    case kHeights[0].rows:
      return weight_grad_tile<Acc, kHeights[0].rows, kVectors>;
    case kHeights[1].rows:
      return weight_grad_tile<Acc, kHeights[1].rows, kVectors>;
    case kHeights[2].rows:
      return weight_grad_tile<Acc, kHeights[2].rows, kVectors>;
    case kHeights[3].rows:
      return weight_grad_tile<Acc, kHeights[3].rows, kVectors>;
    default:
      return weight_grad_tile<Acc, 1, kVectors>;
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
