// Reductions over every axis but the channel's, in two launches and without atomics, so that the order of additions is
// fixed: blocks reduce their group of pixels (channel_walk.cuh) to partial states in the workspace, [group][value][C];
// then 32 channels a block, the groups are combined in float64.
//
// A Term says what is reduced:
//   kInputs, kValues                      tensors read, and numbers of a state
//   State<Acc>                            value[kValues], start(), merge(other)
//   Channel channel(c)                    what belongs to a channel, loaded once
//   add<Config>(states, channels, v)      one pack of every input
// and a Finish, finish(c, State<double>), what becomes of channel c's.
#pragma once

#include "channel_walk.cuh"

namespace fastconv::cuda {

// Combines the states of `rows` rows of threads, `lanes` apart, into row 0's. All threads of the block call it.
template <int kStates, int kThreads, class State>
__device__ __forceinline__ void merge_rows(State (&state)[kStates], int lanes, int row, int rows,
                                           typename State::Value (*shared)[kThreads]) {
  constexpr int kValues = State::kValues;
  const int thread = static_cast<int>(threadIdx.x);
  for (int half = rows / 2; half > 0; half /= 2) {
    if (row >= half && row < 2 * half) {
#pragma unroll
      for (int e = 0; e < kStates; ++e) {
#pragma unroll
        for (int i = 0; i < kValues; ++i) shared[e * kValues + i][thread] = state[e].value[i];
      }
    }
    __syncthreads();
    if (row < half) {
#pragma unroll
      for (int e = 0; e < kStates; ++e) {
        State other;
#pragma unroll
        for (int i = 0; i < kValues; ++i) other.value[i] = shared[e * kValues + i][thread + half * lanes];
        state[e].merge(other);
      }
    }
    // No second barrier: what the next step writes has not been used yet.
  }
}

template <class Config, class Term>
__global__ void __launch_bounds__(Config::kThreads)
    channel_reduce_kernel(const ChannelWalk<Term::kInputs> walk,
                          const ChannelInputs<typename Config::Element, Term::kInputs> inputs, const Term term,
                          typename Config::Acc* partials) {
  using Acc = typename Config::Acc;
  using State = typename Term::template State<Acc>;
  constexpr int kChannels = Config::kChannels, kPack = Config::kPack, kInputs = Term::kInputs;
  constexpr int kValues = State::kValues;
  __shared__ Acc shared[kChannels * kValues][Config::kThreads];
  const ChannelShare<Config, ChannelWalk<kInputs>> share(walk);
  State state[kChannels];
  typename Term::Channel channel[kChannels];
#pragma unroll
  for (int e = 0; e < kChannels; ++e) {
    state[e].start();
    channel[e] = term.channel(share.inside ? share.channel + e : 0);
  }
  walk_pixels(share, walk, inputs,
              [&](int64_t, const Acc(&v)[kInputs][kPack]) { term.template add<Config>(state, channel, v); });
  merge_rows<kChannels, Config::kThreads>(state, walk.lanes, share.row, share.rows, shared);
  if (share.row == 0 && share.inside) {
#pragma unroll
    for (int e = 0; e < kChannels; ++e) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        partials[(share.group * kValues + i) * walk.channels + share.channel + e] = state[e].value[i];
      }
    }
  }
}

template <class Acc, class Term, class Finish>
__global__ void __launch_bounds__(kFlatThreads)
    channel_finish_kernel(int64_t channels, int64_t groups, int lanes, const Acc* partials, const Finish finish) {
  using State = typename Term::template State<double>;
  constexpr int kValues = State::kValues;
  __shared__ double shared[kValues][kFlatThreads];
  const int thread = static_cast<int>(threadIdx.x), rows = kFlatThreads / lanes, row = thread / lanes;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * lanes + thread % lanes;
  State state[1];
  state[0].start();
  if (c < channels) {
    for (int64_t group = row; group < groups; group += rows) {
      State part;
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        part.value[i] = static_cast<double>(partials[(group * kValues + i) * channels + c]);
      }
      state[0].merge(part);
    }
  }
  merge_rows<1, kFlatThreads>(state, lanes, row, rows, shared);
  if (row == 0 && c < channels) finish(c, state[0]);
}

// `base` declares what the term reads and the finish writes. `one_channel`: all channels together are one, for terms
// of one value.
template <class T, class Term, class Finish>
void reduce_channels(const char* name, const TensorView (&operands)[Term::kInputs], const Term& term,
                     const Finish& finish, bool one_channel, const CallContext& context, const LaunchConfig& base) {
  using Acc = accumulate_t<T>;
  using State = typename Term::template State<Acc>;
  visit_channel_config<T>(operands, [&](auto config) {
    using Config = decltype(config);
    const auto walk = make_channel_walk(operands, config);
    ChannelInputs<T, Term::kInputs> inputs;
    for (int i = 0; i < Term::kInputs; ++i) inputs.data[i] = operands[i].template as<const T>();
    const size_t count = static_cast<size_t>(walk.groups * State::kValues * walk.channels);
    Acc* partials = static_cast<Acc*>(context.workspace->allocate(count * sizeof(Acc)));
    LaunchConfig reduce = channel_launch(base, name, walk.blocks());
    reduce.footprint.scratch("partial sums", partials, count * sizeof(Acc));
    launch(name, reduce, channel_reduce_kernel<Config, Term>, walk, inputs, term, partials);

    const int64_t channels = one_channel ? 1 : walk.channels;
    const int64_t groups = one_channel ? walk.groups * walk.channels : walk.groups;
    int lanes = 1;
    while (lanes < 32 && lanes < channels) lanes *= 2;
    LaunchConfig last = channel_launch(base, name, (channels + lanes - 1) / lanes);
    last.footprint.reads("partial sums", partials, count * sizeof(Acc));
    launch(name, last, channel_finish_kernel<Acc, Term, Finish>, channels, groups, lanes, partials, finish);
  });
}

// The state of a plain sum, or of several.
template <class Acc, int kValues_>
struct SumState {
  using Value = Acc;
  static constexpr int kValues = kValues_;
  Acc value[kValues];
  __device__ __forceinline__ void start() {
#pragma unroll
    for (int i = 0; i < kValues; ++i) value[i] = Acc(0);
  }
  __device__ __forceinline__ void merge(const SumState& other) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) value[i] += other.value[i];
  }
};

}  // namespace fastconv::cuda
