// How a convolution task is cut: between threads, into blocks of outputs, and along the reduction. Pure functions of
// the extents, so that they can be read (and printed) apart from the engine.
//
// Budgets, per thread: the band, the staging tile and what GEMM packs of B stay within 1 MiB together, and lie beside a
// panel of weights in an L2 of 1 to 2 MiB.
#pragma once

#include "input_rows.h"
#include "pack.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr int64_t kBandBytes = 512 << 10;
constexpr int64_t kStageBytes = 128 << 10;
// Outputs of a block and panel: many where weights are large and have to be fetched again for each block; fewer where
// they stay in L2 anyway, so that inputs and outputs stay there too (1x1, 64 to 256 channels at 56x56: 8 % faster).
constexpr int64_t kBlockPixels = 224, kFewerBlockPixels = 112, kSmallWeightBytes = 256 << 10;
// Products that are added one after the other; then a new chain begins, and the sums of chains are added up where the
// outputs lie. One chain through the 4,608 products of a 3x3 filter over 512 channels rounds to 8 times the largest
// error of torch; chains of 256 stay below twice, for 1 % of the time.
constexpr int64_t kChain = 256;
// Multiply-adds below which another thread costs more than it brings (about 10 us of one core).
constexpr int64_t kThreadWork = 1 << 20;
// Shares of a thread, and the multiply-adds of the least worth having (about 10 us).
constexpr int64_t kSharesOfThread = 4, kShareWork = 1 << 20;
// What a weight costs that comes from memory once, in multiply-adds: nearly all of a matrix product of one row.
constexpr int64_t kWeightWork = 8;

FC_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
FC_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
// The size of the largest of the fewest pieces of at most `piece`: 20 by 14 gives 10 and 10, not 14 and 6.
FC_INLINE int64_t balanced(int64_t total, int64_t piece) {
  return total <= 0 ? 1 : ceil_div(total, ceil_div(total, larger(piece, 1)));
}

// A grid of threads: `channel` shares of the panels times `pixel` shares of the outputs.
struct Shares {
  int64_t channel = 1, pixel = 1;
  bool columns = false;  // pixel shares are ranges of q, not of the N * P output rows
};

struct Blocking {
  bool direct = false;   // the microkernel reads x itself
  bool staged = false;   // outputs pass through a staging tile
  int64_t q = 1, p = 1;  // outputs of a block
  int64_t c = 1, r = 1;  // channels and vertical taps of one reduction step
  int64_t groups = 1;    // groups served by one band
  int64_t panels = 1;    // panels between two fills of the band
  int64_t stage_pitch = 0;
  BandShape band;
  int64_t c_steps(const SimplifiedTask& t) const { return t.C > 0 ? ceil_div(t.C, c) : 1; }
  int64_t r_steps(const SimplifiedTask& t) const { return t.R > 0 ? ceil_div(t.R, r) : 1; }
};

// Chooses the grid with the least time for its slowest thread: multiply-adds, and what has to come from the outer
// caches at about 8 bytes in the time of one fused multiply-add instruction.
template <class Acc>
Shares choose_shares(const SimplifiedTask& t, int64_t threads) {
  const int64_t panels = t.groups * panel_count<Acc>(t.K), reduction = t.C * t.R * t.S;
  const int64_t work = (t.N * t.P * t.Q + kWeightWork) * t.groups * t.K * larger(reduction, 1);
  threads = larger(1, smaller(threads, work / kThreadWork));
  const int64_t tiles = ceil_div(t.Q, kTileRows), tile = balanced(t.Q, kTileRows);
  Shares best;
  double best_cost = 0;
  for (int64_t channel = 1; channel <= smaller(threads, panels); ++channel) {
    const int64_t pixel = threads / channel;
    const double share_panels = static_cast<double>(ceil_div(panels, channel));
    const double by_row = static_cast<double>(ceil_div(t.N * t.P, pixel) * t.Q);
    const double by_column = static_cast<double>(t.N * t.P * smaller(t.Q, ceil_div(tiles, pixel) * tile));
    const double pixels = by_column < by_row ? by_column : by_row;
    const double weight_bytes = share_panels * static_cast<double>(reduction * kPanelWidth<Acc>) * sizeof(Acc);
    const double input_bytes =
        pixels * static_cast<double>(t.step_h * t.step_w * t.C * (t.groups > channel ? t.groups / channel : 1)) *
        sizeof(Acc);
    const double cost = pixels * share_panels * static_cast<double>(larger(reduction, 1)) * kPanelVectors / 2 +
                        (weight_bytes + input_bytes) / 8;
    if (best_cost == 0 || cost < best_cost) {
      best_cost = cost;
      best = {channel, pixel, by_column < by_row};
    }
  }
  return best;
}

// Whether rows of the register tile `bytes` apart fall on so few cache sets that they evict each other: at a multiple
// of 4 KiB all of them share one set of 8 to 12 ways.
constexpr bool aliases(int64_t bytes) { return kTileRows > 6 ? bytes % 4096 == 0 : bytes % 8192 == 0; }

// x can be read in place: right type, adjacent channels, every tap of every output inside.
template <class T>
bool reads_directly(const SimplifiedTask& t) {
  if (sizeof(T) != sizeof(accumulate_t<T>) || t.scale_h != 1 || t.scale_w != 1) return false;
  if (t.x.stride[1] != 1 && t.x.size[1] != 1) return false;
  for (int64_t r = 0; r < t.R; ++r)
    if (t.dh[r] < 0 || (t.P - 1) * t.step_h + t.dh[r] >= t.x.size[2]) return false;
  for (int64_t s = 0; s < t.S; ++s)
    if (t.dw[s] < 0 || (t.Q - 1) * t.step_w + t.dw[s] >= t.x.size[3]) return false;
  const int64_t step = t.step_w * t.x.stride[3] * static_cast<int64_t>(sizeof(T));
  return t.Q <= 4 || !aliases(step);
}

// The microkernel can write this tensor itself, and partial sums can wait in it.
template <class Acc>
bool stores_directly(const TensorView& y) {
  return accumulate_dtype(y.dtype) == y.dtype && dtype_size(y.dtype) == sizeof(Acc) &&
         (y.stride[1] == 1 || y.size[1] == 1);
}

// Rows of x (as stored) that `rows` output rows read through `taps` vertical taps spanning `span`.
FC_INLINE int64_t band_rows(const SimplifiedTask& t, int64_t rows, int64_t taps, int64_t span) {
  return smaller(rows * taps, smaller(((rows - 1) * t.step_h + span) / t.scale_h + 2, t.x.size[2] + 1));
}

// `rows`, `columns`: outputs of one share along p and q.
template <class T>
Blocking choose_blocking(const SimplifiedTask& t, const Shares& shares, int64_t rows, int64_t columns,
                         bool in_registers) {
  using Acc = accumulate_t<T>;
  Blocking b;
  const int64_t item = sizeof(Acc);
  b.direct = reads_directly<T>(t);
  b.staged = !in_registers || !stores_directly<Acc>(t.y);
  b.c = larger(t.C, 1);
  b.r = larger(t.R, 1);
  const int64_t pixels =
      t.groups * t.K * t.C * t.R * t.S * item <= kSmallWeightBytes ? kFewerBlockPixels : kBlockPixels;
  // Where channels or taps may be divided, not a share's columns: the order of additions must not depend on threads.
  if (t.R * t.S > 1) columns = t.Q;
  b.q = balanced(columns, pixels);
  if (b.q < columns) b.q = ceil_div(b.q, kTileRows) * kTileRows;

  // A band of several small groups is filled together: their channels are adjacent in memory.
  if (!b.direct && t.groups > 1) b.groups = larger(1, smaller(t.groups, 128 / larger(t.C, 1)));

  int64_t h_lo = 0, h_hi = 0, w_lo = 0, w_hi = 0;
  for (int64_t r = 0; r < t.R; ++r) {
    h_lo = r == 0 || t.dh[r] < h_lo ? t.dh[r] : h_lo;
    h_hi = r == 0 || t.dh[r] > h_hi ? t.dh[r] : h_hi;
  }
  for (int64_t s = 0; s < t.S; ++s) {
    w_lo = s == 0 || t.dw[s] < w_lo ? t.dw[s] : w_lo;
    w_hi = s == 0 || t.dw[s] > w_hi ? t.dw[s] : w_hi;
  }
  const int64_t span_h = h_hi - h_lo + 1, span_w = w_hi - w_lo + 1;

  const auto row_bytes = [&] { return ((b.q - 1) * t.step_w + span_w) * (b.c * b.groups + 16) * item; };
  // Rows of a band, and of x read in place: both want to stay in L2 while the panels pass.
  const auto bytes = [&](int64_t p) { return (band_rows(t, p, b.r, span_h) + !b.direct) * row_bytes(); };
  while (bytes(1) > kBandBytes) {
    if (b.groups > 1) {
      b.groups = ceil_div(b.groups, 2);
    } else if (b.c > 512) {
      b.c = ceil_div(ceil_div(b.c, 2), 16) * 16;
    } else if (b.q > 4 * kTileRows) {
      b.q = ceil_div(ceil_div(b.q, 2), kTileRows) * kTileRows;
    } else if (b.r > 1 && !b.direct) {
      b.r = ceil_div(b.r, 2);
    } else if (b.c > 64) {
      b.c = ceil_div(ceil_div(b.c, 2), 16) * 16;
    } else if (b.q > kTileRows) {
      b.q = kTileRows;
    } else if (b.c > 1 && !b.direct) {
      b.c = ceil_div(b.c, 2);
    } else {
      break;
    }
  }
  // Of a matrix product, whole chains: its blocks depend on the number of rows, and its sums must not.
  b.c = t.R * t.S == 1 && b.c < t.C && b.c >= kChain ? b.c / kChain * kChain : balanced(t.C, b.c);
  b.r = balanced(t.R, b.r);
  b.p = 1;
  while (b.p < rows && b.p * b.q < pixels && bytes(b.p + 1) <= kBandBytes) ++b.p;
  b.p = balanced(rows, b.p);

  if (!b.direct) {
    b.band.origin = w_lo;
    b.band.columns = (b.q - 1) * t.step_w + span_w;
    b.band.pitch = b.c * b.groups;
    // A cache line of padding where rows would alias; nothing is lost, as taps of that many channels need no merging.
    if (t.step_w * b.band.pitch * item % 1024 == 0) b.band.pitch += 64 / item;
    b.band.slots = band_rows(t, b.p, b.r, span_h);
  }

  // Partial sums of all panels wait in the staging tile when the reduction comes in steps.
  b.panels = ceil_div(t.groups * panel_count<Acc>(t.K), shares.channel);
  b.stage_pitch = kPanelWidth<Acc>;
  if (b.staged && b.c_steps(t) * b.r_steps(t) > 1) {
    b.panels = larger(1, smaller(panel_count<Acc>(t.K), kStageBytes / (b.p * b.q * kPanelWidth<Acc> * item)));
    b.stage_pitch = b.panels * kPanelWidth<Acc>;
  }
  return b;
}

}  // namespace fastconv::cpu::FASTCONV_ISA
