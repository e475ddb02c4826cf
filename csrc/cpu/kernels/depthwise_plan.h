// What the depthwise kernels share. Forward and input gradient are one computation here, a *plan*: filters slide over a
// virtual source whose rows and columns lie `insert` apart (zeros between them), which is how the gradient of a strided
// convolution reads dy; several filters may read one source channel (`spread`: the channel multiplier), or one output
// channel may sum several source channels (`collect`: the multiplier's gradient).
#pragma once

#include "lane_epilogue.h"
#include "runs.h"
#include "work_slots.h"

namespace fastconv::cpu::FASTCONV_ISA::depthwise {

using namespace work;

// Packed weights: [collect][K / kBlock][R * S][kBlock] of the accumulate type, zeros behind K. All taps of a block of
// channels lie together, 64 bytes apart on every ISA, so that a tile's weights are constant offsets from one pointer.
template <class Acc>
constexpr int64_t kBlock = 64 / sizeof(Acc);

template <class Acc>
struct Plan {
  int64_t N = 0, H = 0, W = 0;         // source
  int64_t K = 0, P = 0, Q = 0;         // output
  int64_t R = 1, S = 1;                // filter
  int64_t stride_h = 1, stride_w = 1;  // of the filter over the virtual source
  int64_t dilation_h = 1, dilation_w = 1;
  int64_t pad_top = 0, pad_left = 0;  // may be negative
  int64_t insert_h = 1, insert_w = 1;
  int64_t spread = 1, collect = 1;
  TensorView x, y;
  const Acc* weights = nullptr;

  int64_t taps() const { return R * S; }
  int64_t padded_channels() const { return round_up(K, kBlock<Acc>); }
  // Source channel of output channel k, collected channel m.
  int64_t source_channel(int64_t k, int64_t m) const { return k / spread * collect + m; }
  // First virtual row under output row p, and how many rows the filter spans from there.
  int64_t first_row(int64_t p) const { return p * stride_h - pad_top; }
  int64_t first_column(int64_t q) const { return q * stride_w - pad_left; }
  int64_t span_h() const { return (R - 1) * dilation_h + 1; }
  int64_t span_w() const { return (S - 1) * dilation_w + 1; }
};

// Packs w (channels, 1, R, S). With `collect` > 1 output channel k's m-th source has filter k * collect + m. `flip`
// turns every filter by 180 degrees.
template <class Acc>
void pack(const TensorView& w, int64_t K, int64_t collect, bool flip, Acc* packed) {
  const int64_t R = w.size[2], S = w.size[3], taps = R * S, blocks = ceil_div(K, kBlock<Acc>);
  const int64_t grain = max(1, 16384 / (taps * kBlock<Acc>));
  visit_storage<Acc>(w.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(collect * blocks, grain, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t m = unit / blocks, k0 = unit % blocks * kBlock<Acc>, count = min(kBlock<Acc>, K - k0);
        Acc* out = packed + unit * taps * kBlock<Acc>;
        for (int64_t tap = 0; tap < taps; ++tap, out += kBlock<Acc>) {
          const int64_t at = flip ? taps - 1 - tap : tap;
          const T* in = w.as<const T>() + w.offset(k0 * collect + m, 0, at / S, at % S);
          load_run(in, w.stride[0] * collect, count, out);
          for (int64_t i = count; i < kBlock<Acc>; ++i) out[i] = 0;
        }
      }
    });
  });
}

template <class Acc>
int64_t work_of(const Plan<Acc>& plan) {
  return plan.N * plan.K * plan.P * plan.Q * (8 + plan.taps() * plan.collect / 4);
}

}  // namespace fastconv::cpu::FASTCONV_ISA::depthwise
