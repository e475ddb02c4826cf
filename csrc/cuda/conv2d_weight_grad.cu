// The conv2d_weight_grad rows "implicit_gemm" and "direct" on CUDA cores.
#include "algorithms.h"
#include "device.h"
#include "kernels/weight_grad_direct.cuh"
#include "kernels/weight_grad_simt.cuh"
#include "phases.h"

namespace fastconv::cuda {
namespace {

bool is_empty(const ConvProblem& p) { return p.K == 0 || p.C == 0 || p.N * p.P * p.Q == 0; }

// ---- implicit_gemm ----
Reasons implicit_gemm_reasons(const Conv2dWeightGradCall& call) {
  const ConvProblem& p = call.problem;
  Reasons reasons = phase_extent_reasons(p);
  if (!reasons.empty()) return reasons;
  constexpr int64_t kMaxColumns = 0x7fffffff - 128;
  if (p.gemm_k() > kMaxColumns) {
    reasons.push_back("R * S * C / groups = " + std::to_string(p.gemm_k()) + " is above 2^31 - 129");
  } else if ((p.filters_per_group() + 63) / 64 * p.groups * ((p.gemm_k() + 63) / 64) > 0x7fffffff) {
    reasons.push_back("K * C / groups * R * S = " + std::to_string(p.K * p.gemm_k()) +
                      " makes more tiles than one grid holds");
  }
  return reasons;
}

void run_implicit_gemm(const Conv2dWeightGradCall& call, const CallContext& context) {
  const ConvProblem& p = call.problem;
  if (is_empty(p)) return;
  const int multiprocessors = current_device().multiprocessors;
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (sizeof(T) == 8) {
      launch_weight_grad_simt<WeightGradSimtConfig<T, 64, 64, 4, 4>>(call, context, multiprocessors);
    } else {
      // The large tile needs half the traffic; it pays where it is not mostly past the edges.
      if (p.filters_per_group() > 64 && p.gemm_k() > 64) {
        launch_weight_grad_simt<WeightGradSimtConfig<T, 128, 128, 8, 8>>(call, context, multiprocessors);
      } else {
        launch_weight_grad_simt<WeightGradSimtConfig<T, 64, 64, 8, 4>>(call, context, multiprocessors);
      }
    }
  });
}

// ---- direct ----
Reasons none(const Conv2dWeightGradCall&) { return {}; }

void run_direct(const Conv2dWeightGradCall& call, const CallContext& context) {
  if (is_empty(call.problem)) return;
  visit_dtype(call.dtype,
              [&](auto tag) { launch_weight_grad_direct<typename decltype(tag)::type>(call, context.stream); });
}

}  // namespace

const Algorithm<Conv2dWeightGradCall> kWeightGradImplicitGemm = {
    "implicit_gemm", "GEMM over the pixels in chunks, added in a fixed order, on CUDA cores", implicit_gemm_reasons,
    nullptr, run_implicit_gemm};

const Algorithm<Conv2dWeightGradCall> kWeightGradDirect = {
    "direct", "the definition, one element of dw a warp; any problem", none, nullptr, run_direct};

}  // namespace fastconv::cuda
