// The conv2d_input_grad row "wgmma", which serves conv_transpose2d too.
#include "algorithms.h"
#include "phases_wgmma.h"

namespace fastconv::cuda {
namespace {

Reasons reasons(const Conv2dInputGradCall& call) {
  Reasons reasons = input_grad_phase_reasons(call.problem);
  if (reasons.empty()) add_phases_wgmma_reasons(reasons, input_grad_mma(call));
  return reasons;
}

Prediction predict(const Conv2dInputGradCall& call) { return plan_phases_wgmma(input_grad_mma(call)).predicted; }

void run(const Conv2dInputGradCall& call, const CallContext& context) {
  run_phases_wgmma(input_grad_mma(call), context);
}

}  // namespace

const Algorithm<Conv2dInputGradCall> kInputGradWgmma = {"wgmma",
                                                        "implicit GEMM on Hopper's tensor cores (TMA im2col, wgmma), "
                                                        "fp16 and bf16, all phases of the stride in one launch; "
                                                        "KRSC weights are read in place, others, and a dy that is not "
                                                        "NHWC with whole 16-byte chunks of channels, are packed "
                                                        "into the workspace first",
                                                        reasons,
                                                        nullptr,
                                                        run,
                                                        seconds_of<Conv2dInputGradCall, predict>,
                                                        predict};

}  // namespace fastconv::cuda
