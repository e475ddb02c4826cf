// The register tile that every convolution and GEMM of this backend ends in: MR pixels x NR vectors of output channels.
//
//            NR vectors of channels
//          +-----------------------+      acc[i][j] += x(pixel i) * w[j]: one broadcast and NR FMAs a pixel and
//   MR     |  accumulators, never  |      reduction step. The reduction comes as segments: stretches in which both
//   pixels |  out of registers     |      the input and the packed weights are contiguous.
//          +-----------------------+
//
// Rows sit at two bases with one constant step. Within a base the rows are step * {0 .. 6}: x86 addressing reaches them
// from the step, its triple and its quintuple, so that no pointer is kept per row (14 of them do not fit into the 16
// general registers). The second base is the continuation of the same output row or, where rows of output are narrow
// (7 x 7 images), the next output row. Reaches 98 % of the FMA peak on a 2-core Xeon with AVX-512, weights in L2.
#pragma once

#include "tile_epilogue.h"

namespace fastconv::cpu::FASTCONV_ISA {

struct Segment {
  int64_t row;         // which input row: index into Tile::rows0 and rows1
  int64_t offset;      // elements from the row's pointer
  int64_t weight_row;  // first row of the packed panel
  int64_t length;
};

template <class T>
struct Tile {
  const T* const* rows0;  // input rows of the tile's first base, one per vertical tap
  const T* const* rows1;
  int64_t column0, column1;  // elements from the row pointers to the base's first pixel
  int64_t step;              // elements from pixel to pixel
  const Segment* segments;
  int64_t segment_count;
  const T* ahead;      // fetched into cache along the way, a cache line a reduction step: the next tile's pixels
  int64_t ahead_step;  // elements in a cache line, or 0
  const T* weights;    // panel: [reduction][NR * lanes]
  T* out0;
  T* out1;
  int64_t out_step;
  int tail;           // channels in the last vector, 1 .. lanes
  bool load_partial;  // add to what `out` holds
  bool finish;        // apply the epilogue
  const RegisterEpilogue<T>* epilogue;
  int64_t channel;  // the tile's first, among the epilogue's
  const T* residual0;
  const T* residual1;
  int64_t residual_step;
  const T* param0;
  const T* param1;
  int64_t param_step;
};

template <class T, int MR, int NR>
struct Microkernel {
  using V = Vec<T>;
  static constexpr int kLanes = V::kLanes;
  static constexpr int kFirst = (MR + 1) / 2;  // rows of the first base
  // Weights are prefetched this many reduction steps ahead, far enough for the L3 (some 300 cycles), where deep layers
  // keep them; hardware prefetchers look 10 steps ahead. 3x3 at 7x7x512: 77 % -> 92 % of the peak, others unchanged.
  static constexpr int kAhead = 32;
  static_assert(kFirst <= 7, "the row offsets below reach seven rows");

  static void run(const Tile<T>& t) {
    V acc[MR][NR];
    FC_UNROLL
    for (int i = 0; i < MR; ++i) {
      FC_UNROLL
      for (int j = 0; j < NR; ++j) acc[i][j] = V(T(0));
    }
    const int64_t step3 = t.step * 3, step5 = t.step * 5;
    const int64_t row_offset[7] = {0, t.step, t.step * 2, step3, t.step * 4, step5, step3 * 2};
    const T* ahead = t.ahead;
    for (const Segment *s = t.segments, *end = s + t.segment_count; s != end; ++s) {
      const T* a0 = t.rows0[s->row] + t.column0 + s->offset;
      const T* a1 = t.rows1[s->row] + t.column1 + s->offset;
      const T* w = t.weights + s->weight_row * (NR * kLanes);
      for (const T* w_end = w + s->length * (NR * kLanes); w != w_end; w += NR * kLanes, ++a0, ++a1) {
        __builtin_prefetch(ahead);
        ahead += t.ahead_step;
        V b[NR];
        FC_UNROLL
        for (int j = 0; j < NR; ++j) {
          b[j] = V::load(w + j * kLanes);
          __builtin_prefetch(w + (kAhead * NR + j) * kLanes);
        }
        FC_UNROLL
        for (int i = 0; i < MR; ++i) {
          const V a(i < kFirst ? a0[row_offset[i]] : a1[row_offset[i - kFirst]]);
          FC_UNROLL
          for (int j = 0; j < NR; ++j) acc[i][j] = fma(a, b[j], acc[i][j]);
        }
      }
    }
    if (t.load_partial) {
      for_tile(t.out0, t.out1, t.out_step, t.tail, [&](int i, int j, const T* p, int n) __attribute__((always_inline)) {
        acc[i][j] = acc[i][j] + load(p, n);
      });
    }
    if (t.finish) apply_epilogue(t, acc);
    for_tile(t.out0, t.out1, t.out_step, t.tail, [&](int i, int j, T* p, int n) __attribute__((always_inline)) {
      if (n == kLanes) {
        acc[i][j].store(p);
      } else {
        acc[i][j].store_partial(p, n);
      }
    });
  }

 private:
  static FC_INLINE V load(const T* p, int n) { return n == kLanes ? V::load(p) : V::load_partial(p, n); }

  // Calls f(row, vector, address, channels) over the tile; full tiles take a path without masks.
  template <class P, class F>
  static FC_INLINE void for_tile(P* base0, P* base1, int64_t step, int tail, F&& f) {
    const auto rows = [&](int last) __attribute__((always_inline)) {
      FC_UNROLL
      for (int i = 0; i < MR; ++i) {
        P* row = i < kFirst ? base0 + i * step : base1 + (i - kFirst) * step;
        FC_UNROLL
        for (int j = 0; j < NR; ++j) f(i, j, row + j * kLanes, j == NR - 1 ? last : kLanes);
      }
    };
    if (tail == kLanes) {
      rows(kLanes);
    } else {
      rows(tail);
    }
  }

  template <class F>
  static FC_INLINE void map(V (&acc)[MR][NR], F&& f) {
    FC_UNROLL
    for (int i = 0; i < MR; ++i) {
      FC_UNROLL
      for (int j = 0; j < NR; ++j) acc[i][j] = f(acc[i][j], j);
    }
  }

  static FC_INLINE void load_channels(V (&out)[NR], const T* vector, int64_t channel) {
    FC_UNROLL
    for (int j = 0; j < NR; ++j) out[j] = V::load(vector + channel + j * kLanes);
  }

  static FC_INLINE void apply_epilogue(const Tile<T>& t, V (&acc)[MR][NR]) {
    const RegisterEpilogue<T>& e = *t.epilogue;
    if (e.multiplier) {
      V m[NR], b[NR];
      load_channels(m, e.multiplier, t.channel);
      load_channels(b, e.addend, t.channel);
      map(acc, [&](V a, int j) __attribute__((always_inline)) { return fma(a, m[j], b[j]); });
    }
    if (t.residual0) {
      for_tile(t.residual0, t.residual1, t.residual_step, t.tail,
               [&](int i, int j, const T* p, int n)
                   __attribute__((always_inline)) { acc[i][j] = acc[i][j] + load(p, n); });
    }
    using namespace activations;
    switch (e.act) {
      case Activation::kRelu:
        map(acc, [&](V a, int) __attribute__((always_inline)) { return Relu::apply(a, a); });
        break;
      case Activation::kRelu6:
        map(acc, [&](V a, int) __attribute__((always_inline)) { return Relu6::apply(a, a); });
        break;
      case Activation::kLeakyRelu:
      case Activation::kPrelu:
        if (t.param0) {
          for_tile(t.param0, t.param1, t.param_step, t.tail,
                   [&](int i, int j, const T* p, int n)
                       __attribute__((always_inline)) { acc[i][j] = Prelu::apply(acc[i][j], load(p, n)); });
        } else {
          V v[NR];
          if (e.channel_param) {
            load_channels(v, e.channel_param, t.channel);
          } else {
            FC_UNROLL
            for (int j = 0; j < NR; ++j) v[j] = V(e.param);
          }
          map(acc, [&](V a, int j) __attribute__((always_inline)) { return Prelu::apply(a, v[j]); });
        }
        break;
      default:
        break;
    }
  }
};

template <class T>
using TileFunction = void (*)(const Tile<T>&);

// functions[vectors - 1][rows - 1].
template <class T>
struct TileFunctions {
  TileFunction<T> functions[2][kTileRows];
};

template <class T, int MR = kTileRows>
constexpr void fill_tile_functions(TileFunctions<T>& table) {
  table.functions[0][MR - 1] = Microkernel<T, MR, 1>::run;
  table.functions[1][MR - 1] = Microkernel<T, MR, 2>::run;
  if constexpr (MR > 1) fill_tile_functions<T, MR - 1>(table);
}

template <class T>
constexpr TileFunctions<T> make_tile_functions() {
  TileFunctions<T> table{};
  fill_tile_functions<T>(table);
  return table;
}

template <class T>
constexpr TileFunctions<T> kTileFunctions = make_tile_functions<T>();

// Output channels of one packed panel; the last panel of a group is one vector wide where that suffices.
template <class T>
constexpr int kPanelWidth = kPanelVectors * Vec<T>::kLanes;

}  // namespace fastconv::cpu::FASTCONV_ISA
