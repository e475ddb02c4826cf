// Depthwise convolution with vectors along columns: NCHW, and every layout whose channels are not dense. A band of rows
// of one channel is staged in L1 as rows of the accumulate type, with their zero padding, and split by column modulo
// the stride:
//
//   staged[row][phase][j] = virtual column  j * stride_w + phase - pad_left   =>  tap s reads phase (s * dilation) %
//   stride from j = q + s * dilation / stride on: sixteen neighbouring outputs read sixteen neighbouring floats,
//   whatever the stride is, and nothing meets a border.
//
// Staging costs a load and a store an input element against R * S FMAs an output.
#pragma once

#include "depthwise_channels.h"

namespace fastconv::cpu::FASTCONV_ISA::depthwise {

template <class Acc>
struct Staged {
  const Acc* base;
  int64_t pitch;  // of a phase; a row has stride_w of them
  int64_t phases;
  int64_t collect_pitch;
  int64_t row_lo, row_hi;  // source rows present
  int64_t insert_h;
  const Acc* filter;  // R * S weights of the channel at hand side by side, where the tile wants them so

  FC_INLINE const Acc* row(int64_t u, int64_t m) const {
    if (insert_h != 1) {
      if (u % insert_h != 0) return nullptr;
      u /= insert_h;
    }
    if (u < row_lo || u >= row_hi) return nullptr;
    return base + (u - row_lo) * phases * pitch + m * collect_pitch;
  }
};

// Rows [p0, p1), columns [q0, q1) of output channel k.
struct PlaneBand {
  int64_t n, k, p0, p1, q0, q1;
};

template <class Acc, int kR, int kStride>
struct FixedPlaneTile {
  using V = Vec<Acc>;
  static constexpr int kS = kR;
  static constexpr int kRows = 4;  // accumulators; consecutive tiles overlap, which hides the FMAs' latency
  static constexpr int kInputRows = (kRows - 1) * kStride + kR;

  static void run(const Plan<Acc>& plan, const LaneEpilogue<Acc>& epilogue, const Staged<Acc>& source,
                  const PlaneBand& band) {
    V weight[kR * kS];
    const Acc* w = plan.weights + band.k / kBlock<Acc> * (kR * kS * kBlock<Acc>)+band.k % kBlock<Acc>;
#pragma GCC unroll 32
    for (int tap = 0; tap < kR * kS; ++tap) weight[tap] = V(w[tap * kBlock<Acc>]);
    const V initial = epilogue.initial(band.k);
    const int64_t pitch = source.pitch, width = band.q1 - band.q0;
    for (int64_t p = band.p0; p < band.p1; p += kRows) {
      const int tile_rows = static_cast<int>(min(kRows, band.p1 - p));
      const Acc* rows[kInputRows];
      for (int i = 0; i < kInputRows; ++i) rows[i] = source.row(plan.first_row(p) + i, 0);
      for (int64_t q = 0; q < width; q += V::kLanes) {
        V acc[kRows];
#pragma GCC unroll 16
        for (int t = 0; t < kRows; ++t) acc[t] = initial;
#pragma GCC unroll 16
        for (int i = 0; i < kInputRows; ++i) {
          if (!rows[i]) continue;
#pragma GCC unroll 16
          for (int s = 0; s < kS; ++s) {
            V x = V::load(rows[i] + s % kStride * pitch + s / kStride + q);
            hold(x);
#pragma GCC unroll 16
            for (int t = 0; t < kRows; ++t) {
              const int r = i - t * kStride;
              if (r >= 0 && r < kR) acc[t] = fma(x, weight[r * kS + s], acc[t]);
            }
          }
        }
        epilogue.template finish<kRows, 1>(acc, {band.n, band.k, p, band.q0 + q, tile_rows, 1, width - q});
      }
    }
  }
};

template <class Acc>
struct AnyPlaneTile {
  using V = Vec<Acc>;
  static constexpr int kVectors = 4;

  template <int kWidth>
  static FC_INLINE void tile(const Plan<Acc>& plan, const LaneEpilogue<Acc>& epilogue, const Staged<Acc>& source,
                             const PlaneBand& band, int64_t p, int64_t q) {
    const V initial = epilogue.initial(band.k);
    V acc[kWidth];
#pragma GCC unroll 8
    for (int j = 0; j < kWidth; ++j) acc[j] = initial;
    for (int64_t m = 0; m < plan.collect; ++m) {
      const Acc* w = plan.weights + (m * plan.padded_channels() + band.k) / kBlock<Acc> * plan.taps() * kBlock<Acc> +
                     band.k % kBlock<Acc>;
      for (int64_t r = 0; r < plan.R; ++r) {
        const Acc* row = source.row(plan.first_row(p) + r * plan.dilation_h, m);
        if (!row) continue;
        for (int64_t s = 0; s < plan.S; ++s) {
          const int64_t column = s * plan.dilation_w;
          const Acc* x = row + column % source.phases * source.pitch + column / source.phases + q - band.q0;
          const V weight(w[(r * plan.S + s) * kBlock<Acc>]);
#pragma GCC unroll 8
          for (int j = 0; j < kWidth; ++j) acc[j] = fma(V::load(x + j * V::kLanes), weight, acc[j]);
        }
      }
    }
    epilogue.template finish<1, kWidth>(acc, {band.n, band.k, p, q, 1, kWidth, band.q1 - q});
  }

  static void run(const Plan<Acc>& plan, const LaneEpilogue<Acc>& epilogue, const Staged<Acc>& source,
                  const PlaneBand& band) {
    for (int64_t p = band.p0; p < band.p1; ++p) {
      int64_t q = band.q0;
      for (; q + (kVectors - 1) * V::kLanes < band.q1; q += kVectors * V::kLanes) {
        tile<kVectors>(plan, epilogue, source, band, p, q);
      }
      for (; q < band.q1; q += V::kLanes) tile<1>(plan, epilogue, source, band, p, q);
    }
  }
};

// Large filters of stride 1: kRows x kVectors accumulators walk the input rows; a vector of columns is loaded once for
// all output rows that it touches, each with its weight as a broadcast operand. 16 FMAs for 8 to 15 loads.
template <class Acc, int kRows, int kVectors>
struct LargePlaneTile {
  using V = Vec<Acc>;

  // One input row, for the tile's output rows [kFirst, kLast]: row t uses filter row r - t, of which w is that of t =
  // 0.
  template <int kFirst, int kLast>
  static FC_INLINE void meet(const Acc* x, const Acc* w, int64_t S, V (&acc)[kRows][kVectors]) {
    for (int64_t s = 0; s < S; ++s, ++x, ++w) {
      V in[kVectors];
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) {
        in[j] = V::load(x + j * V::kLanes);
        hold(in[j]);
      }
#pragma GCC unroll 16
      for (int t = kFirst; t <= kLast; ++t) {
        const V weight(w[-t * S]);
#pragma GCC unroll 16
        for (int j = 0; j < kVectors; ++j) acc[t][j] = fma(in[j], weight, acc[t][j]);
      }
    }
  }

  // The rows of the tile's beginning and end, which fewer output rows touch: i outputs less than all.
  template <int kLeft>
  static FC_INLINE void meet_some(int64_t i, bool beginning, const Acc* x, const Acc* w, int64_t S,
                                  V (&acc)[kRows][kVectors]) {
    if constexpr (kLeft > 0) {
      if (i != kLeft) return meet_some<kLeft - 1>(i, beginning, x, w, S, acc);
      beginning ? meet<0, kRows - 1 - kLeft>(x, w, S, acc) : meet<kLeft, kRows - 1>(x, w, S, acc);
    }
  }

  static void run(const Plan<Acc>& plan, const LaneEpilogue<Acc>& epilogue, const Staged<Acc>& source,
                  const PlaneBand& band) {
    const V initial = epilogue.initial(band.k);
    const int64_t R = plan.R, S = plan.S, width = band.q1 - band.q0;
    for (int64_t p = band.p0; p < band.p1; p += kRows) {
      for (int64_t q = 0; q < width; q += kVectors * V::kLanes) {
        V acc[kRows][kVectors];
#pragma GCC unroll 16
        for (int t = 0; t < kRows; ++t)
#pragma GCC unroll 16
          for (int j = 0; j < kVectors; ++j) acc[t][j] = initial;
        for (int64_t r = 0; r < R + kRows - 1; ++r) {
          const Acc* row = source.row(plan.first_row(p) + r, 0);
          if (!row) continue;
          const Acc* w = source.filter + r * S;
          if (r < kRows - 1) {
            meet_some<kRows - 1>(kRows - 1 - r, true, row + q, w, S, acc);
          } else if (r >= R) {
            meet_some<kRows - 1>(r - R + 1, false, row + q, w, S, acc);
          } else {
            meet<0, kRows - 1>(row + q, w, S, acc);
          }
        }
#pragma GCC unroll 16
        for (int t = 0; t < kRows; ++t) {
          V out[kVectors];
#pragma GCC unroll 16
          for (int j = 0; j < kVectors; ++j) out[j] = acc[t][j];
          if (p + t < band.p1)
            epilogue.template finish<1, kVectors>(out, {band.n, band.k, p + t, band.q0 + q, 1, kVectors, width - q});
        }
      }
    }
  }
};

template <class Acc>
bool wants_filter(const Plan<Acc>& plan) {
  return plan.R >= 6 && plan.stride_h == 1 && plan.stride_w == 1 && plan.dilation_h == 1 && plan.dilation_w == 1 &&
         plan.collect == 1 && plan.insert_h == 1 && plan.insert_w == 1;
}

template <class Acc>
using PlaneFunction = void (*)(const Plan<Acc>&, const LaneEpilogue<Acc>&, const Staged<Acc>&, const PlaneBand&);

template <class Acc>
PlaneFunction<Acc> choose_large_tile(const Plan<Acc>& plan) {
  constexpr bool kWide = kTileRows >= 12;  // 32 registers
  constexpr int64_t kLanes = Vec<Acc>::kLanes;
  if (plan.Q <= kLanes && plan.R >= 14) return LargePlaneTile < Acc, kWide ? 14 : 8, 1 > ::run;
  if (plan.Q <= 2 * kLanes && plan.R >= 8) return LargePlaneTile < Acc, kWide ? 8 : 4, 2 > ::run;
  return kWide ? LargePlaneTile<Acc, 4, 4>::run : LargePlaneTile<Acc, 2, 4>::run;
}

template <class Acc>
PlaneFunction<Acc> choose_plane_tile(const Plan<Acc>& plan) {
  if constexpr (sizeof(Acc) == 4) {
    const bool square = plan.R == plan.S && plan.stride_h == plan.stride_w && plan.stride_h <= 2;
    if (square && plan.dilation_h == 1 && plan.dilation_w == 1 && plan.collect == 1) {
      if (plan.R == 3) return plan.stride_h == 1 ? FixedPlaneTile<Acc, 3, 1>::run : FixedPlaneTile<Acc, 3, 2>::run;
      if (plan.R == 5) return plan.stride_h == 1 ? FixedPlaneTile<Acc, 5, 1>::run : FixedPlaneTile<Acc, 5, 2>::run;
    }
  }
  if (wants_filter(plan)) return choose_large_tile<Acc>(plan);
  return AnyPlaneTile<Acc>::run;
}

// Units are (image, source channel, band of rows, block of columns); a unit makes all `spread` output channels of its
// source channel.
template <class Acc>
void run_planes(const Plan<Acc>& plan, const EpilogueArgs& args, const CallContext& ctx) {
  constexpr int64_t kLanes = Vec<Acc>::kLanes, kBytes = sizeof(Acc);
  const LaneEpilogue<Acc> epilogue(args, plan.y, kColumnLanes, *ctx.workspace);
  const PlaneFunction<Acc> run = choose_plane_tile(plan);
  const int64_t phases = plan.stride_w, planes = plan.K / plan.spread;
  // A band should stay in L1 (here 24 KiB of it), whole rows where the filter's rows of them fit the scratch.
  const auto pitch_of = [&](int64_t width) {
    return round_up(round_up(width, kLanes) + (plan.span_w() - 1) / phases, kLanes);
  };
  int64_t width = plan.Q;
  while (width > kLanes && (plan.span_h() * plan.collect + 1) * phases * pitch_of(width) * kBytes > 2 * kScratchBytes) {
    width = ceil_div(width, 2);
  }
  const int64_t pitch = pitch_of(width), row_elements = phases * pitch, across = ceil_div(plan.Q, width);
  const int64_t fit = max(24 << 10, 4 * plan.span_h() * row_elements * kBytes) / (plan.collect * row_elements * kBytes);
  const int64_t strips = plan.N * planes * across;
  const int64_t share = ceil_div(plan.P, ceil_div(2 * thread_pool().threads(), strips));
  const int64_t height = max(1, min(share, (fit - plan.span_h()) / plan.stride_h + 1)),
                bands = ceil_div(plan.P, height);
  const int64_t rows = ceil_div((height - 1) * plan.stride_h + plan.span_h(), plan.insert_h) + 1;
  const int64_t plane_elements = rows * row_elements;
  // The first column of the image lies on a cache line: stores that cross lines would cost as much as the filter.
  const int64_t before = max(0, plan.pad_left) / phases, lead = round_up(before, kLanes) - before;
  const int64_t filter_at = lead + plan.collect * plane_elements, taps = wants_filter(plan) ? plan.taps() : 0;
  const int64_t scratch_elements = filter_at + taps;
  run_in_slots(
      ctx, strips * bands, work_of(plan), scratch_elements * kBytes, [&](void* scratch, int64_t begin, int64_t end) {
        Acc* staged = static_cast<Acc*>(scratch) + lead;
        for (int64_t unit = begin; unit < end; ++unit) {
          const int64_t strip = unit / bands, p0 = unit % bands * height, p1 = min(plan.P, p0 + height);
          const int64_t q0 = strip % across * width, q1 = min(plan.Q, q0 + width);
          const int64_t n = strip / across / planes, k0 = strip / across % planes * plan.spread;
          const int64_t top = plan.first_row(p0), bottom = plan.first_row(p1 - 1) + plan.span_h();
          const int64_t h0 = min(plan.H, ceil_div(max(0, top), plan.insert_h));
          const int64_t h1 = max(h0, min(plan.H, ceil_div(max(0, bottom), plan.insert_h)));
          if (unit == begin || across > 1) __builtin_memset(scratch, 0, scratch_elements * kBytes);
          visit_storage<Acc>(plan.x.dtype, [&](auto tag) {
            using T = typename decltype(tag)::type;
            for (int64_t m = 0; m < plan.collect; ++m) {
              const T* in = plan.x.template as<const T>() + plan.x.offset(n, plan.source_channel(k0, m), h0, 0);
              Acc* out = staged + m * plane_elements;
              for (int64_t h = h0; h < h1; ++h, in += plan.x.stride[2], out += row_elements) {
                stage_row(in, plan.x.stride[3], plan.W, plan.insert_w, plan.first_column(q0), phases, pitch, out);
              }
            }
          });
          Acc* filter = static_cast<Acc*>(scratch) + filter_at;
          const Staged<Acc> source{staged, pitch, phases, plane_elements, h0, h1, plan.insert_h, filter};
          for (int64_t k = k0; k < k0 + plan.spread; ++k) {
            const Acc* w = plan.weights + k / kBlock<Acc> * plan.taps() * kBlock<Acc> + k % kBlock<Acc>;
            for (int64_t tap = 0; tap < taps; ++tap) filter[tap] = w[tap * kBlock<Acc>];
            run(plan, epilogue, source, {n, k, p0, p1, q0, q1});
          }
        }
      });
}

}  // namespace fastconv::cpu::FASTCONV_ISA::depthwise
