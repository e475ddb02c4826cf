// Second half of a convolution whose reduction was split over blocks (conv_mma.cuh): the partial sums of an output are
// added in the order of the parts, always the same, and go through the epilogue. A thread an output; lanes follow the
// channels, or the pixels where those are contiguous in the output.
#pragma once

#include "conv_mma.cuh"

namespace fastconv::cuda {

constexpr int kConvReduceThreads = 256;

template <class T>
__global__ void __launch_bounds__(kConvReduceThreads)
    conv_split_sum_kernel(const __grid_constant__ ConvMmaParams<T> params, int splits, int64_t most_pixels) {
  const int row = static_cast<int>(params.groups.divisor) * params.out_channels;
  const int phase = static_cast<int>(blockIdx.y);
  const int phase_h = phase / params.w.phases, phase_w = phase % params.w.phases;
  const int64_t pixels = static_cast<int64_t>(params.batch) * params.h.count[phase_h] * params.w.count[phase_w];
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kConvReduceThreads + threadIdx.x;
  const bool along_pixels = params.output.rows_adjacent;
  const int64_t pixel = along_pixels ? index % most_pixels : index / row;
  const int channel = static_cast<int>(along_pixels ? index / most_pixels : index % row);
  if (pixel >= pixels || channel >= row) return;

  const float* partial = params.output.partials + phase * params.partial_stride_phase + pixel * row + channel;
  float sum = *partial;
  for (int split = 1; split < splits; ++split) sum += partial[split * params.partial_stride_split];
  int i, j;
  const int rest = params.w.count_divmod[phase_w].divmod(static_cast<int>(pixel), j);
  const int n = params.h.count_divmod[phase_h].divmod(rest, i);
  const int p = i * params.h.phases + phase_h, q = j * params.w.phases + phase_w;
  params.output.d[n * params.out_stride_n + p * params.out_stride_h + q * params.out_stride_w +
                  channel * params.out_stride_channel] =
      apply_epilogue<T>(params.output.epilogue, sum, n, channel, p, q);
}

template <class T>
void launch_conv_mma_reduce(const ConvMmaParams<T>& params, const PhasedConv& conv, int64_t splits,
                            size_t partial_bytes, void* stream) {
  const int64_t row = conv.groups * conv.out_channels, most_pixels = params.partial_stride_phase / row;
  LaunchConfig config;
  config.stream = stream;
  config.footprint.reads("partial sums", params.output.partials, partial_bytes)
      .writes("y", conv.out)
      .reads(conv.epilogue, conv.dtype, row);
  config.block = dim3(kConvReduceThreads);
  config.grid = dim3(static_cast<unsigned>((most_pixels * row + kConvReduceThreads - 1) / kConvReduceThreads),
                     static_cast<unsigned>(conv.phases()));
  launch("conv_split_sum", config, conv_split_sum_kernel<T>, params, static_cast<int>(splits), most_pixels);
}

}  // namespace fastconv::cuda
