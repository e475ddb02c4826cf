// The conv2d rows "mma" and "mma_tf32".
#include "algorithms.h"
#include "conv_mma.h"

namespace fastconv::cuda {
namespace {

Reasons reasons(const Conv2dCall& call, bool tf32) {
  Reasons reasons = forward_mma_reasons(call, tf32);
  if (reasons.empty()) add_conv_mma_reasons(reasons, forward_mma(call));
  return reasons;
}

Reasons mma_reasons(const Conv2dCall& call) { return reasons(call, false); }
Reasons mma_tf32_reasons(const Conv2dCall& call) { return reasons(call, true); }

bool mma_preferred(const Conv2dCall& call) { return conv_mma_preferred(forward_mma(call)); }
bool allows_tf32(const Conv2dCall& call) { return call.allow_tf32; }
bool mma_tf32_preferred(const Conv2dCall& call) { return call.allow_tf32 && mma_preferred(call); }

Prediction predict(const Conv2dCall& call) { return plan_conv_mma(forward_mma(call)).predicted; }

void run_mma(const Conv2dCall& call, const CallContext& context) { run_conv_mma(forward_mma(call), context); }

}  // namespace

const Algorithm<Conv2dCall> kConv2dMma = {
    "mma",
    "implicit GEMM on tensor cores, fp16 and bf16; an x that is not NHWC with whole 16-byte chunks of channels, and "
    "weights that are not KRSC, are packed into the workspace first",
    mma_reasons,
    mma_preferred,
    run_mma,
    seconds_of<Conv2dCall, predict>,
    predict};

const Algorithm<Conv2dCall> kConv2dMmaTf32 = {
    "mma_tf32",       "the same for float32, rounded to tf32 (10 bits of mantissa), where torch allows it",
    mma_tf32_reasons, mma_tf32_preferred,
    run_mma,          seconds_of<Conv2dCall, predict>,
    predict,          allows_tf32};

}  // namespace fastconv::cuda
