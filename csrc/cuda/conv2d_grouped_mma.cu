// The conv2d row "grouped_mma".
#include <algorithm>

#include "algorithms.h"
#include "conv_mma.h"
#include "device.h"
#include "kernels/grouped_mma.cuh"
#include "kernels/layout.cuh"
#include "model.h"

namespace fastconv::cuda {
namespace {

constexpr int kTileP = 8, kTileQ = 16, kSlab = 32;

struct Patch {
  int64_t rows, columns, weight_bytes, shared_bytes;
};

Patch patch_of(const ConvProblem& p) {
  Patch patch;
  patch.rows = (kTileP - 1) * p.stride_h + (p.R - 1) * p.dilation_h + 1;
  patch.columns = (kTileQ - 1) * p.stride_w + (p.S - 1) * p.dilation_w + 1;
  patch.weight_bytes = p.R * p.S * kSlab * p.channels_per_group() * 2;
  const int64_t slice = GroupedMmaConfig<half_t, 8>::Product::kSliceBytes;
  patch.shared_bytes = patch.weight_bytes + std::max<int64_t>(patch.rows * patch.columns * kSlab * 2, slice);
  return patch;
}

Reasons grouped_reasons(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  Reasons reasons = forward_mma_reasons(call, false);
  const int64_t channels = p.channels_per_group(), filters = p.filters_per_group();
  if ((channels != 8 && channels != 16) || filters != channels) {
    reasons.push_back("needs groups of 8 channels and 8 filters, or of 16 and 16, but they have " +
                      std::to_string(channels) + " and " + std::to_string(filters));
  }
  if (p.C % kSlab != 0) reasons.push_back(std::to_string(p.C) + " channels are no multiple of 32");
  const int64_t tiles = p.N * ((p.P + kTileP - 1) / kTileP) * ((p.Q + kTileQ - 1) / kTileQ);
  add_patch_reasons(reasons, p, tiles, p.C / kSlab, [&] { return patch_of(p).shared_bytes; });
  return reasons;
}

template <class T>
GroupedMmaParams<T> grouped_params(const Conv2dCall& call, const TensorView& x) {
  const ConvProblem& p = call.problem;
  const Patch patch = patch_of(p);
  const auto narrow = [](int64_t v) { return static_cast<int>(v); };
  GroupedMmaParams<T> g;
  g.x = x.as<const T>();
  g.x_stride_n = x.stride[0], g.x_stride_h = x.stride[2], g.x_stride_w = x.stride[3];
  g.w = call.w;
  g.H = narrow(p.H), g.W = narrow(p.W), g.P = narrow(p.P), g.Q = narrow(p.Q);
  g.R = narrow(p.R), g.S = narrow(p.S);
  g.stride_h = narrow(p.stride_h), g.stride_w = narrow(p.stride_w);
  g.pad_top = narrow(p.pad_top), g.pad_left = narrow(p.pad_left);
  g.dilation_h = narrow(p.dilation_h), g.dilation_w = narrow(p.dilation_w);
  g.patch_rows = narrow(patch.rows), g.patch_columns = narrow(patch.columns);
  g.patch_width = FastDivmod(patch.columns);
  g.weight_bytes = narrow(patch.weight_bytes);
  const int64_t tiles_p = (p.P + kTileP - 1) / kTileP, tiles_q = (p.Q + kTileQ - 1) / kTileQ;
  g.tiles_p = FastDivmod(tiles_p), g.tiles_q = FastDivmod(tiles_q);
  g.tiles = narrow(p.N * tiles_p * tiles_q);
  g.out_stride_n = call.y.stride[0], g.out_stride_h = call.y.stride[2], g.out_stride_w = call.y.stride[3];
  g.output = {call.y.as<T>(), call.y.stride[1], p.K, 0, false, call.y.stride[1] != 1, nullptr, call.epilogue};
  bool aligned_rows = true;
  for (const int axis : {0, 2, 3}) {
    aligned_rows = aligned_rows && (call.y.size[axis] == 1 || call.y.stride[axis] % 8 == 0);
  }
  g.output.vectors = mma_vectors(g.output, aligned_rows);
  return g;
}

template <class Config>
void launch_grouped(const Conv2dCall& call, const CallContext& context) {
  using T = typename Config::Element;
  static_assert(Config::kTileP == kTileP && Config::kTileQ == kTileQ && Config::kSlab == kSlab, "what patch_of counts");
  const ConvProblem& p = call.problem;
  const TensorView x = in_whole_chunks<T>(call.x, p.channels_per_group())
                           ? call.x
                           : packed_channels<T>(call.x, p.groups, p.channels_per_group(), context);
  const GroupedMmaParams<T> params = grouped_params<T>(call, x);
  LaunchConfig config;
  config.stream = context.stream;
  config.footprint.reads("x", x).reads("w", call.w).writes("y", call.y).reads(call.epilogue, call.dtype, p.K);
  // As many blocks as run at once stay for all tiles, or fewer where there are fewer tiles.
  const int64_t slabs = p.C / kSlab;
  const int64_t resident = (Config::kMinBlocks * std::max(current_device().multiprocessors, 1) + slabs - 1) / slabs;
  config.grid = dim3(static_cast<unsigned>(std::min<int64_t>(params.tiles, resident)), static_cast<unsigned>(slabs));
  config.block = dim3(Config::kThreads);
  config.dynamic_shared_bytes = static_cast<size_t>(patch_of(p).shared_bytes);
  launch("grouped_mma", config, grouped_mma_kernel<Config>, params);
}

template <class T>
void run_typed(const Conv2dCall& call, const CallContext& context) {
  if (call.problem.channels_per_group() == 8) return launch_grouped<GroupedMmaConfig<T, 8>>(call, context);
  launch_grouped<GroupedMmaConfig<T, 16>>(call, context);
}

// Products are 8 columns wide and at least 16 deep: groups of 8 fill half of them.
Prediction predict(const Conv2dCall& call) {
  const double products = static_cast<double>(call.y.numel()) * static_cast<double>(call.problem.R * call.problem.S);
  Prediction p = predict_stream(tensor_bytes(call), products * 16, true, 0.5, 1);
  if (!in_whole_chunks<half_t>(call.x, call.problem.channels_per_group())) {
    p.seconds += predict_stream(2.0 * static_cast<double>(call.x.numel()) * 2, 0, true, 1, 1).seconds;
  }
  return p;
}

void run_grouped(const Conv2dCall& call, const CallContext& context) {
  if (call.dtype == DType::kFloat16) return run_typed<half_t>(call, context);
  run_typed<bfloat16_t>(call, context);
}

}  // namespace

const Algorithm<Conv2dCall> kConv2dGroupedMma = {
    "grouped_mma",
    "groups of 8 or 16 channels and as many filters, several in a block, on tensor cores, fp16 and bf16; an x that is "
    "not NHWC in whole 16-byte chunks is packed into the workspace first",
    grouped_reasons,
    nullptr,
    run_grouped,
    nullptr,
    predict};

}  // namespace fastconv::cuda
