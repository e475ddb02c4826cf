// The second half of a split reduction: out = epilogue(sum over splits, in their order, of
// partials[split][row][channel]). Always the same order, so always the same result. `out` is a view (N, K, P, Q), rows
// are (n, p, q) in that order; of a matrix product it is (batch, N, M, 1). Neighbouring threads take neighbouring
// channels: the partial sums, by far the most bytes, are read coalesced.
#pragma once

#include "../primitives/epilogue.cuh"
#include "../primitives/launch.h"

namespace fastconv::cuda {

template <class T>
struct SplitKReduceParams {
  const accumulate_t<T>* partials;
  int splits;
  int64_t pitch;         // of a row of partial sums: channels, or more
  int64_t split_stride;  // elements of one split's partial sums
  TensorView out;
  EpilogueArgs epilogue;
};

template <class T>
__global__ void __launch_bounds__(256) split_k_reduce_kernel(const __grid_constant__ SplitKReduceParams<T> params) {
  using Acc = accumulate_t<T>;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= params.split_stride) return;
  const int64_t row = i / params.pitch, k = i - row * params.pitch;
  if (k >= params.out.size[1]) return;
  const Acc* from = params.partials + i;
  Acc sum = from[0];
#pragma unroll 4
  for (int split = 1; split < params.splits; ++split) sum += from[split * params.split_stride];
  const int64_t image = params.out.size[2] * params.out.size[3];
  const int64_t n = row / image, p = (row - n * image) / params.out.size[3];
  const int64_t q = row - n * image - p * params.out.size[3];
  params.out.template as<T>()[params.out.offset(n, k, p, q)] = apply_epilogue<T>(params.epilogue, sum, n, k, p, q);
}

// `pitch`: how many elements rows of partial sums lie apart, 0 where they are dense.
template <class T>
void launch_split_k_reduce(const accumulate_t<T>* partials, int splits, const TensorView& out,
                           const EpilogueArgs& epilogue, void* stream, int64_t pitch = 0) {
  if (pitch == 0) pitch = out.size[1];
  const int64_t sums = out.numel() / out.size[1] * pitch;
  SplitKReduceParams<T> params = {partials, splits, pitch, sums, out, epilogue};
  constexpr int64_t kThreads = 256;
  LaunchConfig config;
  config.stream = stream;
  config.block = dim3(kThreads);
  config.grid = dim3(static_cast<unsigned>((sums + kThreads - 1) / kThreads));
  config.footprint.reads("partials", partials, static_cast<size_t>(splits * sums) * sizeof(accumulate_t<T>))
      .writes("d", out)
      .reads(epilogue, out.dtype, out.size[1]);
  launch("split_k_reduce", config, split_k_reduce_kernel<T>, params);
}

}  // namespace fastconv::cuda
