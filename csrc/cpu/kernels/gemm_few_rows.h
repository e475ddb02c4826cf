// Products of few rows with a B that nobody has packed: every element of B is used once per row, so the time is that of
// reading B, and packing it would read it twice. B is swept in the order in which it lies:
//
//   rows of B contiguous     eight of them at a time, added onto the sums of a stretch of columns (L1)
//   columns of B contiguous  a panel of columns in pieces of 64 rows, transposed in L1
//
// Sums are those of the register tiles: chains of kChain FMAs along the reduction, added up in order. A row has the
// same bits whether it comes alone or among many, and whether B is packed or not.
#pragma once

#include "blocking.h"
#include "pack.h"

namespace fastconv::cpu::FASTCONV_ISA {

// Beyond, packing pays: these loops load a vector per FMA (half the peak), packing costs about 16 FMAs an element.
constexpr int64_t kFewRows = 16;

// sums[m][n] += for n in [0, columns), B's rows contiguous, one chain of `depth` rows. `a` is [M][a_pitch].
template <class Acc>
void sweep_rows(const Acc* a, int64_t a_pitch, const Acc* b, int64_t b_step, int64_t M, int64_t depth, int64_t columns,
                Acc* sums, int64_t sums_pitch) {
  using V = Vec<Acc>;
  constexpr int kAtOnce = 8;
  for (int64_t k = 0; k < depth; k += kAtOnce) {
    const int64_t rows = depth - k < kAtOnce ? depth - k : kAtOnce;
    for (int64_t m = 0; m < M; ++m) {
      V factor[kAtOnce];
      for (int i = 0; i < kAtOnce; ++i) factor[i] = V(i < rows ? a[m * a_pitch + k + i] : Acc(0));
      Acc* sum = sums + m * sums_pitch;
      const Acc* row = b + k * b_step;
      int64_t n = 0;
      if (rows == kAtOnce) {
        for (; n + V::kLanes <= columns; n += V::kLanes) {
          V s = V::load(sum + n);
#pragma GCC unroll 8
          for (int i = 0; i < kAtOnce; ++i) s = fma(factor[i], V::load(row + i * b_step + n), s);
          s.store(sum + n);
        }
      }
      for (; n < columns; n += V::kLanes) {
        V s = V::load_partial(sum + n, columns - n);
        for (int64_t i = 0; i < rows; ++i) s = fma(factor[i], V::load_partial(row + i * b_step + n, columns - n), s);
        s.store_partial(sum + n, columns - n);
      }
    }
  }
}

// totals[m][n] += chain[m][n], or = for the first.
template <class Acc>
void add_chain(const Acc* chain, int64_t chain_pitch, int64_t M, int64_t columns, bool first, Acc* totals,
               int64_t pitch) {
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t n = 0; n < columns; ++n) {
      const Acc sum = chain[m * chain_pitch + n];
      totals[m * pitch + n] = first ? sum : sum + totals[m * pitch + n];
    }
  }
}

// sums[m .. m + rows][0 .. 2 vectors] += a * piece, for a piece of `depth` reduction rows.
template <class Acc, int kRows, int kVectors>
FC_INLINE void add_piece(const Acc* a, int64_t a_pitch, const Acc* piece, int64_t depth, Acc* sums, int64_t pitch) {
  using V = Vec<Acc>;
  V s[kRows][kVectors];
  FC_UNROLL
  for (int i = 0; i < kRows; ++i) {
    FC_UNROLL
    for (int j = 0; j < kVectors; ++j) s[i][j] = V::load(sums + i * pitch + j * V::kLanes);
  }
  for (int64_t k = 0; k < depth; ++k) {
    V b[kVectors];
    FC_UNROLL
    for (int j = 0; j < kVectors; ++j) b[j] = V::load(piece + (k * kVectors + j) * V::kLanes);
    FC_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const V factor(a[i * a_pitch + k]);
      FC_UNROLL
      for (int j = 0; j < kVectors; ++j) s[i][j] = fma(factor, b[j], s[i][j]);
    }
  }
  FC_UNROLL
  for (int i = 0; i < kRows; ++i) {
    FC_UNROLL
    for (int j = 0; j < kVectors; ++j) s[i][j].store(sums + i * pitch + j * V::kLanes);
  }
}

// One chain with B's columns contiguous, for a panel of at most kVectors vectors of columns.
template <class Acc, int kVectors>
void sweep_panel(const Acc* a, int64_t a_pitch, const Acc* b, int64_t b_step, int64_t M, int64_t depth, int64_t columns,
                 Acc* sums, int64_t sums_pitch) {
  constexpr int64_t kWidth = kVectors * Vec<Acc>::kLanes, kDepth = 64;
  constexpr int kAtOnce = 4;  // rows: as many chains of FMAs as hide their latency
  alignas(64) Acc piece[kDepth * kWidth] = {};
  for (int64_t k = 0; k < depth; k += kDepth) {
    const int64_t rows = depth - k < kDepth ? depth - k : kDepth;
    load_pixels(b + k, 1, b_step, rows, columns, piece, kWidth);
    int64_t m = 0;
    for (; m + kAtOnce <= M; m += kAtOnce) {
      add_piece<Acc, kAtOnce, kVectors>(a + m * a_pitch + k, a_pitch, piece, rows, sums + m * sums_pitch, sums_pitch);
    }
    for (; m < M; ++m) {
      add_piece<Acc, 1, kVectors>(a + m * a_pitch + k, a_pitch, piece, rows, sums + m * sums_pitch, sums_pitch);
    }
  }
}

// sums[m][n] = a * b for all columns, on all threads. `a` is [M][K], M at most kFewRows.
template <class Acc>
void few_rows(const Acc* a, const Acc* b, int64_t b_stride_k, int64_t b_stride_n, int64_t M, int64_t N, int64_t K,
              Acc* sums, int64_t pitch) {
  constexpr int64_t kSums = 4096;  // of a chain, in L1
  static_assert(kSums >= kFewRows * kPanelWidth<Acc>, "a panel's sums fit");
  const bool rows = b_stride_n == 1;
  // A thread's work is worth its start.
  const int64_t width = rows ? kSums / kFewRows : kPanelWidth<Acc>, blocks = ceil_div(N, width);
  parallel_for(blocks, (1 << 16) / (width * K + 1) + 1, [&](int64_t begin, int64_t end) {
    alignas(64) Acc chain[kSums];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i * width, columns = N - n < width ? N - n : width;
      const auto panel = columns > Vec<Acc>::kLanes ? sweep_panel<Acc, 2> : sweep_panel<Acc, 1>;
      const int64_t chain_pitch = rows || columns > Vec<Acc>::kLanes ? width : Vec<Acc>::kLanes;
      for (int64_t k = 0; k == 0 || k < K; k += kChain) {
        const int64_t depth = K - k < kChain ? K - k : kChain;
        __builtin_memset(chain, 0, static_cast<size_t>(M * chain_pitch) * sizeof(Acc));
        const auto sweep = rows ? sweep_rows<Acc> : panel;
        sweep(a + k, K, b + k * b_stride_k + n * b_stride_n, rows ? b_stride_k : b_stride_n, M, depth, columns, chain,
              chain_pitch);
        add_chain(chain, chain_pitch, M, columns, k == 0, sums + n, pitch);
      }
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
