// The conv2d rows "winograd", "winograd_4x4" and "winograd_2x2".
#include <algorithm>

#include "algorithms.h"
#include "kernels/winograd.cuh"

namespace fastconv::cuda {
namespace {

// Filters and tiles are taken in chunks, so that U, and V and M together, keep to these. The second is what stays in
// the L2 cache of a large GPU from one step to the next. The emulator's problems are small, and meant to have several.
#if defined(FASTCONV_EMULATED)
constexpr int64_t kFilterChunkBytes = 256 << 10, kTileChunkBytes = 256 << 10;
#else
constexpr int64_t kFilterChunkBytes = 24 << 20, kTileChunkBytes = 32 << 20;
#endif

constexpr int64_t positions(int outputs) { return (outputs + 2) * (outputs + 2); }
int64_t tiles_of_image(const ConvProblem& c, int outputs) {
  return ((c.P + outputs - 1) / outputs) * ((c.Q + outputs - 1) / outputs);
}

template <int kOutputs>
Reasons reasons_against(const Conv2dCall& call) {
  const ConvProblem& c = call.problem;
  Reasons reasons;
  const auto pair = [](int64_t h, int64_t w) { return std::to_string(h) + "x" + std::to_string(w); };
  if (c.R != 3 || c.S != 3) reasons.push_back("needs a 3x3 filter, but it is " + pair(c.R, c.S));
  if (c.stride_h != 1 || c.stride_w != 1)
    reasons.push_back("needs stride 1, but it is " + pair(c.stride_h, c.stride_w));
  if (c.dilation_h != 1 || c.dilation_w != 1) {
    reasons.push_back("needs dilation 1, but it is " + pair(c.dilation_h, c.dilation_w));
  }
  if (c.scale_h != 1 || c.scale_w != 1) reasons.push_back("upsamples its input by " + pair(c.scale_h, c.scale_w));
  if (call.dtype == DType::kFloat64) reasons.push_back("sums in float32, and the tensors are float64");
  constexpr int64_t kMaxExtent = 0x20000000;  // coordinates are computed in int
  const int64_t most = std::max({c.H + c.pad_top + c.pad_bottom, c.W + c.pad_left + c.pad_right, c.C, c.K});
  if (most > kMaxExtent) reasons.push_back("an extent of " + std::to_string(most) + " is above 2^29");
  if (c.C == 0) reasons.push_back("there are no input channels");
  constexpr int64_t kMaxChannels = (int64_t{24} << 20) / (positions(kOutputs) * 4);
  if (c.C + c.groups > kMaxChannels) {
    reasons.push_back(std::to_string(c.C) + " channels of " + std::to_string(c.groups) +
                      " groups do not fit in a workspace of 64 MiB");
  }
  return reasons;
}

// V and U of every position and group, multiplied. Rows of the product are tiles where channels are innermost, else
// filters: the innermost extent is contiguous in all three.
template <class Config>
void multiply(const WinogradParams& params, const CallContext& context) {
  GemmCall gemm;
  const int64_t tiles = params.chunk.tiles, filters = params.chunk.filters, channels = params.channels;
  gemm.batch = int64_t{Config::kPositions} * params.groups;
  gemm.K = channels;
  gemm.d = params.m, gemm.d_stride_batch = tiles * filters, gemm.d_stride_n = 1;
  if (params.channels_innermost) {
    gemm.M = tiles, gemm.N = filters;
    gemm.a = params.v, gemm.a_stride_batch = tiles * channels, gemm.a_stride_m = channels, gemm.a_stride_k = 1;
    gemm.b = params.u, gemm.b_stride_batch = channels * filters, gemm.b_stride_k = filters, gemm.b_stride_n = 1;
    gemm.d_stride_m = filters;
  } else {
    gemm.M = filters, gemm.N = tiles;
    gemm.a = params.u, gemm.a_stride_batch = channels * filters, gemm.a_stride_m = 1, gemm.a_stride_k = filters;
    gemm.b = params.v, gemm.b_stride_batch = tiles * channels, gemm.b_stride_k = tiles, gemm.b_stride_n = 1;
    gemm.d_stride_m = tiles;
  }
  kGemmSimt.run(gemm, context);
}

template <class Config>
void run_chunks(const Conv2dCall& call, const CallContext& context) {
  const ConvProblem& c = call.problem;
  const auto as_int = [](int64_t v) { return static_cast<int>(v); };
  WinogradParams params;
  params.x = call.x, params.w = call.w, params.y = call.y;
  params.H = as_int(c.H), params.W = as_int(c.W), params.P = as_int(c.P), params.Q = as_int(c.Q);
  params.pad_top = as_int(c.pad_top), params.pad_left = as_int(c.pad_left);
  params.channels = as_int(c.channels_per_group()), params.filters = as_int(c.filters_per_group());
  params.groups = as_int(c.groups);
  params.tiles_h = as_int((c.P + Config::kOutputs - 1) / Config::kOutputs);
  params.tiles_w = as_int((c.Q + Config::kOutputs - 1) / Config::kOutputs);
  params.channels_innermost = call.y.stride[1] == 1;

  constexpr int64_t kPositions = Config::kPositions, kFloat = sizeof(float);
  const int64_t all_tiles = c.N * tiles_of_image(c, Config::kOutputs);
  const int64_t filters =
      std::min<int64_t>(params.filters, std::max<int64_t>(1, kFilterChunkBytes / (kPositions * c.C * kFloat)));
  const int64_t values = c.C + c.groups * filters;  // of a tile at one position, in V and M
  const int64_t tiles = std::min(all_tiles, std::max<int64_t>(1, kTileChunkBytes / (kPositions * values * kFloat)));
  const auto bytes_of = [&](int64_t floats) { return static_cast<size_t>(kPositions * floats * kFloat); };
  const auto allocate = [&](int64_t floats) {
    return static_cast<float*>(context.workspace->allocate(bytes_of(floats)));
  };
  params.u = allocate(c.C * filters), params.v = allocate(c.C * tiles), params.m = allocate(c.groups * filters * tiles);

  const auto config_for = [&](int64_t threads) {
    LaunchConfig config;
    config.stream = context.stream;
    config.block = dim3(Config::kThreads);
    config.grid = dim3(static_cast<unsigned>((threads + Config::kThreads - 1) / Config::kThreads));
    return config;
  };
  WinogradChunk& chunk = params.chunk;
  for (; chunk.first_filter < params.filters; chunk.first_filter += chunk.filters) {
    chunk.filters = as_int(std::min<int64_t>(filters, params.filters - chunk.first_filter));
    LaunchConfig config = config_for(c.C * chunk.filters);
    config.footprint.reads("w", call.w).scratch("U", params.u, bytes_of(c.C * chunk.filters));
    launch("winograd_filter", config, winograd_filter_kernel<Config>, params);
    for (chunk.first_tile = 0; chunk.first_tile < all_tiles; chunk.first_tile += chunk.tiles) {
      chunk.tiles = std::min(tiles, all_tiles - chunk.first_tile);
      config = config_for(c.C * chunk.tiles);
      config.footprint.reads("x", call.x).scratch("V", params.v, bytes_of(c.C * chunk.tiles));
      launch("winograd_input", config, winograd_input_kernel<Config>, params);
      multiply<Config>(params, context);
      const int64_t products = c.groups * chunk.filters * chunk.tiles;
      config = config_for(products);
      config.footprint.reads("M", params.m, bytes_of(products))
          .writes("y", call.y)
          .reads(call.epilogue, call.dtype, c.K);
      visit_epilogue<typename Config::Element>(call.epilogue, [&](const auto& epilogue) {
        using Epilogue = std::decay_t<decltype(epilogue)>;
        launch("winograd_output", config, winograd_output_kernel<Config, Epilogue>, params, epilogue);
      });
    }
  }
}

template <int kOutputs>
void run(const Conv2dCall& call, const CallContext& context) {
  const ConvProblem& c = call.problem;
  if (c.N == 0 || c.K == 0 || c.P == 0 || c.Q == 0) return;
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (sizeof(T) <= 4) run_chunks<WinogradConfig<T, kOutputs>>(call, context);
  });
}

// The larger tiles where they need fewer products, borders of the image included.
void run_fewer_products(const Conv2dCall& call, const CallContext& context) {
  const auto products = [&](int outputs) { return tiles_of_image(call.problem, outputs) * positions(outputs); };
  products(4) < products(2) ? run<4>(call, context) : run<2>(call, context);
}

// F(4x4) makes up to fifteen times torch's error (docs/numerics.md), and no GPU has shown yet what the fewer products
// gain beside the traffic of V and M: only who asks for it gets it.
bool preferred(const Conv2dCall&) { return false; }

}  // namespace

const Algorithm<Conv2dCall> kConv2dWinograd = {
    "winograd",
    "3x3 by minimal filtering, F(4x4) or F(2x2), whichever multiplies less; rearranged sums",
    reasons_against<4>,
    preferred,
    run_fewer_products,
    nullptr,
    nullptr,
    preferred};
const Algorithm<Conv2dCall> kConv2dWinograd4x4 = {
    "winograd_4x4",
    "3x3 by minimal filtering F(4x4, 3x3): 36 products for 16 outputs; rearranged sums",
    reasons_against<4>,
    preferred,
    run<4>,
    nullptr,
    nullptr,
    preferred};
const Algorithm<Conv2dCall> kConv2dWinograd2x2 = {
    "winograd_2x2",
    "3x3 by minimal filtering F(2x2, 3x3): 16 products for 4 outputs; rearranged sums",
    reasons_against<2>,
    preferred,
    run<2>,
    nullptr,
    nullptr,
    preferred};

}  // namespace fastconv::cuda
