// Products of few rows with a B that nobody has packed: every element of B is used once per row, so the time is that of
// reading B, and packing it would read it twice. B is swept in the order in which it lies; sums wait in scratch:
//
//   rows of B contiguous     eight of them at a time, added onto the sums of a stretch of columns (L1)
//   columns of B contiguous  four dot products at a time
#pragma once

#include "pack.h"

namespace fastconv::cpu::FASTCONV_ISA {

// Beyond, packing pays: these loops load a vector per FMA (half the peak), packing costs about 16 FMAs an element.
constexpr int64_t kFewRows = 16;

// sums[m][n] += for n in [n0, n1), B's rows contiguous. `a` is [M][K].
template <class Acc>
void sweep_rows(const Acc* a, const Acc* b, int64_t b_step, int64_t M, int64_t K, int64_t n0, int64_t n1, Acc* sums,
                int64_t sums_pitch) {
  using V = Vec<Acc>;
  constexpr int kAtOnce = 8;
  for (int64_t k = 0; k < K; k += kAtOnce) {
    const int64_t rows = K - k < kAtOnce ? K - k : kAtOnce;
    for (int64_t m = 0; m < M; ++m) {
      V factor[kAtOnce];
      for (int i = 0; i < kAtOnce; ++i) factor[i] = V(i < rows ? a[m * K + k + i] : Acc(0));
      Acc* sum = sums + m * sums_pitch;
      const Acc* row = b + k * b_step;
      int64_t n = n0;
      if (rows == kAtOnce) {
        for (; n + V::kLanes <= n1; n += V::kLanes) {
          V s(Acc(0));  // not the sum so far: shorter chains round less
#pragma GCC unroll 8
          for (int i = 0; i < kAtOnce; ++i) s = fma(factor[i], V::load(row + i * b_step + n), s);
          (V::load(sum + n) + s).store(sum + n);
        }
      }
      for (; n < n1; n += V::kLanes) {
        V s(Acc(0));
        for (int64_t i = 0; i < rows; ++i) s = fma(factor[i], V::load_partial(row + i * b_step + n, n1 - n), s);
        (V::load_partial(sum + n, n1 - n) + s).store_partial(sum + n, n1 - n);
      }
    }
  }
}

// The same with B's columns contiguous.
template <class Acc>
void sweep_columns(const Acc* a, const Acc* b, int64_t b_step, int64_t M, int64_t K, int64_t n0, int64_t n1, Acc* sums,
                   int64_t sums_pitch) {
  using V = Vec<Acc>;
  constexpr int kAtOnce = 4;
  for (int64_t n = n0; n < n1; n += kAtOnce) {
    const int64_t columns = n1 - n < kAtOnce ? n1 - n : kAtOnce;
    for (int64_t m = 0; m < M; ++m) {
      V s[kAtOnce];
      for (int j = 0; j < kAtOnce; ++j) s[j] = V(Acc(0));
      for (int64_t k = 0; k < K; k += V::kLanes) {
        const bool whole = k + V::kLanes <= K;
        const V factor = whole ? V::load(a + m * K + k) : V::load_partial(a + m * K + k, K - k);
#pragma GCC unroll 4
        for (int j = 0; j < kAtOnce; ++j) {
          const Acc* column = b + (n + (j < columns ? j : 0)) * b_step + k;
          s[j] = fma(factor, whole ? V::load(column) : V::load_partial(column, K - k), s[j]);
        }
      }
      for (int64_t j = 0; j < columns; ++j) sums[m * sums_pitch + n + j] = s[j].reduce_add();
    }
  }
}

// sums[m][n] = a * b for all columns, on all threads.
template <class Acc>
void few_rows(const Acc* a, const Acc* b, int64_t b_stride_k, int64_t b_stride_n, int64_t M, int64_t N, int64_t K,
              Acc* sums, int64_t pitch) {
  const bool rows = b_stride_n == 1;
  // Stretches of columns whose sums stay in L1; a thread's work is worth its start.
  const int64_t width = rows ? 1024 : 16, blocks = ceil_div(N, width);
  parallel_for(blocks, (1 << 16) / (width * K + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n0 = i * width, n1 = n0 + width < N ? n0 + width : N;
      if (!rows) {
        sweep_columns(a, b, b_stride_n, M, K, n0, n1, sums, pitch);
        continue;
      }
      for (int64_t m = 0; m < M; ++m)
        __builtin_memset(sums + m * pitch + n0, 0, static_cast<size_t>(n1 - n0) * sizeof(Acc));
      sweep_rows(a, b, b_stride_k, M, K, n0, n1, sums, pitch);
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
