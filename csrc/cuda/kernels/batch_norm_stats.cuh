// Mean and variance of every channel, as a term of channel_reduce.cuh: threads keep (count, mean, M2), M2 being the sum
// of squared deviations from the mean so far (Welford), and states are merged by Chan, Golub and LeVeque's formula.
// Values count from the channel's first one, so that the mean which is carried along in Acc stays small, and a large
// mean costs no digits.
#pragma once

#include "../../common/calls.h"
#include "channel_reduce.cuh"
#include "reciprocal.cuh"

namespace fastconv::cuda {

template <class Acc>
struct MomentState {
  using Value = Acc;
  static constexpr int kValues = 3;  // count, mean, M2
  Acc value[kValues];

  __device__ __forceinline__ void start() { value[0] = value[1] = value[2] = Acc(0); }
  __device__ __forceinline__ void merge(const MomentState& other) {
    const Acc count = value[0] + other.value[0];
    if (other.value[0] == Acc(0)) return;
    const Acc delta = other.value[1] - value[1], share = other.value[0] / count;
    value[1] += delta * share;
    value[2] += other.value[2] + delta * delta * value[0] * share;
    value[0] = count;
  }
};

template <class T>
struct MomentTerm {
  static constexpr int kInputs = 1;
  template <class Acc>
  using State = MomentState<Acc>;
  using Channel = accumulate_t<T>;  // the first value
  const T* x;
  int64_t channel_stride;
  __device__ __forceinline__ Channel channel(int64_t c) const { return to_accumulate(x[c * channel_stride]); }

  template <class Config, class Acc>
  __device__ __forceinline__ void add(MomentState<Acc> (&state)[Config::kChannels],
                                      const Channel (&first)[Config::kChannels],
                                      const Acc (&v)[1][Config::kPack]) const {
    constexpr int kPixels = Config::kPixels;
    const Acc before = state[0].value[0], count = before + Acc(kPixels);
    const Acc share = Acc(kPixels) * reciprocal(count);
    if constexpr (Config::kAlongPixels) {
      // The pack's own moments first: one division a pack.
      Acc mean(0), m2(0);
#pragma unroll
      for (int e = 0; e < kPixels; ++e) mean += v[0][e] - first[0];
      mean *= Acc(1) / Acc(kPixels);
#pragma unroll
      for (int e = 0; e < kPixels; ++e) {
        const Acc deviation = v[0][e] - first[0] - mean;
        m2 += deviation * deviation;
      }
      const Acc delta = mean - state[0].value[1];
      state[0].value[1] += delta * share;
      state[0].value[2] += m2 + delta * delta * before * share;
      state[0].value[0] = count;
    } else {
#pragma unroll
      for (int e = 0; e < Config::kChannels; ++e) {
        const Acc value = v[0][e] - first[e], delta = value - state[e].value[1];
        state[e].value[1] += delta * share;
        state[e].value[2] += delta * (value - state[e].value[1]);
        state[e].value[0] = count;
      }
    }
  }
};

template <class T>
struct StoreMoments {
  using Acc = accumulate_t<T>;
  MomentTerm<T> term;
  Acc* mean;
  Acc* var;
  __device__ void operator()(int64_t c, const MomentState<double>& state) const {
    mean[c] = static_cast<Acc>(static_cast<double>(term.channel(c)) + state.value[1]);
    var[c] = static_cast<Acc>(state.value[2] / state.value[0]);
  }
};

}  // namespace fastconv::cuda
