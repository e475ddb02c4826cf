// Depthwise convolution of bfloat16, NHWC, 3x3 and 5x5 at stride 1 or 2: 32 channels are one load, of which the even
// and the odd ones are widened by a shift and by a mask. A tile is kRows x 4 pixels of 32 channels and walks its input
// rows as depthwise_channels.h does. Nothing is staged: x is read and y is written as it lies.
#pragma once

#include "bf16_format.h"
#include "depthwise_plan.h"

namespace fastconv::cpu::FASTCONV_ISA::bf16 {

// Both halves of 32 channels.
struct Halves {
  VecF even, odd;
};

FC_INLINE Halves widen(__m512i both) {
  return {VecF(_mm512_castsi512_ps(_mm512_slli_epi32(both, 16))),
          VecF(_mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))))};
}

// What the threads share. Per block of 32 channels, even ones first: the taps, then multiplier and addend.
struct DepthwisePlan {
  ConvProblem p;
  TensorView x, y;
  const float* weights;
  float low, high;  // of the clamp that is the activation

  int64_t block_floats() const { return (p.R * p.S + 2) * 32; }
};

template <int kR, int kStride>
struct DepthwiseTile {
  // Accumulators, one input row and a weight fit into 32 registers.
  static constexpr int kColumns = kStride == 1 && kR == 3 ? 4 : 2, kRows = 2;
  static constexpr int kInputColumns = (kColumns - 1) * kStride + kR, kInputRows = (kRows - 1) * kStride + kR;

  static void run(const DepthwisePlan& plan, int64_t n, int64_t p0, int64_t p1) {
    const ConvProblem& p = plan.p;
    for (int64_t row = p0; row < p1; row += kRows) {
      const int64_t rows = smaller(kRows, p1 - row);
      for (int64_t q = 0; q < p.Q; q += kColumns) {
        const int64_t h = row * kStride - p.pad_top, w = q * kStride - p.pad_left;
        const int64_t columns = smaller(kColumns, p.Q - q);
        const bool inside = w >= 0 && w + kInputColumns <= p.W;
        for (int64_t k = 0; k < p.K; k += 32) {
          if (inside && p.K - k >= 32) {
            tile<false>(plan, n, k, h, w, row, q, rows, columns);
          } else {
            tile<true>(plan, n, k, h, w, row, q, rows, columns);
          }
        }
      }
    }
  }

  template <bool kCareful>
  static FC_INLINE void tile(const DepthwisePlan& plan, int64_t n, int64_t k, int64_t h, int64_t w, int64_t row,
                             int64_t q, int64_t rows, int64_t columns) {
    const ConvProblem& p = plan.p;
    const int64_t channels = smaller(32, p.K - k), pixel = plan.x.stride[3];
    const __mmask32 lanes = channels >= 32 ? ~__mmask32{0} : (__mmask32{1} << channels) - 1;
    const float* weights = plan.weights + k / 32 * plan.block_floats();
    Halves sums[kRows * kColumns];
#pragma GCC unroll 16
    for (int i = 0; i < kRows * kColumns; ++i) sums[i] = {VecF(0), VecF(0)};
#pragma GCC unroll 16
    for (int i = 0; i < kInputRows; ++i) {
      if (h + i < 0 || h + i >= p.H) continue;
      const bfloat16_t* in = plan.x.as<const bfloat16_t>() + plan.x.offset(n, k, h + i, w);
      Halves x[kInputColumns];
#pragma GCC unroll 16
      for (int j = 0; j < kInputColumns; ++j) {
        if constexpr (kCareful) {
          const bool there = w + j >= 0 && w + j < p.W;
          x[j] = widen(_mm512_maskz_loadu_epi16(there ? lanes : __mmask32{0}, in + j * pixel));
        } else {
          x[j] = widen(_mm512_loadu_si512(in + j * pixel));
        }
      }
#pragma GCC unroll 16
      for (int t = 0; t < kRows; ++t) {
        const int r = i - t * kStride;
        if (r < 0 || r >= kR) continue;
#pragma GCC unroll 16
        for (int s = 0; s < kR; ++s) {
          const VecF even = VecF::load(weights + (r * kR + s) * 32), odd = VecF::load(weights + (r * kR + s) * 32 + 16);
#pragma GCC unroll 16
          for (int j = 0; j < kColumns; ++j) {
            Halves& sum = sums[t * kColumns + j];
            sum.even = fma(x[j * kStride + s].even, even, sum.even);
            sum.odd = fma(x[j * kStride + s].odd, odd, sum.odd);
          }
        }
      }
    }
    const float* tail = weights + kR * kR * 32;
    const Halves multiplier{VecF::load(tail), VecF::load(tail + 16)},
        addend{VecF::load(tail + 32), VecF::load(tail + 48)};
    const VecF low(plan.low), high(plan.high);
    const __m512i merged =
        _mm512_setr_epi32(0x100000, 0x110001, 0x120002, 0x130003, 0x140004, 0x150005, 0x160006, 0x170007, 0x180008,
                          0x190009, 0x1a000a, 0x1b000b, 0x1c000c, 0x1d000d, 0x1e000e, 0x1f000f);
#pragma GCC unroll 16
    for (int t = 0; t < kRows; ++t)
#pragma GCC unroll 16
      for (int j = 0; j < kColumns; ++j) {
        const Halves& sum = sums[t * kColumns + j];
        const VecF even = min_nan(max_nan(fma(sum.even, multiplier.even, addend.even), low), high);
        const VecF odd = min_nan(max_nan(fma(sum.odd, multiplier.odd, addend.odd), low), high);
        if (t >= rows || j >= columns) continue;
        const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(odd.v, even.v);
        bfloat16_t* out = plan.y.as<bfloat16_t>() + plan.y.offset(n, k, row + t, q + j);
        _mm512_mask_storeu_epi16(out, lanes, _mm512_permutexvar_epi16(merged, halves));
      }
  }
};

inline bool serves_depthwise(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  const EpilogueArgs& e = call.epilogue;
  const bool clamp = e.act == Activation::kIdentity || e.act == Activation::kRelu || e.act == Activation::kRelu6;
  return call.dtype == DType::kBFloat16 && p.is_depthwise() && p.K == p.C && p.R == p.S && (p.R == 3 || p.R == 5) &&
         p.stride_h == p.stride_w && p.stride_h <= 2 && p.dilation_h == 1 && p.dilation_w == 1 && clamp &&
         !e.residual.present() && call.x.stride[1] == 1 && call.y.stride[1] == 1 && p.N * p.P * p.Q > 0;
}

// The weights as depthwise_pack makes them, [K / 16][tap][16], brought into the order of the tiles.
inline const float* depthwise_weights(const Conv2dCall& call, const CallContext& context) {
  const ConvProblem& p = call.problem;
  const int64_t taps = p.R * p.S, block = (taps + 2) * 32, blocks = ceil_div(p.K, 32);
  const auto allocate = [&](int64_t floats) {
    return static_cast<float*>(context.workspace->allocate(static_cast<size_t>(floats) * sizeof(float)));
  };
  const float* packed = static_cast<const float*>(call.packed_w);
  if (!packed) {
    float* fresh = allocate(round_up(p.K, 16) * taps);
    depthwise::pack(call.w, p.K, 1, false, fresh);
    packed = fresh;
  }
  const EpilogueArgs& e = call.epilogue;
  const auto *bias = static_cast<const float*>(e.bias), *scale = static_cast<const float*>(e.scale);
  const auto* shift = static_cast<const float*>(e.shift);
  float* out = allocate(blocks * block);
  for (int64_t b = 0; b < blocks; ++b) {
    float* to = out + b * block;
    const bool second = b * 32 + 16 < p.K;
    for (int64_t tap = 0; tap < taps; ++tap) {
      const VecF first = VecF::load(packed + (2 * b * taps + tap) * 16);
      const VecF last = second ? VecF::load(packed + ((2 * b + 1) * taps + tap) * 16) : VecF(0);
      VecF even, odd;
      deinterleave(first, last, even, odd);
      even.store(to + tap * 32), odd.store(to + tap * 32 + 16);
    }
    for (int64_t i = 0; i < 32; ++i) {
      const int64_t k = b * 32 + i, at = taps * 32 + i / 2 + i % 2 * 16;
      const float s = k < p.K && scale ? scale[k] : 1.0f;
      to[at] = s;
      to[at + 32] = k < p.K ? (bias ? bias[k] * s : 0.0f) + (shift ? shift[k] : 0.0f) : 0.0f;
    }
  }
  return out;
}

inline void conv2d_depthwise(const Conv2dCall& call, const CallContext& context) {
  const ConvProblem& p = call.problem;
  const float infinity = __builtin_inff();
  const bool identity = call.epilogue.act == Activation::kIdentity;
  const DepthwisePlan plan{p,
                           call.x,
                           call.y,
                           depthwise_weights(call, context),
                           identity ? -infinity : 0.0f,
                           call.epilogue.act == Activation::kRelu6 ? 6.0f : infinity};
  const auto run = p.R == 3 ? (p.stride_h == 1 ? DepthwiseTile<3, 1>::run : DepthwiseTile<3, 2>::run)
                            : (p.stride_h == 1 ? DepthwiseTile<5, 1>::run : DepthwiseTile<5, 2>::run);
  const int64_t pairs = ceil_div(p.P, 2), row_work = p.Q * p.K * (8 + p.R * p.S / 4);
  parallel_for(p.N * pairs, (1 << 16) / (row_work + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end;) {
      const int64_t n = unit / pairs, first = unit % pairs, count = smaller(end - unit, pairs - first);
      run(plan, n, 2 * first, smaller(p.P, 2 * (first + count)));
      unit += count;
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA::bf16
