// A batch's mean and variance of every channel. Statistics are taken block by block (norm_blocks.h), the block's own
// mean first, then deviations from it; blocks, then groups of blocks, are merged in a fixed order by Chan, Golub and
// LeVeque's formula in float64. Blocks have the same number of values of each of their channels, so that merging takes
// no division a channel and runs in vectors.
#pragma once

#include "norm_blocks.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace norm {

// Moments of `channels` neighbouring channels: mean[c], m2[c] (the sum of squared deviations from it).
struct Moments {
  double *mean, *m2;
  double count = 0;

  void merge(const double* __restrict other_mean, const double* __restrict other_m2, double other_count,
             int64_t channels) {
    const double total = count + other_count, share = other_count / total, weight = count * share;
    double* __restrict to_mean = mean, * __restrict to_m2 = m2;
    for (int64_t c = 0; c < channels; ++c) {
      const double delta = other_mean[c] - to_mean[c];
      to_mean[c] += delta * share;
      to_m2[c] += other_m2[c] + delta * delta * weight;
    }
    count = total;
  }
  // A block's, from sums of deviations, and of their squares, from a `center` near the mean: exactly at it the former
  // would be 0.
  template <class Acc>
  void add_block(const Acc* center, const Acc* deviation, const Acc* square, int64_t values, int64_t channels) {
    double block_mean[kNormChannels], block_m2[kNormChannels];
    const double part = 1 / static_cast<double>(values);
    for (int64_t c = 0; c < channels; ++c) {
      const double off = deviation[c] * part;
      block_mean[c] = center[c] + off;
      block_m2[c] = square[c] - off * deviation[c];
    }
    merge(block_mean, block_m2, static_cast<double>(values), channels);
  }
};

// f(first element, lanes in the vector) over a row.
template <class V, class F>
FC_INLINE void for_vectors(int64_t length, F&& f) {
  int64_t i = 0;
  for (; i + V::kLanes <= length; i += V::kLanes) f(i, int64_t{V::kLanes});
  if (i < length) f(i, length - i);
}
template <class V, class P>
FC_INLINE V load_some(const P* p, int64_t n) {
  return n == V::kLanes ? V::load(p) : V::load_partial(p, n);
}
template <class V, class P>
FC_INLINE void store_some(V v, P* p, int64_t n) {
  n == V::kLanes ? v.store(p) : v.store_partial(p, n);
}

template <class T>
void add_channels_block(const T* x, const NormBlock& b, Moments& moments) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  Acc center[kNormChannels] = {}, deviation[kNormChannels] = {}, square[kNormChannels] = {};
  for (int64_t r = 0; r < b.rows; ++r) {
    for_vectors<V>(b.length, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
      store_some(V::load(center + i) + load_some<V>(x + r * b.row_step[0] + i, n), center + i, V::kLanes);
    });
  }
  const Acc part = Acc(1) / static_cast<Acc>(b.rows);
  for (int64_t i = 0; i < b.length; ++i) center[i] *= part;
  for (int64_t r = 0; r < b.rows; ++r) {
    for_vectors<V>(b.length, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
      const V d = load_some<V>(x + r * b.row_step[0] + i, n) - V::load(center + i);
      fma(d, d, V::load(square + i)).store(square + i);
      (V::load(deviation + i) + d).store(deviation + i);
    });
  }
  moments.add_block(center, deviation, square, b.rows, b.length);
}

template <class T>
void add_plane_block(const T* x, const NormBlock& b, Moments& moments) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  Acc buffer[kNormRun];
  const bool in_place = sizeof(T) == sizeof(Acc) && b.element_step[0] == 1;
  if (!in_place) {  // one row is as long as its elements are few
    for (int64_t r = 0; r < b.rows; ++r)
      load_run(x + r * b.row_step[0], b.element_step[0], b.length, buffer + r * b.length);
  }
  const Acc* values = in_place ? reinterpret_cast<const Acc*>(x) : buffer;
  const int64_t step = in_place ? b.row_step[0] : b.length, count = b.rows * b.length;
  V sums[2] = {V(0), V(0)};
  for (int64_t r = 0; r < b.rows; ++r) {
    for_vectors<V>(b.length, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
      V& sum = sums[i / V::kLanes % 2];
      sum = sum + load_some<V>(values + r * step + i, n);
    });
  }
  const Acc center = (sums[0] + sums[1]).reduce_add() / static_cast<Acc>(count);
  V deviations(0), squares(0);
  Acc tail_deviation = 0, tail_square = 0;
  for (int64_t r = 0; r < b.rows; ++r) {
    const Acc* row = values + r * step;
    int64_t i = 0;
    for (; i + V::kLanes <= b.length; i += V::kLanes) {
      const V d = V::load(row + i) - V(center);
      squares = fma(d, d, squares);
      deviations = deviations + d;
    }
    for (; i < b.length; ++i) {
      tail_square += (row[i] - center) * (row[i] - center);
      tail_deviation += row[i] - center;
    }
  }
  const Acc deviation = deviations.reduce_add() + tail_deviation, square = squares.reduce_add() + tail_square;
  moments.add_block(&center, &deviation, &square, count, 1);
}

template <class T>
void statistics(const BatchNormStatsCall& call, const CallContext& ctx) {
  using Acc = accumulate_t<T>;
  const NormBlocks blocks(&call.x, 1);
  const int64_t C = blocks.C;
  // mean and m2 of every group, then the number of values of each group and column.
  double* means = static_cast<double*>(
      ctx.workspace->allocate(static_cast<size_t>(blocks.groups * (2 * C + blocks.columns)) * sizeof(double)));
  double *m2s = means + blocks.groups * C, *counts = m2s + blocks.groups * C;
  blocks.for_tasks([&](int64_t group, int64_t column) {
    const int64_t first = group * C + blocks.first_channel(column), channels = blocks.channels(column);
    Moments moments{means + first, m2s + first};
    for (int64_t c = 0; c < channels; ++c) moments.mean[c] = moments.m2[c] = 0;
    blocks.for_column(group, column, [&](const NormBlock& b) {
      const T* x = call.x.as<const T>() + b.offset[0];
      blocks.along_channels ? add_channels_block(x, b, moments) : add_plane_block(x, b, moments);
    });
    counts[group * blocks.columns + column] = moments.count;
  });
  for (int64_t column = 0; column < blocks.columns; ++column) {
    const int64_t first = blocks.first_channel(column), channels = blocks.channels(column);
    Moments all{means + first, m2s + first, counts[column]};
    for (int64_t group = 1; group < blocks.groups; ++group) {
      const int64_t at = group * C + first;
      all.merge(means + at, m2s + at, counts[group * blocks.columns + column], channels);
    }
    for (int64_t c = 0; c < channels; ++c) {
      static_cast<Acc*>(call.mean)[first + c] = static_cast<Acc>(all.mean[c]);
      static_cast<Acc*>(call.var)[first + c] = static_cast<Acc>(all.m2[c] / all.count);
    }
  }
}

}  // namespace norm

inline void batch_norm_stats(const BatchNormStatsCall& call, const CallContext& ctx) {
  if (call.x.numel() == 0) return;
  visit_dtype(call.dtype, [&](auto tag) { norm::statistics<typename decltype(tag)::type>(call, ctx); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
