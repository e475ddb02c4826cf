// The row "parts" of blocks, on every backend: the stages one after the other, the tensors between them in the
// workspace. run(call, context) is the convolution of the backend; `slack` bytes follow each tensor.
#pragma once

#include "algorithm_table.h"

namespace fastconv {

inline Conv2dCall stage_call(const ConvStage& stage, DType dtype, const TensorView& x, const TensorView& y) {
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

// A dense NHWC tensor of a stage's output.
inline TensorView between(const ConvProblem& p, DType dtype, size_t slack, const CallContext& context) {
  TensorView t{nullptr, dtype, {p.N, p.K, p.P, p.Q}, {p.P * p.Q * p.K, 1, p.Q * p.K, p.K}};
  t.data = context.workspace->allocate(static_cast<size_t>(t.numel()) * dtype_size(dtype) + slack);
  return t;
}

template <class Call, class Run>
void run_stage_of(const Call& block, const ConvStage& stage, const TensorView& x, const TensorView& y, const Run& run,
                  const CallContext& context) {
  Conv2dCall call = stage_call(stage, block.dtype, x, y);
  call.allow_tf32 = block.allow_tf32;
  run(call, context);
}

template <class Run>
void run_parts(const InvertedResidualCall& call, const Run& run, size_t slack, const CallContext& context) {
  const TensorView hidden = between(call.expand.problem, call.dtype, slack, context);
  const TensorView filtered = between(call.depthwise.problem, call.dtype, slack, context);
  run_stage_of(call, call.expand, call.x, hidden, run, context);
  run_stage_of(call, call.depthwise, hidden, filtered, run, context);
  run_stage_of(call, call.project, filtered, call.y, run, context);
}

template <class Run>
void run_parts(const DepthwisePointwiseCall& call, const Run& run, size_t slack, const CallContext& context) {
  const TensorView filtered = between(call.depthwise.problem, call.dtype, slack, context);
  run_stage_of(call, call.depthwise, call.x, filtered, run, context);
  run_stage_of(call, call.pointwise, filtered, call.y, run, context);
}

}  // namespace fastconv
