// The filters of upsample_conv2d's phases: for every phase, w summed over the taps that meet in one stored pixel.
//
//   sums[phase][k][th][tw][ic] = sum of w[k][ic][r][s] over the r, s with
//                                    (start_h + r * dilation_h) / scale_h == in_base_h + th, and likewise for w
//
// In the accumulate type, so that the sums are not rounded before they are used. A thread makes one of them.
#pragma once

#include <algorithm>

#include "../phases.h"
#include "../primitives/launch.h"

namespace fastconv::cuda {

struct UpsampleFilterAxis {
  int filter, stride, pad, dilation, scale;
  int phases, taps;  // the most taps of a phase
  int in_base[kMaxPhases];

  // The tap that filter row r belongs to in `phase`: taps count stored pixels from the window's first one on.
  __device__ int tap(int phase, int r) const {
    return (phase * stride - pad + r * dilation - in_base[phase] * scale) / scale;
  }
};

template <class T>
struct UpsampleFiltersParams {
  UpsampleFilterAxis h, w;
  int64_t filters, channels;  // of all groups; of one
  int64_t count;              // of sums
  TensorView weights;
  accumulate_t<T>* sums;
};

constexpr int kUpsampleFiltersThreads = 256;

template <class T>
__global__ void __launch_bounds__(kUpsampleFiltersThreads)
    upsample_filters_kernel(const UpsampleFiltersParams<T> params) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < params.count; i += step) {
    int64_t rest = i;
    const int64_t ic = rest % params.channels;
    rest /= params.channels;
    const int tw = static_cast<int>(rest % params.w.taps);
    rest /= params.w.taps;
    const int th = static_cast<int>(rest % params.h.taps);
    rest /= params.h.taps;
    const int64_t k = rest % params.filters;
    const int phase = static_cast<int>(rest / params.filters);
    const int fh = phase / params.w.phases, fw = phase % params.w.phases;
    accumulate_t<T> sum = 0;
    for (int r = 0; r < params.h.filter; ++r) {
      if (params.h.tap(fh, r) != th) continue;
      for (int s = 0; s < params.w.filter; ++s) {
        if (params.w.tap(fw, s) != tw) continue;
        sum += to_accumulate(params.weights.template as<const T>()[params.weights.offset(k, ic, r, s)]);
      }
    }
    params.sums[i] = sum;
  }
}

// Fills `sums` as upsample_phases() describes it: upsample_phase_weights(c) elements of the accumulate type.
template <class T>
void launch_upsample_filters(const Conv2dCall& call, const PhasedConv& c, accumulate_t<T>* sums, void* stream) {
  const ConvProblem& p = call.problem;
  const auto axis = [](const PhaseAxis& a, int64_t filter, int64_t stride, int64_t pad, int64_t dilation,
                       int64_t scale) {
    using phase_detail::as_int;
    UpsampleFilterAxis f{as_int(filter),
                         as_int(stride),
                         as_int(pad),
                         as_int(dilation),
                         as_int(scale),
                         a.phases,
                         phase_detail::most_taps(a),
                         {}};
    for (int phase = 0; phase < a.phases; ++phase) f.in_base[phase] = a.in_base[phase];
    return f;
  };
  UpsampleFiltersParams<T> params;
  params.h = axis(c.h, p.R, p.stride_h, p.pad_top, p.dilation_h, p.scale_h);
  params.w = axis(c.w, p.S, p.stride_w, p.pad_left, p.dilation_w, p.scale_w);
  params.filters = p.K, params.channels = c.in_channels;
  params.count = upsample_phase_weights(c);
  params.weights = call.w;
  params.sums = sums;
  LaunchConfig config;
  config.stream = stream;
  config.block = dim3(kUpsampleFiltersThreads);
  config.grid = dim3(static_cast<unsigned>(
      std::min<int64_t>((params.count + kUpsampleFiltersThreads - 1) / kUpsampleFiltersThreads, 1 << 16)));
  config.footprint.reads("w", call.w).scratch("filter sums", sums, params.count * sizeof(accumulate_t<T>));
  launch("upsample_filters", config, upsample_filters_kernel<T>, params);
}

}  // namespace fastconv::cuda
