// The conv2d_input_grad rows "mma" and "mma_tf32", which serve conv_transpose2d too.
#include "algorithms.h"
#include "conv_mma.h"

namespace fastconv::cuda {
namespace {

Reasons reasons(const Conv2dInputGradCall& call, bool tf32) {
  Reasons reasons = input_grad_phase_reasons(call.problem);
  add_mma_reasons(reasons, call.dtype, tf32);
  if (reasons.empty()) add_conv_mma_reasons(reasons, input_grad_mma(call));
  return reasons;
}

Reasons mma_reasons(const Conv2dInputGradCall& call) { return reasons(call, false); }
Reasons mma_tf32_reasons(const Conv2dInputGradCall& call) { return reasons(call, true); }

bool mma_preferred(const Conv2dInputGradCall& call) { return conv_mma_preferred(input_grad_mma(call)); }
bool allows_tf32(const Conv2dInputGradCall& call) { return call.allow_tf32; }
bool mma_tf32_preferred(const Conv2dInputGradCall& call) { return call.allow_tf32 && mma_preferred(call); }

Prediction predict(const Conv2dInputGradCall& call) { return plan_conv_mma(input_grad_mma(call)).predicted; }

void run_mma(const Conv2dInputGradCall& call, const CallContext& context) {
  run_conv_mma(input_grad_mma(call), context);
}

}  // namespace

const Algorithm<Conv2dInputGradCall> kInputGradMma = {
    "mma",
    "implicit GEMM on tensor cores, fp16 and bf16, all phases of the stride in one launch; weights are packed by phase "
    "into the workspace first, and so is a dy that is not NHWC with whole 16-byte chunks of channels",
    mma_reasons,
    mma_preferred,
    run_mma,
    seconds_of<Conv2dInputGradCall, predict>,
    predict};

const Algorithm<Conv2dInputGradCall> kInputGradMmaTf32 = {
    "mma_tf32",       "the same for float32, rounded to tf32 (10 bits of mantissa), where torch allows it",
    mma_tf32_reasons, mma_tf32_preferred,
    run_mma,          seconds_of<Conv2dInputGradCall, predict>,
    predict,          allows_tf32};

}  // namespace fastconv::cuda
