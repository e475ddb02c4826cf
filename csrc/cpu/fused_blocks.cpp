// The algorithms of blocks: chains of convolutions whose inner tensors need not exist.
#include "../common/block_parts.h"
#include "algorithms.h"
#include "cpu_kernels.h"

namespace fastconv::cpu {
namespace {

// ---- parts

constexpr size_t kSlack = 64;

void run_stage(const Conv2dCall& call, const CallContext& context) {
  // The algorithm whose format conv2d_pack makes of such a weight.
  const Kernels& k = kernels();
  const auto run = one_channel_each(call.problem, call.dtype, k.vector_bytes) ? k.conv2d_depthwise
                   : shares_vectors(call.problem, call.dtype, k.vector_bytes) ? k.conv2d_grouped
                                                                              : k.conv2d_implicit_gemm;
  run(call, context);
}

template <class Call>
void parts(const Call& call, const CallContext& context) {
  run_parts(call, run_stage, kSlack, context);
}

void conv_max_pool_parts(const ConvMaxPoolCall& call, const CallContext& context) {
  PoolCall pool;
  pool.problem = call.pool;
  pool.dtype = call.dtype;
  pool.x = between(call.conv.problem, call.dtype, kSlack, context);
  pool.y = call.y;
  run_stage(stage_call(call.conv, call.dtype, call.x, pool.x), context);
  kernels().max_pool2d(pool, context);
}

template <class Call>
Reasons none(const Call&) {
  return {};
}

// ---- depth first

// conv2d_pack makes panels of the weight, which these kernels read.
void unless_panels(const ConvStage& stage, const char* name, Reasons& reasons) {
  const int bytes = kernels().vector_bytes;
  if (!one_channel_each(stage.problem, stage.w.dtype, bytes) && !shares_vectors(stage.problem, stage.w.dtype, bytes))
    return;
  reasons.push_back(std::string("expected ") + name +
                    " to have filters that share channels and fill vectors, but got " +
                    std::to_string(stage.problem.K) + " filters, " + std::to_string(stage.problem.C) +
                    " channels, groups = " + std::to_string(stage.problem.groups));
}

void unless_pointwise(const ConvStage& stage, const char* name, Reasons& reasons) {
  const ConvProblem& p = stage.problem;
  const bool plain = p.R == 1 && p.S == 1 && p.groups == 1 && p.stride_h == 1 && p.stride_w == 1 && !p.has_padding();
  if (plain) return unless_panels(stage, name, reasons);
  reasons.push_back(std::string("expected ") + name + " to be a 1x1 filter of stride 1 without padding or groups, " +
                    "but got " + std::to_string(p.R) + "x" + std::to_string(p.S) + ", stride " +
                    std::to_string(p.stride_h) + ", groups " + std::to_string(p.groups));
}

void unless_inner(const ConvStage& stage, const char* name, Reasons& reasons) {
  const EpilogueArgs& e = stage.epilogue;
  if (!e.residual.present() && !e.full_param.present()) return;
  reasons.push_back(std::string("expected ") + name + " to have per-channel operands only, but got " +
                    (e.residual.present() ? "a residual" : "a PReLU slope of the output's shape"));
}

void unless_depthwise(const ConvStage& stage, DType dtype, Reasons& reasons) {
  const ConvProblem& p = stage.problem;
  if (!p.is_depthwise() || p.K != p.C) {
    reasons.push_back("expected the inner stage to have one filter per channel, but got " + std::to_string(p.K) +
                      " filters, " + std::to_string(p.C) + " channels, groups = " + std::to_string(p.groups));
  }
  if (dtype == DType::kFloat64) {
    reasons.push_back("expected float32, float16 or bfloat16, but got float64 (kept for checks, where parts do)");
  }
}

Reasons unless_inverted_residual(const InvertedResidualCall& call) {
  Reasons reasons;
  unless_pointwise(call.expand, "expand", reasons);
  unless_inner(call.expand, "expand", reasons);
  unless_depthwise(call.depthwise, call.dtype, reasons);
  unless_inner(call.depthwise, "depthwise", reasons);
  unless_pointwise(call.project, "project", reasons);
  return reasons;
}

Reasons unless_depthwise_pointwise(const DepthwisePointwiseCall& call) {
  Reasons reasons;
  unless_depthwise(call.depthwise, call.dtype, reasons);
  unless_inner(call.depthwise, "depthwise", reasons);
  unless_pointwise(call.pointwise, "pointwise", reasons);
  return reasons;
}

Reasons unless_conv_max_pool(const ConvMaxPoolCall& call) {
  Reasons reasons;
  unless_panels(call.conv, "conv", reasons);
  unless_inner(call.conv, "conv", reasons);
  if (call.pool.adaptive) reasons.push_back("expected windows of one size, but got adaptive ones");
  return reasons;
}

// A ring of the rows under one output row has to stay in L2; beyond that the parts stream as well.
constexpr int64_t kMostRingBytes = 1 << 20;

bool ring_fits(const ConvProblem& window, int64_t channels) {
  const int64_t rows = (window.R - 1) * window.dilation_h + 1, width = window.W + window.pad_left + window.pad_right;
  return rows * width * channels * 4 <= kMostRingBytes;
}

bool prefers_inverted_residual(const InvertedResidualCall& call) {
  return ring_fits(call.depthwise.problem, call.depthwise.problem.C);
}

bool prefers_conv_max_pool(const ConvMaxPoolCall& call) {
  const PoolProblem& p = call.pool;
  return ((p.window_h - 1) * p.dilation_h + 1) * p.W * p.C * 4 <= kMostRingBytes;
}

constexpr const char* kDepthFirst = "bands of rows through all stages, the tensors between them in the cache";
constexpr const char* kParts = "the stages one after the other, the tensors between them in memory";

}  // namespace

const AlgorithmTable<InvertedResidualCall>& inverted_residual_algorithms() {
  static const AlgorithmTable<InvertedResidualCall> table = {
      {"depth_first", kDepthFirst, unless_inverted_residual, prefers_inverted_residual,
       [](const InvertedResidualCall& call, const CallContext& context) {
         kernels().inverted_residual(call, context);
       }},
      {"parts", kParts, none<InvertedResidualCall>, nullptr, parts<InvertedResidualCall>},
  };
  return table;
}

const AlgorithmTable<DepthwisePointwiseCall>& depthwise_pointwise_algorithms() {
  static const AlgorithmTable<DepthwisePointwiseCall> table = {
      {"depth_first", kDepthFirst, unless_depthwise_pointwise, nullptr,
       [](const DepthwisePointwiseCall& call, const CallContext& context) {
         kernels().depthwise_pointwise(call, context);
       }},
      {"parts", kParts, none<DepthwisePointwiseCall>, nullptr, parts<DepthwisePointwiseCall>},
  };
  return table;
}

const AlgorithmTable<ConvMaxPoolCall>& conv_max_pool_algorithms() {
  static const AlgorithmTable<ConvMaxPoolCall> table = {
      {"depth_first", kDepthFirst, unless_conv_max_pool, prefers_conv_max_pool,
       [](const ConvMaxPoolCall& call, const CallContext& context) { kernels().conv_max_pool(call, context); }},
      {"parts", kParts, none<ConvMaxPoolCall>, nullptr, conv_max_pool_parts},
  };
  return table;
}

}  // namespace fastconv::cpu
