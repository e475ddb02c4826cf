// Depthwise convolution of small NCHW planes (up to 32 x 32), where rows are too short for vectors along columns:
// sixteen channels at a time are transposed into pixels of sixteen channels, run through the channel tiles, and
// transposed back. All of it stays in L2: one transposition each way, about 0.3 cycles an element.
#pragma once

#include "depthwise_planes.h"
#include "plane_transposition.h"

namespace fastconv::cpu::FASTCONV_ISA::depthwise {

template <class Acc>
bool suits_transposition(const Plan<Acc>& plan) {
  return sizeof(Acc) == 4 && plan.spread == 1 && plan.collect == 1 && plan.insert_h == 1 && plan.insert_w == 1 &&
         is_run(plan.x) && is_run(plan.y);
}

// Units are (image, sixteen channels).
template <class Acc>
void run_small_planes(const Plan<Acc>& plan, const EpilogueArgs& args, const CallContext& ctx) {
  if constexpr (sizeof(Acc) == 4) {
    const LaneEpilogue<float> shared(args, plan.y, kChannelLanes, *ctx.workspace);
    const BandFunction<float> run = choose_channel_tile(plan);
    const int64_t blocks = ceil_div(plan.K, kLaneChannels), in_pixels = plan.H * plan.W, out_pixels = plan.P * plan.Q;
    const bool narrow = plan.x.dtype != DType::kFloat32;  // half precision is widened plane by plane first
    const int64_t wide_elements = narrow ? max(in_pixels, out_pixels) * kLaneChannels : 0;
    const int64_t elements = (in_pixels + out_pixels) * kLaneChannels + wide_elements;
    run_in_slots(ctx, plan.N * blocks, work_of(plan), elements * 4, [&](void* scratch, int64_t begin, int64_t end) {
      float *x = static_cast<float*>(scratch), *y = x + in_pixels * kLaneChannels;
      float* wide = y + out_pixels * kLaneChannels;
      const TensorView out = pixels_view(y, plan.P, plan.Q);
      LaneEpilogue<float> epilogue = shared;
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / blocks, k0 = unit % blocks * kLaneChannels, count = min(kLaneChannels, plan.K - k0);
        epilogue.write_to(out, k0);
        visit_storage<float>(plan.x.dtype, [&](auto tag) {
          using T = typename decltype(tag)::type;
          const T* in = plan.x.template as<const T>() + plan.x.offset(n, k0, 0, 0);
          if constexpr (sizeof(T) == 4) {
            transpose_rows(in, plan.x.stride[1], count, in_pixels, x, kLaneChannels);
          } else {
            for (int64_t i = 0; i < count; ++i) {
              load_run(in + i * plan.x.stride[1], 1, in_pixels, wide + i * in_pixels);
            }
            transpose_rows(wide, in_pixels, count, in_pixels, x, kLaneChannels);
          }
        });
        run(plan, epilogue, {x, plan.W * kLaneChannels, kLaneChannels, 0, 0, plan.H, 0, plan.W, 0, k0, 1},
            {n, 0, plan.P, 0, plan.Q, k0, k0 + count});
        visit_storage<float>(plan.x.dtype, [&](auto tag) {
          using T = typename decltype(tag)::type;
          T* to = plan.y.template as<T>() + plan.y.offset(n, k0, 0, 0);
          if constexpr (sizeof(T) == 4) {
            transpose_columns(y, kLaneChannels, count, out_pixels, to, plan.y.stride[1]);
          } else {
            transpose_columns(y, kLaneChannels, count, out_pixels, wide, out_pixels);
            for (int64_t i = 0; i < count; ++i) {
              store_run(to + i * plan.y.stride[1], 1, out_pixels, wide + i * out_pixels);
            }
          }
        });
      }
    });
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA::depthwise
