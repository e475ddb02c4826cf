// The row "parts" of blocks: the stages one after the other, each by the row that conv2d's table chooses for it.
#include "algorithms.h"

namespace fastconv::cuda {
namespace {

// A dense NHWC tensor of a stage's output.
TensorView between(const ConvProblem& p, DType dtype, const CallContext& context) {
  TensorView t{nullptr, dtype, {p.N, p.K, p.P, p.Q}, {p.P * p.Q * p.K, 1, p.Q * p.K, p.K}};
  t.data = context.workspace->allocate(static_cast<size_t>(t.numel()) * dtype_size(dtype));
  return t;
}

void run_stage(const ConvStage& stage, DType dtype, const TensorView& x, const TensorView& y,
               const CallContext& context) {
  Conv2dCall call;
  call.problem = stage.problem;
  call.dtype = dtype;
  call.x = x, call.w = stage.w, call.y = y;
  call.epilogue = stage.epilogue;
  select_algorithm(conv2d_algorithms(), call, "conv2d", "").run(call, context);
}

void run_inverted_residual(const InvertedResidualCall& call, const CallContext& context) {
  const TensorView hidden = between(call.expand.problem, call.dtype, context);
  const TensorView filtered = between(call.depthwise.problem, call.dtype, context);
  run_stage(call.expand, call.dtype, call.x, hidden, context);
  run_stage(call.depthwise, call.dtype, hidden, filtered, context);
  run_stage(call.project, call.dtype, filtered, call.y, context);
}

void run_depthwise_pointwise(const DepthwisePointwiseCall& call, const CallContext& context) {
  const TensorView filtered = between(call.depthwise.problem, call.dtype, context);
  run_stage(call.depthwise, call.dtype, call.x, filtered, context);
  run_stage(call.pointwise, call.dtype, filtered, call.y, context);
}

template <class Call>
Reasons none(const Call&) {
  return {};
}

constexpr const char* kSummary = "the stages one after the other, the tensors between them in the workspace";

}  // namespace

const Algorithm<InvertedResidualCall> kInvertedResidualParts = {"parts", kSummary, none<InvertedResidualCall>, nullptr,
                                                                run_inverted_residual};
const Algorithm<DepthwisePointwiseCall> kDepthwisePointwiseParts = {"parts", kSummary, none<DepthwisePointwiseCall>,
                                                                    nullptr, run_depthwise_pointwise};

}  // namespace fastconv::cuda
