// What BatchNorm does to the rows of a block (norm_blocks.h), each element once, everything from x on in registers:
//
//   z = (x - mean) * scale + bias + residual
//   kForward    out = act(z)
//   kSums       sums += dz, products += dz * (x - mean)               with dz = dy * act'(z)
//   kGradient   out = scale * (dz - mean_dz - (x - mean) * slope), and dz itself where the residual wants it
//
// The factors of a channel are vectors along a row, channels last, and constants of a row otherwise.
#pragma once

#include "norm_blocks.h"
#include "vector_math.h"

namespace fastconv::cpu::FASTCONV_ISA::norm {

enum class NormWork { kForward, kSums, kGradient };

// Dense rows of the accumulate type, `step` elements apart. Absent operands are null.
template <class Acc>
struct NormRows {
  int64_t rows, length;
  const Acc *x, *residual, *param, *dy;
  Acc *out, *dz;
  int64_t x_step, residual_step, param_step, dy_step, out_step, dz_step;
  bool full_param;                                   // else per channel, as the factors are
  const Acc *mean, *scale, *bias, *mean_dz, *slope;  // from the block's first channel on
  Acc *sums, *products;                              // [channel of the block]; added to
};

template <class Acc>
using NormFunction = void (*)(const NormRows<Acc>&);

template <class Acc, class F, NormWork kWork, bool kAlong>
void norm_rows(const NormRows<Acc>& b) {
  using V = Vec<Acc>;
  constexpr int kChains = 2;  // of additions, along a plane: one would wait for itself
  V sums[kChains], products[kChains];
  for (int j = 0; j < kChains; ++j) sums[j] = products[j] = V(0);
  const auto factor = [](const Acc* p, int64_t i, int64_t n) __attribute__((always_inline)) {
    if constexpr (!kAlong) return V(p[0]);
    return n == V::kLanes ? V::load(p + i) : V::load_partial(p + i, n);
  };
  const auto load = [](const Acc* p, int64_t n)
                        __attribute__((always_inline)) { return n == V::kLanes ? V::load(p) : V::load_partial(p, n); };
  const auto store = [](V v, Acc* p, int64_t n)
                         __attribute__((always_inline)) { n == V::kLanes ? v.store(p) : v.store_partial(p, n); };
  for (int64_t r = 0; r < b.rows; ++r) {
    const auto element = [&](int64_t i, int64_t n, int chain) __attribute__((always_inline)) {
      const V centered = load(b.x + r * b.x_step + i, n) - factor(b.mean, i, n), scale = factor(b.scale, i, n);
      V z = fma(centered, scale, factor(b.bias, i, n));
      if (b.residual) z = z + load(b.residual + r * b.residual_step + i, n);
      const V param = b.full_param ? load(b.param + r * b.param_step + i, n) : factor(b.param, i, n);
      if constexpr (kWork == NormWork::kForward) {
        store(F::template apply<V>(z, param), b.out + r * b.out_step + i, n);
      } else {
        const V dz = load(b.dy + r * b.dy_step + i, n) * F::template grad<V>(z, param);
        if constexpr (kWork == NormWork::kGradient) {
          if (b.dz) store(dz, b.dz + r * b.dz_step + i, n);
          const V off = dz - factor(b.mean_dz, i, n) - centered * factor(b.slope, i, n);
          store(scale * off, b.out + r * b.out_step + i, n);
        } else if constexpr (kAlong) {
          store(load(b.sums + i, n) + dz, b.sums + i, n);
          store(fma(dz, centered, load(b.products + i, n)), b.products + i, n);
        } else {
          sums[chain] = sums[chain] + dz;
          products[chain] = fma(dz, centered, products[chain]);
        }
      }
    };
    int64_t i = 0;
    for (; i + kChains * V::kLanes <= b.length; i += kChains * V::kLanes) {
#pragma GCC unroll 2
      for (int j = 0; j < kChains; ++j) element(i + j * V::kLanes, V::kLanes, j);
    }
    for (; i + V::kLanes <= b.length; i += V::kLanes) element(i, V::kLanes, 0);
    if (i < b.length) element(i, b.length - i, 0);
  }
  if constexpr (kWork == NormWork::kSums && !kAlong) {
    b.sums[0] += (sums[0] + sums[1]).reduce_add();
    b.products[0] += (products[0] + products[1]).reduce_add();
  }
}

template <class Acc, NormWork kWork>
NormFunction<Acc> find_norm_rows(Activation act, bool along_channels) {
  return visit_activation(act, [along_channels](auto f) -> NormFunction<Acc> {
    using F = decltype(f);
    return along_channels ? &norm_rows<Acc, F, kWork, true> : &norm_rows<Acc, F, kWork, false>;
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA::norm
