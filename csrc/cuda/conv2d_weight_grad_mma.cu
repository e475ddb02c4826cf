// The conv2d_weight_grad rows "mma" and "mma_tf32".
#include <algorithm>

#include "algorithms.h"
#include "conv_mma.h"
#include "device.h"
#include "kernels/layout.cuh"
#include "kernels/weight_grad_mma.cuh"
#include "model.h"

namespace fastconv::cuda {
namespace {

Reasons reasons(const Conv2dWeightGradCall& call, bool tf32) {
  const ConvProblem& p = call.problem;
  Reasons reasons = phase_extent_reasons(p);
  add_mma_reasons(reasons, call.dtype, tf32);
  constexpr int64_t kMax = 0x7fffffff;
  const auto limit = [&](const char* what, int64_t value, int64_t most) {
    if (value > most) reasons.push_back(std::to_string(value) + what + std::to_string(most));
  };
  if (!reasons.empty()) return reasons;
  limit(" output pixels are above ", p.N * p.P * p.Q, kMax - 128);
  limit(" input pixels are above ", p.N * p.H * p.W, kMax - 32);
  limit(" columns of the gradient are above ", p.R * p.S * (p.channels_per_group() + 8), kMax - 128);
  return reasons;
}

Reasons mma_reasons(const Conv2dWeightGradCall& call) { return reasons(call, false); }
Reasons mma_tf32_reasons(const Conv2dWeightGradCall& call) { return reasons(call, true); }

bool mma_preferred(const Conv2dWeightGradCall& call) {
  return call.problem.channels_per_group() >= 8 && call.problem.filters_per_group() >= 8;
}
bool allows_tf32(const Conv2dWeightGradCall& call) { return call.allow_tf32; }
bool mma_tf32_preferred(const Conv2dWeightGradCall& call) { return call.allow_tf32 && mma_preferred(call); }

// Large tiles read dy and x least often; a side of 64 or less would leave half of them empty.
bool takes_large_tile(const ConvProblem& p) { return p.filters_per_group() > 64 && p.gemm_k() > 64; }

// Parts of the reduction over pixels, none of fewer than 32 k-steps, whose partial sums would cost more than they gain,
// and no more than 256 MiB of those. All sums go through the second kernel.
TilePlan plan(const Conv2dWeightGradCall& call) {
  const ConvProblem& p = call.problem;
  const int bytes = static_cast<int>(dtype_size(call.dtype));
  const int64_t chunk = 16 / bytes, channels = (p.channels_per_group() + chunk - 1) / chunk * chunk;
  const int64_t columns = p.R * p.S * channels;
  constexpr int64_t kMostBytes = int64_t{256} << 20;
  const int64_t most = std::max<int64_t>(1, kMostBytes / std::max<int64_t>(1, p.K * columns * 4));
  const double dy = static_cast<double>(call.dy.numel()) * bytes, x = static_cast<double>(call.x.numel()) * bytes;
  TileProblem problem{p.filters_per_group(), columns, p.N * p.P * p.Q, 1, p.groups, bytes, dy + x, 0, 0};
  const auto whole = [&](const TensorView& view, int64_t of_group) {
    return bytes == 2 ? in_whole_chunks<half_t>(view, of_group) : in_whole_chunks<float>(view, of_group);
  };
  if (!whole(call.dy, p.filters_per_group())) problem.pass_bytes += 2 * dy, ++problem.passes;
  if (!whole(call.x, p.channels_per_group())) problem.pass_bytes += 2 * x, ++problem.passes;
  const TileKernel large = bytes == 2 ? mma_kernel(2, 128, 128, 64, 64, 2) : mma_kernel(4, 128, 64, 32, 32, 2);
  const TileKernel small = mma_kernel(bytes, 64, 64, 32, 32, 4);
  return fastest({takes_large_tile(p) ? large : small}, problem, SplitRule{0, most, 32});
}

Prediction predict(const Conv2dWeightGradCall& call) { return plan(call).predicted; }

template <class Config>
void launch_weight_grad(const Conv2dWeightGradCall& call, const CallContext& context) {
  using T = typename Config::Element;
  constexpr int64_t kChunk = 16 / sizeof(T);
  const ConvProblem& p = call.problem;
  const auto padded = [](int64_t channels) { return (channels + kChunk - 1) / kChunk * kChunk; };
  const int64_t filters = p.filters_per_group(), channels = p.channels_per_group();
  const TensorView dy = in_whole_chunks<T>(call.dy, filters) && call.dy.is_nhwc()
                            ? call.dy
                            : packed_channels<T>(call.dy, p.groups, padded(filters), context);
  const TensorView x =
      in_whole_chunks<T>(call.x, channels) ? call.x : packed_channels<T>(call.x, p.groups, padded(channels), context);

  WeightGradMmaParams<T> params;
  params.dy = dy.as<const T>();
  params.dy_stride_pixel = dy.size[1], params.dy_stride_group = padded(filters);
  params.x = x.as<const T>();
  params.x_stride_n = x.stride[0], params.x_stride_h = x.stride[2], params.x_stride_w = x.stride[3];
  params.filters = static_cast<int>(filters), params.padded_filters = static_cast<int>(padded(filters));
  params.channels = static_cast<int>(channels), params.padded_channels = static_cast<int>(padded(channels));
  params.H = static_cast<int>(p.H), params.W = static_cast<int>(p.W);
  params.taps = static_cast<int>(p.R * p.S), params.S = static_cast<int>(p.S);
  params.stride_h = static_cast<int>(p.stride_h), params.stride_w = static_cast<int>(p.stride_w);
  params.pad_top = static_cast<int>(p.pad_top), params.pad_left = static_cast<int>(p.pad_left);
  params.dilation_h = static_cast<int>(p.dilation_h), params.dilation_w = static_cast<int>(p.dilation_w);
  params.pixels = static_cast<int>(p.N * p.P * p.Q);
  params.P = FastDivmod(p.P), params.Q = FastDivmod(p.Q);
  params.groups = static_cast<int>(p.groups);

  const int64_t columns = p.R * p.S * params.padded_channels, elements = p.K * columns;
  const int64_t tiles_m = (filters + Config::kTileM - 1) / Config::kTileM;
  const int64_t tiles_n = (columns + Config::kTileN - 1) / Config::kTileN;
  const int64_t tiles = tiles_m * tiles_n * p.groups;
  const int64_t splits = plan(call).parts;
  const size_t partial_bytes = static_cast<size_t>(splits * elements) * sizeof(float);
  auto* partials = static_cast<float*>(context.workspace->allocate(partial_bytes));
  params.tiles_m = FastDivmod(tiles_m), params.tiles_n = FastDivmod(tiles_n);
  params.output = {nullptr, 1, columns, 0, false, false, partials, {}};

  LaunchConfig config;
  config.stream = context.stream;
  config.footprint.reads("dy", dy).reads("x", x).scratch("partial sums", partials, partial_bytes);
  config.block = dim3(Config::kThreads);
  config.grid = dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(splits));
  config.dynamic_shared_bytes = Config::kSharedBytes;
  launch("weight_grad_mma", config, weight_grad_mma_kernel<Config>, params);

  launch_weight_grad_mma_sum<T>(partials, static_cast<int>(splits), params.padded_channels, p, call.dw, context.stream);
}

template <class T>
void run_typed(const Conv2dWeightGradCall& call, const CallContext& context) {
  const ConvProblem& p = call.problem;
  if (takes_large_tile(p)) {
    // Floats are read from shared memory one by one, not by ldmatrix: addresses take the registers that a warp's tile
    // of 64 x 64 would need.
    constexpr int kN = sizeof(T) == 4 ? 64 : 128, kWarp = sizeof(T) == 4 ? 32 : 64;
    launch_weight_grad<MmaConfig<T, 128, kN, kWarp, kWarp, 4, Major::kMN, Major::kMN>>(call, context);
  } else {
    launch_weight_grad<MmaConfig<T, 64, 64, 32, 32, 4, Major::kMN, Major::kMN>>(call, context);
  }
}

void run_mma(const Conv2dWeightGradCall& call, const CallContext& context) {
  if (call.dtype == DType::kFloat16) return run_typed<half_t>(call, context);
  if (call.dtype == DType::kBFloat16) return run_typed<bfloat16_t>(call, context);
  run_typed<float>(call, context);
}

}  // namespace

const Algorithm<Conv2dWeightGradCall> kWeightGradMma = {
    "mma",
    "implicit GEMM on tensor cores, fp16 and bf16, output pixels split over blocks and their sums added in a fixed "
    "order; dy and x that are not NHWC with whole 16-byte chunks of channels are packed into the workspace first",
    mma_reasons,
    mma_preferred,
    run_mma,
    seconds_of<Conv2dWeightGradCall, predict>,
    predict};

const Algorithm<Conv2dWeightGradCall> kWeightGradMmaTf32 = {
    "mma_tf32",       "the same for float32, rounded to tf32 (10 bits of mantissa), where torch allows it",
    mma_tf32_reasons, mma_tf32_preferred,
    run_mma,          seconds_of<Conv2dWeightGradCall, predict>,
    predict,          allows_tf32};

}  // namespace fastconv::cuda
