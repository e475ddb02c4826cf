// The row "fused_mma" of inverted_residual and depthwise_pointwise.
#include <string>

#include "algorithms.h"
#include "device.h"
#include "kernels/fused_block_mma.cuh"
#include "kernels/layout.cuh"

namespace fastconv::cuda {
namespace {

FusedBlock block_of(const InvertedResidualCall& c) { return {c.dtype, c.x, c.y, &c.expand, &c.depthwise, &c.project}; }
FusedBlock block_of(const DepthwisePointwiseCall& c) {
  return {c.dtype, c.x, c.y, nullptr, &c.depthwise, &c.pointwise};
}

// ---- reasons

std::string text(int64_t v) { return std::to_string(v); }

void unless_pointwise(const ConvStage& stage, const char* name, Reasons& reasons) {
  const ConvProblem& p = stage.problem;
  if (p.R * p.S == 1 && p.groups == 1 && p.stride_h == 1 && p.stride_w == 1 && !p.has_padding()) return;
  reasons.push_back(std::string("needs ") + name +
                    " to be a 1x1 filter of stride 1 without padding or groups, but it is " + text(p.R) + "x" +
                    text(p.S) + ", stride " + text(p.stride_h) + "x" + text(p.stride_w) + ", groups " + text(p.groups));
}

void unless_inner(const ConvStage& stage, const char* name, Reasons& reasons) {
  const EpilogueArgs& e = stage.epilogue;
  if (!e.residual.present() && !e.full_param.present() && !e.scale && !e.shift) return;
  reasons.push_back(std::string("needs ") + name + " to have a bias and an activation only, but it has a " +
                    (e.residual.present()     ? "residual"
                     : e.full_param.present() ? "PReLU slope of the output's shape"
                                              : "scale or shift"));
}

int64_t padded_taps(const ConvProblem& window) { return fused_detail::round_up(window.S, 8); }

FusedPlan plan_of(const FusedBlock& block, int64_t tap_pitch) {
  const DeviceInfo& device = current_device();
  return fused_plan(block, device.shared_bytes, device.multiprocessors, tap_pitch);
}

Reasons fused_reasons(const FusedBlock& block) {
  const ConvProblem& w = block.window();
  Reasons reasons = phase_extent_reasons(w);
  add_mma_reasons(reasons, block.dtype, false);
  if (block.expand) unless_pointwise(*block.expand, "expand", reasons), unless_inner(*block.expand, "expand", reasons);
  unless_inner(*block.depthwise, "depthwise", reasons);
  unless_pointwise(*block.project, block.expand ? "project" : "pointwise", reasons);
  if (w.groups != w.C || w.K != w.C) {
    reasons.push_back("needs one filter per channel between the products, but there are " + text(w.K) + " filters, " +
                      text(w.C) + " channels and " + text(w.groups) + " groups");
  }
  if (block.filters() > kFusedMaxFilters) {
    reasons.push_back("keeps the sums of " + text(kFusedMaxFilters) + " filters in registers, but there are " +
                      text(block.filters()));
  }
  constexpr int64_t kMost = 0x7fffffff;
  const auto& x = block.x;
  const int64_t reach = (x.size[2] - 1) * x.stride[2] + (x.size[3] - 1) * x.stride[3] + x.size[1] * 2;
  if (reach > kMost || x.size[1] * x.size[2] * x.size[3] > kMost / 2) {
    reasons.push_back("an image of x reaches over 2^31 elements or more");
  }
  const int64_t pixels = x.size[0] * x.size[2] * x.size[3];
  if (pixels > kMost && !in_whole_chunks<half_t>(x, x.size[1])) {
    reasons.push_back("x has to be packed, and its " + text(pixels) + " pixels are above 2^31 - 1");
  }
  if (w.C * w.R * padded_taps(w) > kMost || std::max(w.stride_h, w.stride_w) > 256 || w.N * w.P * w.Q > kMost) {
    reasons.push_back("filters of " + text(w.C * w.R * w.S) + " elements, strides of " + text(w.stride_h) + "x" +
                      text(w.stride_w) + " or " + text(w.N * w.P * w.Q) + " output pixels are too many");
  }
  if (!reasons.empty()) return reasons;
  const int64_t bytes = plan_of(block, padded_taps(w)).layout.total, available = current_device().shared_bytes;
  if (bytes > available) {
    reasons.push_back("a tile with " + text(block.expand ? block.channels() : w.C) + " channels, " +
                      text(block.filters()) + " filters and a window of " + text(w.R) + "x" + text(w.S) +
                      " needs at least " + text(bytes) + " bytes of shared memory, and a block has " + text(available));
  }
  return reasons;
}

// ---- whether to take it

// Clocks that the stages one by one take, counted: every tensor between them is written and read, through the memory at
// 4.1 TB/s or, up to 16 MiB, through the L2 cache at 6,154 bytes a clock (1.83 GHz, 132 multiprocessors of an H200);
// the window takes the instructions that it takes here. A launch is taken as 2 microseconds.
constexpr double kLaunchClocks = 3700, kMemoryBytes = 17, kCacheBytes = 47, kCached = 16 << 20;

double bytes_clocks(double bytes, double multiprocessors) {
  return bytes / (bytes > kCached ? kMemoryBytes : kCacheBytes) / multiprocessors;
}

bool prefers(const FusedBlock& block) {
  const ConvProblem &w = block.window(), &last = block.project->problem;
  const double all = std::max(current_device().multiprocessors, 1);
  const auto bytes = [](int64_t n, int64_t c, int64_t h, int64_t w) { return 2.0 * n * c * h * w; };
  const double hidden = bytes(w.N, w.C, w.H, w.W), filtered = bytes(w.N, w.K, w.P, w.Q);
  const double ends = (block.expand ? bytes_clocks(bytes(w.N, block.channels(), w.H, w.W), all) : 0) +
                      bytes_clocks(bytes(last.N, last.K, last.P, last.Q), all);
  const double window =
      std::max(bytes_clocks(hidden, all) + bytes_clocks(filtered, all), filtered / 2 * window_clocks(w) / all);
  const double parts = ends + (block.expand ? bytes_clocks(hidden, all) : 0) + window + bytes_clocks(filtered, all) +
                       kLaunchClocks * (block.expand ? 3 : 2);
  return kLaunchClocks + std::max(plan_of(block, padded_taps(w)).clocks, ends) < parts;
}

// ---- the launch

InnerEpilogue inner_epilogue(const EpilogueArgs& e) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  InnerEpilogue inner;
  inner.bias = static_cast<const float*>(e.bias);
  inner.channel_param = e.param_kind == ParamKind::kPerChannel ? static_cast<const float*>(e.channel_param) : nullptr;
  inner.param = static_cast<float>(e.param);
  inner.act = e.act;
  inner.clamps = e.act == Activation::kIdentity || e.act == Activation::kRelu || e.act == Activation::kRelu6;
  inner.low = e.act == Activation::kIdentity ? -kInfinity : 0.0f;
  inner.high = e.act == Activation::kRelu6 ? 6.0f : kInfinity;
  return inner;
}

// The filters one after the other, rows `tap_pitch` apart: where they lie if that is in whole 16-byte chunks.
template <class T>
TensorView dense_filters(const TensorView& w, int64_t& tap_pitch, const CallContext& context) {
  const int64_t R = w.size[2], S = w.size[3];
  tap_pitch = S;
  if (aligned_16(w.data) && w.size[0] * R * S % 8 == 0 && (w.size[0] == 1 || w.stride[0] == R * S) &&
      (R == 1 || w.stride[2] == S) && (S == 1 || w.stride[3] == 1)) {
    return w;
  }
  tap_pitch = fused_detail::round_up(S, 8);
  const TensorView rows{w.data, w.dtype, {w.size[0], S, R, 1}, {w.stride[0], w.stride[3], w.stride[2], 0}};
  return packed_channels<T>(rows, 1, tap_pitch, context);
}

template <class T>
TensorView whole_chunks(const TensorView& view, const CallContext& context) {
  return in_whole_chunks<T>(view, view.size[1])
             ? view
             : packed_channels<T>(view, 1, fused_detail::round_up(view.size[1], 8), context);
}

template <class Config>
void launch_fused(const FusedBlock& block, const FusedPlan& plan, const TensorView& x, const TensorView& filters,
                  const CallContext& context) {
  using T = typename Config::Element;
  const ConvProblem& w = block.window();
  const auto narrow = [](int64_t v) { return static_cast<int>(v); };
  FusedBlockParams<T> f;
  LaunchConfig config;
  f.x = x.as<const T>();
  f.x_stride_n = x.stride[0], f.x_stride_h = narrow(x.stride[2]), f.x_stride_w = narrow(x.stride[3]);
  f.x_chunks = narrow((block.x.size[1] + 7) / 8);
  f.expand_weights = nullptr, f.expand_row = 0, f.expand = {};
  if constexpr (Config::kExpands) {
    const TensorView weights = whole_chunks<T>(block.expand->w, context);
    f.expand_weights = weights.as<const T>(), f.expand_row = weights.stride[0];
    f.expand = inner_epilogue(block.expand->epilogue);
    config.footprint.reads("expand weight", weights).reads(block.expand->epilogue, block.dtype, w.C);
  }
  const TensorView weights = whole_chunks<T>(block.project->w, context);
  f.project_weights = weights.as<const T>(), f.project_row = weights.stride[0];
  f.filters = filters.as<const T>();
  f.hidden = narrow(w.C), f.hidden_chunks = narrow((w.C + 7) / 8), f.filter_count = narrow(block.filters());
  f.filter_elements = narrow(w.C * w.R * plan.layout.tap_pitch);
  const bool plain = w.dilation_h == 1 && w.dilation_w == 1 && w.R == w.S && w.stride_h == w.stride_w;
  const bool fixed = plain && (w.R == 3 || w.R == 5) && w.stride_h <= 2;
  f.window = {inner_epilogue(block.depthwise->epilogue),
              narrow(w.R),
              narrow(w.S),
              narrow(w.stride_h),
              narrow(w.stride_w),
              narrow(w.dilation_h),
              narrow(w.dilation_w),
              fixed ? narrow(10 * w.R + w.stride_h) : 0,
              FastDivmod((plan.layout.tile_q + 7) / 8)};
  f.H = narrow(w.H), f.W = narrow(w.W), f.P = narrow(w.P), f.Q = narrow(w.Q);
  f.pad_top = narrow(w.pad_top), f.pad_left = narrow(w.pad_left);
  f.layout = plan.layout;
  f.depth_chunks = FastDivmod(std::max(plan.layout.depth_chunks, 1)), f.tile_width = FastDivmod(plan.layout.tile_q);
  f.tiles_q = FastDivmod(plan.tiles_q), f.tiles_p = FastDivmod(plan.tiles_p);
  const TensorView& y = block.y;
  f.out_stride_n = y.stride[0], f.out_stride_h = y.stride[2], f.out_stride_w = y.stride[3];
  f.output = {y.as<T>(), y.stride[1], block.filters(), 0, false, y.stride[1] != 1, nullptr, block.project->epilogue};
  bool aligned_rows = true;
  for (const int axis : {0, 2, 3}) aligned_rows = aligned_rows && (y.size[axis] == 1 || y.stride[axis] % 8 == 0);
  f.output.vectors = mma_vectors(f.output, aligned_rows);

  config.stream = context.stream;
  config.footprint.reads("x", x).reads("filters", filters).reads("project weight", weights).writes("y", y);
  config.footprint.reads(block.depthwise->epilogue, block.dtype, w.C)
      .reads(block.project->epilogue, block.dtype, block.filters());
  config.block = dim3(Config::kThreads);
  config.grid = dim3(static_cast<unsigned>(w.N * plan.tiles_p * plan.tiles_q));
  config.dynamic_shared_bytes = static_cast<size_t>(plan.layout.total);
  launch("fused_block_mma", config, fused_block_mma_kernel<Config>, f);
}

template <class T, bool kExpands>
void run_typed(const FusedBlock& block, const CallContext& context) {
  int64_t tap_pitch = 0;
  const TensorView x = whole_chunks<T>(block.x, context);
  const TensorView filters = dense_filters<T>(block.depthwise->w, tap_pitch, context);
  const FusedPlan plan = plan_of(block, tap_pitch);
  if (plan.tile.filters == 64) {
    launch_fused<FusedBlockConfig<T, 128, 64, kExpands>>(block, plan, x, filters, context);
  } else if (plan.tile.filters == 128) {
    launch_fused<FusedBlockConfig<T, 64, 128, kExpands>>(block, plan, x, filters, context);
  } else {
    launch_fused<FusedBlockConfig<T, 64, 256, kExpands>>(block, plan, x, filters, context);
  }
}

template <class Call>
Reasons reasons_against(const Call& call) {
  return fused_reasons(block_of(call));
}
template <class Call>
bool preferred(const Call& call) {
  return prefers(block_of(call));
}
template <class Call, bool kExpands>
void run(const Call& call, const CallContext& context) {
  const FusedBlock block = block_of(call);
  if (call.dtype == DType::kFloat16) return run_typed<half_t, kExpands>(block, context);
  run_typed<bfloat16_t, kExpands>(block, context);
}

constexpr const char* kSummary =
    "all stages in one launch, the tensors between them in shared memory a chunk of channels at a time, on tensor "
    "cores, fp16 and bf16; operands that are not NHWC in whole 16-byte chunks are packed into the workspace first";

}  // namespace

const Algorithm<InvertedResidualCall> kInvertedResidualFusedMma = {
    "fused_mma", kSummary, reasons_against<InvertedResidualCall>, preferred<InvertedResidualCall>,
    run<InvertedResidualCall, true>};
const Algorithm<DepthwisePointwiseCall> kDepthwisePointwiseFusedMma = {
    "fused_mma", kSummary, reasons_against<DepthwisePointwiseCall>, preferred<DepthwisePointwiseCall>,
    run<DepthwisePointwiseCall, false>};

}  // namespace fastconv::cuda
