// A convolution's filters in the form that tensor-core kernels read: packed into the workspace where they do not lie in
// it already.
#pragma once

#include "../conv_mma.h"
#include "layout.cuh"

namespace fastconv::cuda {

template <class T>
struct PreparedWeights {
  const T* data;
  int64_t stride_phase, stride_group, stride_out, elements;
};

// One dense matrix for each phase and group, in place where the filters are one already (KRSC): the kernel's main loop
// then has one way to read B, whichever operator and layout it serves. Packing reads the weights once and writes them
// once, a small part of what the convolution itself moves.
template <class T>
PreparedWeights<T> prepare_weights(const ConvMmaProblem& problem, int64_t channels, const CallContext& context) {
  const PhasedConv& conv = problem.conv;
  const WeightAxis &h = problem.weights_h, &w = problem.weights_w;
  const auto* source = static_cast<const T*>(conv.weights);
  if (weights_in_place(problem, channels)) {
    return {source, 0, conv.w_stride_group, conv.w_stride_out, 0};
  }
  const int most_taps = most_of(h.taps) * most_of(w.taps);
  PreparedWeights<T> p;
  p.stride_out = most_taps * channels;
  p.stride_group = p.stride_out * conv.out_channels;
  p.stride_phase = h.phases * w.phases == 1 ? 0 : p.stride_group * conv.groups;
  p.elements = p.stride_group * conv.groups * h.phases * w.phases;
  T* packed = static_cast<T*>(context.workspace->allocate(static_cast<size_t>(p.elements) * sizeof(T)));
  p.data = packed;
  PackWeightsParams<T> params;
  params.source = source, params.packed = packed;
  params.stride_group = conv.w_stride_group, params.stride_out = conv.w_stride_out;
  params.stride_in = conv.w_stride_in, params.stride_h = conv.w_stride_h, params.stride_w = conv.w_stride_w;
  params.packed_stride_phase = p.stride_group * conv.groups;
  params.packed_stride_group = p.stride_group, params.packed_stride_out = p.stride_out;
  params.packed_stride_tap = channels;
  params.in_channels = static_cast<int>(conv.in_channels), params.padded_in_channels = static_cast<int>(channels);
  params.out_channels = static_cast<int>(conv.out_channels);
  params.h = h, params.w = w;
  if (most_taps > 0) {
    Footprint footprint;
    footprint.reads("w", problem.weights).scratch("packed w", packed, static_cast<size_t>(p.elements) * sizeof(T));
    launch_pack_conv_weights(params, conv.groups, most_taps, footprint, context.stream);
  }
  return p;
}

// The same with output channels contiguous: element (oc, ic of all groups, tap) lies at
// ic * stride_in + tap * stride_tap + oc. Taps are those of the filter, row by row, or the sums of all phases.
template <class T>
struct ColumnWeights {
  const T* data;
  int64_t taps, stride_in, stride_tap, elements;
};

template <class T>
ColumnWeights<T> prepare_column_weights(const ConvMmaProblem& problem, const CallContext& context) {
  constexpr int64_t kChunk = 16 / sizeof(T);
  const PhasedConv& conv = problem.conv;
  const int64_t rows = problem.weights.size[2], columns = problem.weights.size[3];
  const auto* source = static_cast<const T*>(conv.weights);
  const auto good = [](int64_t extent, int64_t stride) { return extent == 1 || (stride > 0 && stride % kChunk == 0); };
  const int64_t channels = conv.groups * conv.in_channels;
  if (!problem.sums() && (conv.out_channels == 1 || conv.w_stride_out == 1) && good(channels, conv.w_stride_in) &&
      good(columns, conv.w_stride_w) && good(rows, conv.w_stride_h) && aligned_16(source) &&
      (rows == 1 || columns == 1 || conv.w_stride_h == columns * conv.w_stride_w)) {
    const int64_t dense = (conv.out_channels + kChunk - 1) / kChunk * kChunk;
    return {source, rows * columns, channels > 1 ? conv.w_stride_in : dense,
            columns > 1 ? conv.w_stride_w
            : rows > 1  ? conv.w_stride_h
                        : dense,
            0};
  }
  WeightAxis h = problem.weights_h, w = problem.weights_w;
  if (!problem.sums()) {
    h = w = WeightAxis();
    h.taps[0] = static_cast<int>(rows), w.taps[0] = static_cast<int>(columns);
  }
  const int most_taps = most_of(h.taps) * most_of(w.taps);
  ColumnWeights<T> p;
  p.taps = int64_t{most_taps} * h.phases * w.phases;
  p.stride_in = (conv.out_channels + kChunk - 1) / kChunk * kChunk;
  p.stride_tap = channels * p.stride_in;
  p.elements = p.taps * p.stride_tap;
  T* packed = static_cast<T*>(context.workspace->allocate(static_cast<size_t>(p.elements) * sizeof(T)));
  p.data = packed;
  // The packing kernel's `in` is the direction that becomes contiguous.
  PackWeightsParams<T> params;
  params.source = source, params.packed = packed;
  params.stride_group = conv.w_stride_group, params.stride_out = conv.w_stride_in;
  params.stride_in = conv.w_stride_out, params.stride_h = conv.w_stride_h, params.stride_w = conv.w_stride_w;
  params.packed_stride_phase = most_taps * p.stride_tap, params.packed_stride_tap = p.stride_tap;
  params.packed_stride_group = conv.in_channels * p.stride_in, params.packed_stride_out = p.stride_in;
  params.in_channels = static_cast<int>(conv.out_channels), params.padded_in_channels = static_cast<int>(p.stride_in);
  params.out_channels = static_cast<int>(conv.in_channels);
  params.h = h, params.w = w;
  Footprint footprint;
  footprint.reads("w", problem.weights).scratch("packed w", packed, static_cast<size_t>(p.elements) * sizeof(T));
  launch_pack_conv_weights(params, conv.groups, most_taps, footprint, context.stream);
  return p;
}

template <class Weights>
void declare_weights(Footprint& footprint, const Weights& weights, const ConvMmaProblem& problem) {
  if (weights.elements > 0) {
    footprint.reads("packed w", weights.data, static_cast<size_t>(weights.elements) * sizeof(*weights.data));
  } else {
    footprint.reads("w", problem.weights);
  }
}

}  // namespace fastconv::cuda
