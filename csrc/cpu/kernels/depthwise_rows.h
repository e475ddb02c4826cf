// The depthwise stage of a fused block: from hidden rows in scratch (or x) to filtered pixels in scratch. A tile is up
// to eight pixels of one output row and one vector of channels; of each input row that it meets, the filter's columns
// and then the pixels' pass through registers:
//
//   row r -> w[0..S), x[0..IW) in registers -> acc[j] += x[j * stride + s] * w[s]
//
// 3x3 stride 1, seven pixels: 27 + 9 loads for 63 FMAs. Rows of such scratch lie in L1, where loads are not what
// bounds: tiles of two rows, which halve them, left the compiler short of registers and took twice the time.
#pragma once

#include "depthwise_channels.h"

namespace fastconv::cpu::FASTCONV_ISA::depthwise {

// What a band of rows has in common.
template <class Acc>
struct RowsJob {
  const Plan<Acc>& plan;
  const LaneEpilogue<Acc>& epilogue;
  const Pixels<Acc>& source;
  Band band;
  Acc* out;  // element (p, q, k) at out + (p - band.p0) * row + q * pixel + k, whole vectors
  int64_t row, pixel;
};

// kS columns of filter at horizontal stride kStride; any rows, vertical stride and dilation.
template <class Acc, int kS, int kStride>
struct RowTile {
  using V = Vec<Acc>;
  static constexpr int kMost = 8, kMostRows = 16;

  // Columns [lo, hi) and `lanes` channels of the input exist; kCareful = false: all do.
  template <int kColumns, bool kCareful>
  static FC_INLINE void accumulate(const Acc* const* rows, int64_t R, int64_t offset, int64_t pixel, int64_t lo,
                                   int64_t hi, int64_t lanes, const Acc* w, V (&acc)[kColumns]) {
    for (int64_t r = 0; r < R; ++r, w += kS * kBlock<Acc>) {
      if (!rows[r]) continue;
      const Acc* row = rows[r] + offset;
      V weight[kS];
#pragma GCC unroll 8
      for (int s = 0; s < kS; ++s) weight[s] = V::load(w + s * kBlock<Acc>);
#pragma GCC unroll 32
      for (int j = 0; j < (kColumns - 1) * kStride + kS; ++j) {
        V x;
        if constexpr (kCareful) {
          x = V::load_partial(row + j * pixel, j >= lo && j < hi ? lanes : 0);
        } else {
          x = V::load(row + j * pixel);
          hold(x);  // else it is loaded for every tap again
        }
#pragma GCC unroll 8
        for (int s = 0; s < kS; ++s) {
          const int column = (j - s) / kStride;
          if (j < s || (j - s) % kStride != 0 || column >= kColumns) continue;
          acc[column] = fma(x, weight[s], acc[column]);
        }
      }
    }
  }

  // Output columns [q0, q1) of row p, kColumns at a time.
  template <int kColumns>
  static void span(const RowsJob<Acc>& job, const Acc* const* rows, int64_t p, int64_t q0, int64_t q1) {
    constexpr int64_t kInput = (kColumns - 1) * kStride + kS;
    const Plan<Acc>& plan = job.plan;
    const Pixels<Acc>& source = job.source;
    const int64_t pixel = source.pixel_pitch, block = plan.taps() * kBlock<Acc>, k1 = job.band.k1;
    Acc* out = job.out + (p - job.band.p0) * job.row;
    for (int64_t q = q0; q < q1; q += kColumns) {
      const int64_t u = plan.first_column(q), at = (u - source.column_base) * pixel;
      const int64_t lo = max(0, source.column_lo - u), hi = max(0, min(kInput, source.column_hi - u));
      const bool inside = lo == 0 && hi == kInput;
      for (int64_t k = job.band.k0; k < k1; k += V::kLanes) {
        const Acc* w = plan.weights + k / kBlock<Acc> * block + k % kBlock<Acc>;
        const V initial = job.epilogue.initial(k);
        V acc[kColumns];
#pragma GCC unroll 8
        for (int i = 0; i < kColumns; ++i) acc[i] = initial;
        if (inside && k1 - k >= V::kLanes) {
          accumulate<kColumns, false>(rows, plan.R, at + k, pixel, 0, kInput, V::kLanes, w, acc);
        } else {
          accumulate<kColumns, true>(rows, plan.R, at + k, pixel, lo, hi, k1 - k, w, acc);
        }
        job.epilogue.template finish_row<kColumns>(acc, out + q * job.pixel + k, job.pixel,
                                                   {job.band.n, k, p, q, 1, kColumns, V::kLanes});
      }
    }
  }

  template <int kColumns>
  static FC_INLINE void choose(int64_t width, const RowsJob<Acc>& job, const Acc* const* rows, int64_t p, int64_t q0,
                               int64_t q1) {
    if (width == kColumns) return span<kColumns>(job, rows, p, q0, q1);
    if constexpr (kColumns > 1) choose<kColumns - 1>(width, job, rows, p, q0, q1);
  }

  static void run(const RowsJob<Acc>& job) {
    const Plan<Acc>& plan = job.plan;
    // Even pieces: seven and seven of 14, five and five of 10.
    const int64_t width = ceil_div(plan.Q, ceil_div(plan.Q, kMost)), whole = plan.Q / width * width;
    for (int64_t p = job.band.p0; p < job.band.p1; ++p) {
      const Acc* rows[kMostRows];
      for (int64_t r = 0; r < plan.R; ++r) rows[r] = job.source.row(plan.first_row(p) + r * plan.dilation_h, 0);
      choose<kMost>(width, job, rows, p, 0, whole);
      if (whole < plan.Q) choose<kMost>(plan.Q - whole, job, rows, p, whole, plan.Q);
    }
  }
};

// By a tile of the whole-tensor kernels: for sources in memory, and filters without a tile here.
template <class Acc>
void run_tiles(const RowsJob<Acc>& job, BandFunction<Acc> tile) {
  LaneEpilogue<Acc> epilogue = job.epilogue;
  TensorView to = job.plan.y;
  to.data = job.out - job.band.p0 * job.row;
  to.stride[0] = 0;
  to.stride[1] = 1;
  to.stride[2] = job.row;
  to.stride[3] = job.pixel;
  epilogue.write_to(to, 0);
  Band band = job.band;
  band.n = 0;
  tile(job.plan, epilogue, job.source, band);
}
template <class Acc>
void run_any_rows(const RowsJob<Acc>& job) {
  run_tiles(job, AnyTile<Acc>::run);
}

template <class Acc>
using RowsFunction = void (*)(const RowsJob<Acc>&);

template <class Acc>
RowsFunction<Acc> choose_row_tile(const Plan<Acc>& plan) {
  if (plan.dilation_w != 1 || plan.R > RowTile<Acc, 3, 1>::kMostRows) return run_any_rows<Acc>;
  if (plan.stride_w == 1) {
    if (plan.S == 3) return RowTile<Acc, 3, 1>::run;
    if (plan.S == 5) return RowTile<Acc, 5, 1>::run;
    if (plan.S == 7) return RowTile<Acc, 7, 1>::run;
  } else if (plan.stride_w == 2) {
    if (plan.S == 3) return RowTile<Acc, 3, 2>::run;
    if (plan.S == 5) return RowTile<Acc, 5, 2>::run;
    if (plan.S == 7) return RowTile<Acc, 7, 2>::run;
  }
  return run_any_rows<Acc>;
}

}  // namespace fastconv::cpu::FASTCONV_ISA::depthwise
