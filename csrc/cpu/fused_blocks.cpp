// The algorithms of blocks: chains of convolutions whose inner tensors need not exist.
#include "algorithms.h"
#include "cpu_kernels.h"

namespace fastconv::cpu {
namespace {

// ---- parts: the stages one after the other, through tensors in the workspace

// A dense NHWC tensor of a stage's output.
TensorView between(const ConvProblem& p, DType dtype, const CallContext& context) {
  TensorView t{nullptr, dtype, {p.N, p.K, p.P, p.Q}, {p.P * p.Q * p.K, 1, p.Q * p.K, p.K}};
  t.data = context.workspace->allocate(static_cast<size_t>(t.numel()) * dtype_size(dtype) + 64);
  return t;
}

Conv2dCall stage_call(const ConvStage& stage, DType dtype, const TensorView& x, const TensorView& y) {
  Conv2dCall call;
  call.problem = stage.problem;
  call.dtype = dtype;
  call.x = x;
  call.w = stage.w;
  call.y = y;
  call.packed_w = stage.packed_w;
  call.epilogue = stage.epilogue;
  return call;
}

void run_stage(const ConvStage& stage, DType dtype, const TensorView& x, const TensorView& y,
               const CallContext& context) {
  const Conv2dCall call = stage_call(stage, dtype, x, y);
  stage.problem.is_depthwise() ? kernels().conv2d_depthwise(call, context)
                               : kernels().conv2d_implicit_gemm(call, context);
}

void inverted_residual_parts(const InvertedResidualCall& call, const CallContext& context) {
  const TensorView hidden = between(call.expand.problem, call.dtype, context);
  const TensorView filtered = between(call.depthwise.problem, call.dtype, context);
  run_stage(call.expand, call.dtype, call.x, hidden, context);
  run_stage(call.depthwise, call.dtype, hidden, filtered, context);
  run_stage(call.project, call.dtype, filtered, call.y, context);
}

void depthwise_pointwise_parts(const DepthwisePointwiseCall& call, const CallContext& context) {
  const TensorView filtered = between(call.depthwise.problem, call.dtype, context);
  run_stage(call.depthwise, call.dtype, call.x, filtered, context);
  run_stage(call.pointwise, call.dtype, filtered, call.y, context);
}

void conv_max_pool_parts(const ConvMaxPoolCall& call, const CallContext& context) {
  const TensorView convolved = between(call.conv.problem, call.dtype, context);
  run_stage(call.conv, call.dtype, call.x, convolved, context);
  PoolCall pool;
  pool.problem = call.pool;
  pool.dtype = call.dtype;
  pool.x = convolved;
  pool.y = call.y;
  kernels().max_pool2d(pool, context);
}

template <class Call>
Reasons none(const Call&) {
  return {};
}

template <class Call>
Reasons not_yet(const Call&) {
  return {"expected a kernel for this block, but this build has none"};
}

constexpr const char* kDepthFirst = "bands of rows through all stages, the tensors between them in the cache";
constexpr const char* kParts = "the stages one after the other, the tensors between them in memory";

}  // namespace

const AlgorithmTable<InvertedResidualCall>& inverted_residual_algorithms() {
  static const AlgorithmTable<InvertedResidualCall> table = {
      {"depth_first", kDepthFirst, not_yet<InvertedResidualCall>, nullptr, inverted_residual_parts},
      {"parts", kParts, none<InvertedResidualCall>, nullptr, inverted_residual_parts},
  };
  return table;
}

const AlgorithmTable<DepthwisePointwiseCall>& depthwise_pointwise_algorithms() {
  static const AlgorithmTable<DepthwisePointwiseCall> table = {
      {"depth_first", kDepthFirst, not_yet<DepthwisePointwiseCall>, nullptr, depthwise_pointwise_parts},
      {"parts", kParts, none<DepthwisePointwiseCall>, nullptr, depthwise_pointwise_parts},
  };
  return table;
}

const AlgorithmTable<ConvMaxPoolCall>& conv_max_pool_algorithms() {
  static const AlgorithmTable<ConvMaxPoolCall> table = {
      {"depth_first", kDepthFirst, not_yet<ConvMaxPoolCall>, nullptr, conv_max_pool_parts},
      {"parts", kParts, none<ConvMaxPoolCall>, nullptr, conv_max_pool_parts},
  };
  return table;
}

}  // namespace fastconv::cpu
