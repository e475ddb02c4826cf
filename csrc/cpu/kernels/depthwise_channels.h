// Depthwise convolution with vectors along channels: NHWC. A tile is kRows x 4 pixels of one vector of channels; the
// kernel walks the tile's *input* rows, loads each input vector once and feeds it to every output row that it touches:
//
//   input row i -> x[0..IW) in registers -> for each output row t with 0 <= r = i - t * stride < R:
//                                             acc[t][j] += x[j * stride + s] * w[r][s]
//
// 3x3 stride 1: 24 + 18 loads for 72 FMAs. Rows outside the image are skipped, columns outside are zero vectors, in the
// first and last tile of a row only. Sources that are not float32/float64 with dense channels are first staged, band by
// band, as zero-padded rows of the accumulate type; then no tile sees a border.
//
// Measured (2 threads of an AVX-512 Xeon, float32): 3x3 from 56 x 56 up at 0.85-0.98 of a copy's bandwidth; 5x5 on
// 28 x 28 at 190 GFLOP/s, about three quarters of the FMA peak.
#pragma once

#include "depthwise_plan.h"

namespace fastconv::cpu::FASTCONV_ISA::depthwise {

// Where a band reads: element (row, virtual column, channel) lies at base + (row - row_lo) * row_pitch + (column -
// column_base) * pixel_pitch + (channel - channel_base).
template <class Acc>
struct Pixels {
  const Acc* base;
  int64_t row_pitch, pixel_pitch, collect_pitch;
  int64_t row_lo, row_hi;        // source rows present
  int64_t column_lo, column_hi;  // virtual columns present
  int64_t column_base, channel_base;
  int64_t insert_h;
  // Where rows lie in a ring: how many it holds, and the place of row_lo.
  int64_t ring_rows = INT64_MAX, ring_first = 0;

  // Virtual row u, or null where there are only zeros.
  FC_INLINE const Acc* row(int64_t u, int64_t m) const {
    if (insert_h != 1) {
      if (u % insert_h != 0) return nullptr;
      u /= insert_h;
    }
    if (u < row_lo || u >= row_hi) return nullptr;
    int64_t place = u - row_lo + ring_first;
    if (place >= ring_rows) place -= ring_rows;
    return base + place * row_pitch + m * collect_pitch - channel_base;
  }
};

struct Band {
  int64_t n, p0, p1, q0, q1, k0, k1;
};

template <class Acc, int kR, int kStride>
struct FixedTile {
  using V = Vec<Acc>;
  static constexpr int kS = kR;
  static constexpr int kColumns = 4;
  static constexpr int kInputColumns = (kColumns - 1) * kStride + kS;
  // Two output rows where accumulators, one input row and a weight fit the registers (16 but on AVX-512 and arm64).
#if defined(__AVX512F__) || defined(__aarch64__)
  static constexpr int kRows = 2;
#else
  static constexpr int kRows = kInputColumns <= 6 ? 2 : 1;
#endif
  static constexpr int kInputRows = (kRows - 1) * kStride + kR;

  // rows[i] + j * pixel: input of the tile; columns [lo, hi) and `lanes` channels of it exist. kCareful = false: all
  // do.
  template <bool kCareful>
  static FC_INLINE void accumulate(const Acc* const (&rows)[kInputRows], int64_t offset, int64_t pixel, int lo, int hi,
                                   int64_t lanes, const Acc* w, V initial, V (&acc)[kRows * kColumns]) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows * kColumns; ++i) acc[i] = initial;
#pragma GCC unroll 16
    for (int i = 0; i < kInputRows; ++i) {
      if (!rows[i]) continue;
      const Acc* row = rows[i] + offset;
      V x[kInputColumns];
#pragma GCC unroll 16
      for (int j = 0; j < kInputColumns; ++j) {
        if constexpr (kCareful) {
          x[j] = V::load_partial(row + j * pixel, j >= lo && j < hi ? lanes : 0);
        } else {
          x[j] = V::load(row + j * pixel);
        }
      }
#pragma GCC unroll 16
      for (int t = 0; t < kRows; ++t) {
        const int r = i - t * kStride;
        if (r < 0 || r >= kR) continue;
#pragma GCC unroll 16
        for (int s = 0; s < kS; ++s) {
          const V weight = V::load(w + (r * kS + s) * kBlock<Acc>);
#pragma GCC unroll 16
          for (int j = 0; j < kColumns; ++j) {
            acc[t * kColumns + j] = fma(x[j * kStride + s], weight, acc[t * kColumns + j]);
          }
        }
      }
    }
  }

  static void run(const Plan<Acc>& plan, const LaneEpilogue<Acc>& epilogue, const Pixels<Acc>& source,
                  const Band& band) {
    const int64_t pixel = source.pixel_pitch, taps = kR * kS;
    for (int64_t p = band.p0; p < band.p1; p += kRows) {
      const int tile_rows = static_cast<int>(min(kRows, band.p1 - p));
      const Acc* rows[kInputRows];
      for (int i = 0; i < kInputRows; ++i) rows[i] = source.row(plan.first_row(p) + i, 0);
      for (int64_t q = band.q0; q < band.q1; q += kColumns) {
        const int tile_columns = static_cast<int>(min(kColumns, band.q1 - q));
        const int64_t u = plan.first_column(q), at = (u - source.column_base) * pixel;
        const int lo = static_cast<int>(max(0, source.column_lo - u));
        const int hi = static_cast<int>(max(0, min(kInputColumns, source.column_hi - u)));
        const bool inside = lo == 0 && hi == kInputColumns;
        for (int64_t k = band.k0; k < band.k1; k += V::kLanes) {
          const int64_t lanes = band.k1 - k;
          const Acc* w = plan.weights + k / kBlock<Acc> * taps * kBlock<Acc> + k % kBlock<Acc>;
          const V initial = epilogue.initial(k);
          V acc[kRows * kColumns];
          if (inside && lanes >= V::kLanes) {
            accumulate<false>(rows, at + k, pixel, 0, kInputColumns, V::kLanes, w, initial, acc);
          } else {
            accumulate<true>(rows, at + k, pixel, lo, hi, lanes, w, initial, acc);
          }
          const TileAt to{band.n, k, p, q, tile_rows, tile_columns, lanes};
          epilogue.template finish<kRows, kColumns>(acc, to);
        }
      }
    }
  }
};

// Any filter, stride and dilation: kColumns pixels of one vector of channels, taps in run-time loops clamped to the
// source. Eight pixels where all columns of all of them exist, single pixels elsewhere.
template <class Acc>
struct AnyTile {
  using V = Vec<Acc>;
  static constexpr int kWide = 8;

  template <int kColumns>
  static FC_INLINE void pixels(const Plan<Acc>& plan, const LaneEpilogue<Acc>& epilogue, const Pixels<Acc>& source,
                               const Band& band, int64_t p, int64_t q) {
    const int64_t u = plan.first_column(q), step = plan.stride_w * source.pixel_pitch;
    const int64_t s0 = u >= source.column_lo ? 0 : ceil_div(source.column_lo - u, plan.dilation_w);
    const int64_t s1 = u >= source.column_hi ? 0 : min(plan.S, ceil_div(source.column_hi - u, plan.dilation_w));
    for (int64_t k = band.k0; k < band.k1; k += V::kLanes) {
      const int64_t lanes = min(band.k1 - k, V::kLanes);
      const V initial = epilogue.initial(k);
      V acc[kColumns];
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) acc[j] = initial;
      for (int64_t m = 0; m < plan.collect; ++m) {
        const Acc* block =
            plan.weights + (m * plan.padded_channels() + k) / kBlock<Acc> * plan.taps() * kBlock<Acc> + k % kBlock<Acc>;
        for (int64_t r = 0; r < plan.R; ++r) {
          const Acc* row = source.row(plan.first_row(p) + r * plan.dilation_h, m);
          if (!row) continue;
          const Acc* w = block + (r * plan.S + s0) * kBlock<Acc>;
          for (int64_t s = s0; s < s1; ++s, w += kBlock<Acc>) {
            const Acc* x = row + (u + s * plan.dilation_w - source.column_base) * source.pixel_pitch + k;
            const V weight = V::load(w);
#pragma GCC unroll 8
            for (int j = 0; j < kColumns; ++j) {
              const V value = lanes == V::kLanes ? V::load(x + j * step) : V::load_partial(x + j * step, lanes);
              acc[j] = fma(value, weight, acc[j]);
            }
          }
        }
      }
      const TileAt to{band.n, k, p, q, 1, kColumns, lanes};
      epilogue.template finish<1, kColumns>(acc, to);
    }
  }

  static void run(const Plan<Acc>& plan, const LaneEpilogue<Acc>& epilogue, const Pixels<Acc>& source,
                  const Band& band) {
    for (int64_t p = band.p0; p < band.p1; ++p) {
      for (int64_t q = band.q0; q < band.q1;) {
        const int64_t first = plan.first_column(q);
        const int64_t last = first + (kWide - 1) * plan.stride_w + plan.span_w() - 1;
        if (q + kWide <= band.q1 && first >= source.column_lo && last < source.column_hi) {
          pixels<kWide>(plan, epilogue, source, band, p, q);
          q += kWide;
        } else {
          pixels<1>(plan, epilogue, source, band, p, q++);
        }
      }
    }
  }
};

// Copies virtual columns [u0, u0 + columns) of the source rows [h0, h1), the band's channels, into dense rows of the
// accumulate type, `pitch` channels a pixel, with zeros between and around: [collect][row][column][pitch].
template <class Acc>
void stage_pixels(const Plan<Acc>& plan, const Band& band, int64_t h0, int64_t h1, int64_t u0, int64_t columns,
                  int64_t pitch, Acc* out) {
  visit_storage<Acc>(plan.x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using V = Vec<Acc>;
    const int64_t count = band.k1 - band.k0, stride = plan.x.stride[1];
    for (int64_t m = 0; m < plan.collect; ++m) {
      for (int64_t h = h0; h < h1; ++h) {
        const T* row = plan.x.template as<const T>() + plan.x.offset(band.n, 0, h, 0);
        int64_t next = -1, w = -1;  // the next virtual column with a source column, and that one
        for (int64_t j = 0; j < columns; ++j, out += pitch) {
          const int64_t u = u0 + j;
          if (u >= 0 && next < u) w = ceil_div(u, plan.insert_w), next = w * plan.insert_w;
          if (u < 0 || u != next || w >= plan.W) {
            for (int64_t i = 0; i < count; ++i) out[i] = 0;
            continue;
          }
          const T* in = row + w * plan.x.stride[3];
          if (plan.spread == 1 && plan.collect == 1 && stride == 1) {
            for (int64_t i = 0; i < count; i += V::kLanes) {
              store_lanes(load_lanes(in + band.k0 + i, 1, count - i), out + i, 1, count - i);
            }
          } else {
            for (int64_t i = 0; i < count; ++i) {
              out[i] = to_accumulate(in[plan.source_channel(band.k0 + i, m) * stride]);
            }
          }
          if (plan.insert_w == 1) ++w, ++next;
        }
      }
    }
  });
}

template <class Acc>
using BandFunction = void (*)(const Plan<Acc>&, const LaneEpilogue<Acc>&, const Pixels<Acc>&, const Band&);

// Float only: float64 serves gradient checks, where the general tile is enough.
template <class Acc>
BandFunction<Acc> choose_channel_tile(const Plan<Acc>& plan) {
  if constexpr (sizeof(Acc) == 4) {
    const bool square = plan.R == plan.S && plan.stride_h == plan.stride_w && plan.stride_h <= 2;
    if (square && plan.dilation_h == 1 && plan.dilation_w == 1 && plan.collect == 1) {
      if (plan.R == 3) return plan.stride_h == 1 ? FixedTile<Acc, 3, 1>::run : FixedTile<Acc, 3, 2>::run;
      if (plan.R == 5) return plan.stride_h == 1 ? FixedTile<Acc, 5, 1>::run : FixedTile<Acc, 5, 2>::run;
    }
  }
  return AnyTile<Acc>::run;
}

// x as it lies: units are (image, chunk of channels, pair of rows), the last fastest, so that a thread's rows follow
// each other. Channels are split only where there are too few rows to go round: whole rows stream, while chunks that
// keep the filter's rows in L1 doubled the time at 112 x 112 x 32 (Xeon with AVX-512, 2 threads: 56 -> 121 us).
template <class Acc>
void run_channels_direct(const Plan<Acc>& plan, const LaneEpilogue<Acc>& epilogue, const CallContext& ctx) {
  const BandFunction<Acc> run = choose_channel_tile(plan);
  const int64_t pairs = ceil_div(plan.P, 2), blocks = ceil_div(plan.K, kBlock<Acc>);
  const int64_t wanted = ceil_div(8 * thread_pool().threads(), plan.N * pairs);
  const int64_t chunk = ceil_div(blocks, min(blocks, wanted)) * kBlock<Acc>, chunks = ceil_div(plan.K, chunk);
  run_in_slots(ctx, plan.N * chunks * pairs, work_of(plan), 0, [&](void*, int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end;) {
      const int64_t pair = unit % pairs, n = unit / pairs / chunks, k0 = unit / pairs % chunks * chunk;
      const int64_t count = min(end - unit, pairs - pair);
      const Pixels<Acc> source{plan.x.template as<const Acc>() + n * plan.x.stride[0],
                               plan.x.stride[2],
                               plan.x.stride[3],
                               0,
                               0,
                               plan.H,
                               0,
                               plan.W,
                               0,
                               0,
                               1};
      const Band band{n, 2 * pair, min(plan.P, 2 * (pair + count)), 0, plan.Q, k0, min(plan.K, k0 + chunk)};
      run(plan, epilogue, source, band);
      unit += count;
    }
  });
}

// Through scratch: units are (image, chunk of channels, band of rows, block of columns).
template <class Acc>
void run_channels_staged(const Plan<Acc>& plan, const LaneEpilogue<Acc>& epilogue, const CallContext& ctx) {
  const BandFunction<Acc> run = choose_channel_tile(plan);
  constexpr int64_t kBudget = 2 * kScratchBytes;
  // Whole rows, but for images so wide that the filter's rows of two blocks of channels do not fit.
  const int64_t element = plan.collect * int64_t{sizeof(Acc)}, least = 2 * kBlock<Acc> * element;
  const int64_t width =
      max(AnyTile<Acc>::kWide, min(round_up(plan.Q, AnyTile<Acc>::kWide),
                                   (kBudget / (plan.span_h() * least) - plan.span_w()) / plan.stride_w / 8 * 8));
  const int64_t columns = (width - 1) * plan.stride_w + plan.span_w();
  // As many channels as leave room for bands of six output rows: sources stream best in whole pixels.
  const int64_t room = kBudget / ((plan.span_h() + 5 * plan.stride_h) * columns * element) / kBlock<Acc> * kBlock<Acc>;
  const int64_t chunk = min(max(2 * kBlock<Acc>, room), plan.padded_channels()), chunks = ceil_div(plan.K, chunk);
  const int64_t column_bytes = chunk * element, row_elements = columns * chunk;
  const int64_t fit = kBudget / (columns * column_bytes) - plan.span_h();
  const int64_t across = ceil_div(plan.Q, width), strips = plan.N * chunks * across;
  const int64_t share = ceil_div(plan.P, ceil_div(2 * thread_pool().threads(), strips));
  const int64_t height = max(1, min(fit / plan.stride_h + 1, share)), bands = ceil_div(plan.P, height);
  const int64_t rows = ceil_div((height - 1) * plan.stride_h + plan.span_h(), plan.insert_h) + 1;
  run_in_slots(
      ctx, strips * bands, work_of(plan), rows * columns * column_bytes,
      [&](void* scratch, int64_t begin, int64_t end) {
        Acc* staged = static_cast<Acc*>(scratch);
        for (int64_t unit = begin; unit < end; ++unit) {
          const int64_t strip = unit / bands, p0 = unit % bands * height, q0 = strip % across * width;
          const int64_t k0 = strip / across % chunks * chunk;
          const Band band{strip / across / chunks, p0, min(plan.P, p0 + height), q0,
                          min(plan.Q, q0 + width), k0, min(plan.K, k0 + chunk)};
          const int64_t top = plan.first_row(p0), bottom = plan.first_row(band.p1 - 1) + plan.span_h();
          const int64_t h0 = min(plan.H, ceil_div(max(0, top), plan.insert_h));
          const int64_t h1 = max(h0, min(plan.H, ceil_div(max(0, bottom), plan.insert_h)));
          const int64_t u0 = plan.first_column(q0);
          stage_pixels(plan, band, h0, h1, u0, columns, chunk, staged);
          run(plan, epilogue,
              {staged, row_elements, chunk, (h1 - h0) * row_elements, h0, h1, u0, u0 + columns, u0, k0, plan.insert_h},
              band);
        }
      });
}

template <class Acc>
void run_channels(const Plan<Acc>& plan, const EpilogueArgs& args, const CallContext& ctx) {
  const LaneEpilogue<Acc> epilogue(args, plan.y, kChannelLanes, *ctx.workspace);
  const bool direct = dtype_size(plan.x.dtype) == sizeof(Acc) && plan.x.stride[1] == 1 && plan.spread == 1 &&
                      plan.collect == 1 && plan.insert_h == 1 && plan.insert_w == 1;
  direct ? run_channels_direct(plan, epilogue, ctx) : run_channels_staged(plan, epilogue, ctx);
}

}  // namespace fastconv::cpu::FASTCONV_ISA::depthwise
