// Average pooling, plain and adaptive: the sum of every window over its divisor. Divisors that are powers of two become
// factors, which is the same and cheaper; others divide, so that the mean of equal numbers is that number.
#pragma once

#include "pooling_windows.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace pooling {

// torch's divisors: divisor_override, else the window's area, clipped to the image, or to the image and its padding
// with count_include_pad (what ceil_mode adds behind the padding never counts).
template <class Acc>
struct Divisors {
  const Acc* height;  // P values
  const Acc* width;   // Q values, padded to whole vectors
  bool reciprocal;    // the values are to be multiplied with

  template <class V>
  FC_INLINE V apply(V sum, int64_t p, int64_t q) const {
    const V area(height[p] * width[q]);
    return reciprocal ? sum * area : sum / area;
  }
  FC_INLINE Vec<Acc> apply_lanes(Vec<Acc> sum, int64_t p, int64_t q) const {
    const Vec<Acc> area = Vec<Acc>(height[p]) * Vec<Acc>::load(width + q);
    return reciprocal ? sum * area : sum / area;
  }
};

inline int64_t counted(const Axis& axis, int64_t i, bool adaptive, bool include_pad) {
  if (adaptive || !include_pad) return max(1, axis.end(i) - axis.begin(i));
  const int64_t start = i * axis.stride - axis.pad;
  return max(1, min(start + axis.window, axis.extent + axis.pad) - start);
}

// Asked for reciprocals, or finding only powers of two, it gives the reciprocals.
template <class Acc>
Divisors<Acc> make_divisors(const PoolProblem& c, Workspace& workspace, bool reciprocal = false) {
  const Axis vertical = vertical_axis(c), horizontal = horizontal_axis(c);
  const int64_t padded = c.Q + Vec<Acc>::kLanes;
  Acc* height = static_cast<Acc*>(workspace.allocate(static_cast<size_t>(c.P + padded) * sizeof(Acc)));
  Acc* width = height + c.P;
  bool powers = true;
  const auto keep = [&](int64_t count, Acc& out) {
    powers = powers && count > 0 && (count & (count - 1)) == 0;
    out = static_cast<Acc>(count);
  };
  for (int64_t p = 0; p < c.P; ++p) {
    keep(c.divisor_override ? c.divisor_override : counted(vertical, p, c.adaptive, c.count_include_pad), height[p]);
  }
  for (int64_t q = 0; q < c.Q; ++q) {
    keep(c.divisor_override ? 1 : counted(horizontal, q, c.adaptive, c.count_include_pad), width[q]);
  }
  for (int64_t q = c.Q; q < padded; ++q) width[q] = 1;
  reciprocal = reciprocal || powers;
  for (int64_t i = 0; reciprocal && i < c.P + padded; ++i) height[i] = 1 / height[i];
  return {height, width, reciprocal};
}

// The mean of whole, dense planes (global pooling of NCHW): a plane is one run.
template <class T, class Divisor>
void average_whole_planes(const PoolCall& call, const Divisor& divisor, const CallContext& ctx) {
  using V = Vec<accumulate_t<T>>;
  const PoolProblem& c = call.problem;
  run_in_slots(ctx, c.N * c.C, work_of<T>(c), 0, [&](void*, int64_t begin, int64_t end) {
    const int64_t count = c.H * c.W;
    for (int64_t unit = begin; unit < end; ++unit) {
      const T* x = call.x.as<const T>() + call.x.offset(unit / c.C, unit % c.C, 0, 0);
      V sum[4] = {V(0), V(0), V(0), V(0)};
      int64_t i = 0;
      for (; i + 4 * V::kLanes <= count; i += 4 * V::kLanes) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) sum[j] = sum[j] + V::load(x + i + j * V::kLanes);
      }
      for (; i < count; i += V::kLanes) sum[0] = sum[0] + load_lanes(x + i, 1, count - i);
      const accumulate_t<T> total = ((sum[0] + sum[1]) + (sum[2] + sum[3])).reduce_add();
      call.y.as<T>()[call.y.offset(unit / c.C, unit % c.C, 0, 0)] = from_accumulate<T>(divisor.apply(total, 0, 0));
    }
  });
}

}  // namespace pooling

inline void avg_pool2d(const PoolCall& call, const CallContext& ctx) {
  const PoolProblem& c = call.problem;
  if (c.N * c.C * c.P * c.Q == 0) return;
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto divisor = pooling::make_divisors<accumulate_t<T>>(c, *ctx.workspace);
    const pooling::Axis vertical = pooling::vertical_axis(c), horizontal = pooling::horizontal_axis(c);
    const bool whole = c.P == 1 && c.Q == 1 && vertical.begin(0) == 0 && vertical.end(0) == c.H &&
                       horizontal.begin(0) == 0 && horizontal.end(0) == c.W;
    if (whole && call.x.stride[3] == 1 && (c.H == 1 || call.x.stride[2] == c.W)) {
      return pooling::average_whole_planes<T>(call, divisor, ctx);
    }
    pooling::reduce_windows<pooling::Sum, T>(call, divisor, ctx);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
