// The bfloat16 kernel on VDPBF16PS: one tile of at most 14 pixels x two blocks of 16 filters in 28 registers; pairs of
// channels are broadcast from the pixels.
#pragma once

#include <immintrin.h>

#include "bf16_tile.h"

namespace fastconv::cpu::FASTCONV_ISA::bf16 {

struct TileEngine {
  static constexpr int64_t kRows = 14;
  static constexpr int64_t kTiles = 1;
  static constexpr int64_t kPitch = 32;
  static constexpr bool kSlices = false;  // its filters pass by at the speed of L2

  explicit TileEngine(int64_t rows, int64_t) : rows_(rows) {}
  TileEngine(const TileEngine&) = delete;

  template <int kPixels, int kBlocks>
  static __attribute__((noinline)) void run(const TileArgs& t) {
    __m512 sums[kPixels][kBlocks];
#pragma GCC unroll 16
    for (int i = 0; i < kPixels; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < kBlocks; ++j) sums[i][j] = _mm512_setzero_ps();
    const char *b0 = t.filters[0], *b1 = t.filters[1];
    const int64_t step = t.pixel_step, pairs = t.channels / 2;
    for (int64_t s = 0; s < t.steps; ++s) {
      const char* a = t.pixels[0] + t.offsets[s];
      for (int64_t pair = 0; pair < pairs; ++pair, a += 4, b0 += 64, b1 += 64) {
        __m512bh b[kBlocks];
        b[0] = (__m512bh)_mm512_loadu_si512(b0);
        if constexpr (kBlocks > 1) b[1] = (__m512bh)_mm512_loadu_si512(b1);
        // Three pixels from each base: address forms with the step and twice the step as an index.
        const char* row = a;
#pragma GCC unroll 16
        for (int i = 0; i < kPixels; ++i) {
          if (i > 0 && i % 3 == 0) row += 3 * step;
          int both;
          __builtin_memcpy(&both, row + i % 3 * step, sizeof both);
          const __m512bh pixel = (__m512bh)_mm512_set1_epi32(both);
#pragma GCC unroll 2
          for (int j = 0; j < kBlocks; ++j) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], pixel, b[j]);
        }
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kPixels; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < kBlocks; ++j) _mm512_storeu_ps(t.sums + i * kPitch + j * 16, sums[i][j]);
  }

  void multiply(int64_t, int64_t blocks, const TileArgs& t) const { kFunctions[blocks > 1][rows_ - 1](t); }
  void store(int64_t, int64_t, float*) const {}  // done by then

 private:
  using Function = void (*)(const TileArgs&);
  static constexpr Function kFunctions[2][kRows] = {
      {run<1, 1>, run<2, 1>, run<3, 1>, run<4, 1>, run<5, 1>, run<6, 1>, run<7, 1>, run<8, 1>, run<9, 1>, run<10, 1>,
       run<11, 1>, run<12, 1>, run<13, 1>, run<14, 1>},
      {run<1, 2>, run<2, 2>, run<3, 2>, run<4, 2>, run<5, 2>, run<6, 2>, run<7, 2>, run<8, 2>, run<9, 2>, run<10, 2>,
       run<11, 2>, run<12, 2>, run<13, 2>, run<14, 2>}};

  int64_t rows_;
};

}  // namespace fastconv::cpu::FASTCONV_ISA::bf16
