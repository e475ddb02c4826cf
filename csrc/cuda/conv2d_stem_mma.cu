// The conv2d row "stem_mma".
#include <algorithm>

#include "algorithms.h"
#include "conv_mma.h"
#include "device.h"
#include "kernels/stem_mma.cuh"
#include "model.h"

namespace fastconv::cuda {
namespace {

template <class T>
StemMmaParams<T> stem_params(const Conv2dCall& call) {
  using Config = StemMmaConfig<T>;
  const ConvProblem& p = call.problem;
  const auto narrow = [](int64_t v) { return static_cast<int>(v); };
  StemMmaParams<T> s;
  s.x = call.x, s.w = call.w;
  s.C = narrow(p.C), s.H = narrow(p.H), s.W = narrow(p.W), s.P = narrow(p.P), s.Q = narrow(p.Q);
  s.R = narrow(p.R), s.S = narrow(p.S);
  s.stride_h = narrow(p.stride_h), s.stride_w = narrow(p.stride_w);
  s.pad_top = narrow(p.pad_top), s.pad_left = narrow(p.pad_left);
  s.dilation_h = narrow(p.dilation_h), s.dilation_w = narrow(p.dilation_w);
  s.patch_rows = (Config::kTileP - 1) * s.stride_h + (s.R - 1) * s.dilation_h + 1;
  s.patch_columns = (Config::kTileQ - 1) * s.stride_w + (s.S - 1) * s.dilation_w + 1;
  s.patch_width = FastDivmod(s.patch_columns);
  const int64_t tiles_p = (p.P + Config::kTileP - 1) / Config::kTileP;
  const int64_t tiles_q = (p.Q + Config::kTileQ - 1) / Config::kTileQ;
  s.tiles_p = FastDivmod(tiles_p), s.tiles_q = FastDivmod(tiles_q);
  s.tiles = narrow(p.N * tiles_p * tiles_q);
  s.out_stride_n = call.y.stride[0], s.out_stride_h = call.y.stride[2], s.out_stride_w = call.y.stride[3];
  s.output = {call.y.as<T>(), call.y.stride[1], p.K, 0, false, call.y.stride[1] != 1, nullptr, call.epilogue};
  bool aligned_rows = true;
  for (const int axis : {0, 2, 3}) {
    aligned_rows = aligned_rows && (call.y.size[axis] == 1 || call.y.stride[axis] % 8 == 0);
  }
  s.output.vectors = mma_vectors(s.output, aligned_rows);
  return s;
}

template <class T>
int64_t shared_bytes(const StemMmaParams<T>& s) {
  const int64_t patch = static_cast<int64_t>(s.patch_rows) * s.patch_columns * sizeof(StemQuad<T>);
  return s.weight_bytes() + std::max<int64_t>(patch, StemMmaConfig<T>::Product::kSliceBytes);
}

Reasons stem_reasons(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  Reasons reasons = forward_mma_reasons(call, false);
  if (p.C > 4 || p.groups != 1) {
    reasons.push_back("needs at most 4 input channels in one group, but there are " + std::to_string(p.C) + " in " +
                      std::to_string(p.groups));
  }
  const int64_t tiles = p.N * ((p.P + 7) / 8) * ((p.Q + 15) / 16);
  add_patch_reasons(reasons, p, tiles, (p.K + 63) / 64, [&] { return shared_bytes(stem_params<half_t>(call)); });
  return reasons;
}

// Channels are held as four, filters in blocks of 64; half of the instructions gather.
Prediction predict(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  const double products = static_cast<double>(p.N * p.P * p.Q) * static_cast<double>((p.K + 63) / 64 * 64);
  return predict_stream(tensor_bytes(call), products * static_cast<double>(p.R * p.S * 4), true, 0.5, 1);
}

bool stem_preferred(const Conv2dCall& call) { return call.problem.K >= 8; }

template <class T>
void run_typed(const Conv2dCall& call, const CallContext& context) {
  const StemMmaParams<T> params = stem_params<T>(call);
  LaunchConfig config;
  config.stream = context.stream;
  config.footprint.reads("x", call.x)
      .reads("w", call.w)
      .writes("y", call.y)
      .reads(call.epilogue, call.dtype, call.problem.K);
  // As many blocks as run at once stay for all tiles, or fewer where there are fewer tiles.
  const int blocks = std::min(params.tiles, kStemMinBlocks * std::max(current_device().multiprocessors, 1));
  config.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>((call.problem.K + 63) / 64));
  config.block = dim3(StemMmaConfig<T>::kThreads);
  config.dynamic_shared_bytes = static_cast<size_t>(shared_bytes(params));
  launch("stem_mma", config, stem_mma_kernel<T>, params);
}

void run_stem(const Conv2dCall& call, const CallContext& context) {
  if (call.dtype == DType::kFloat16) return run_typed<half_t>(call, context);
  run_typed<bfloat16_t>(call, context);
}

}  // namespace

const Algorithm<Conv2dCall> kConv2dStemMma = {
    "stem_mma",
    "up to four input channels, held as four in shared memory, on tensor cores, fp16 and bf16; any layout",
    stem_reasons,
    stem_preferred,
    run_stem,
    nullptr,
    predict};

}  // namespace fastconv::cuda
