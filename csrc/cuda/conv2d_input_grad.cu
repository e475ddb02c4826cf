// The conv2d_input_grad rows "phases" and "direct" on CUDA cores; conv_transpose2d is the same table.
#include "algorithms.h"
#include "implicit_gemm_simt.h"
#include "kernels/input_grad_direct.cuh"

namespace fastconv::cuda {
namespace {

// ---- phases ----
Reasons phases_reasons(const Conv2dInputGradCall& call) {
  Reasons reasons = input_grad_phase_reasons(call.problem);
  return reasons.empty() ? implicit_gemm_simt_reasons(input_grad_phases(call)) : reasons;
}

// With few channels a group nearly all of a tile would be empty.
bool phases_preferred(const Conv2dInputGradCall& call) { return call.problem.channels_per_group() >= 4; }

void run_phases(const Conv2dInputGradCall& call, const CallContext& context) {
  implicit_gemm_simt(input_grad_phases(call), context);
}

// ---- direct ----
Reasons none(const Conv2dInputGradCall&) { return {}; }

void run_direct(const Conv2dInputGradCall& call, const CallContext& context) {
  const ConvProblem& p = call.problem;
  if (p.N == 0 || p.C == 0 || p.H == 0 || p.W == 0) return;
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    visit_epilogue<T>(call.epilogue, [&](auto epilogue) { launch_input_grad_direct<T>(call, epilogue, context); });
  });
}

}  // namespace

const Algorithm<Conv2dInputGradCall> kInputGradPhases = {
    "phases", "implicit GEMM over dy for every offset against the stride, in one launch, on CUDA cores", phases_reasons,
    phases_preferred, run_phases};

const Algorithm<Conv2dInputGradCall> kInputGradDirect = {
    "direct", "the definition, one element of dx a thread; any problem", none, nullptr, run_direct};

}  // namespace fastconv::cuda
