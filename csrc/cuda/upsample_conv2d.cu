// The upsample_conv2d rows "gather" (the products of the unfused pair) and "phase" (filters summed beforehand) on CUDA
// cores.
#include "algorithms.h"
#include "implicit_gemm_simt.h"
#include "kernels/implicit_gemm_simt.cuh"
#include "kernels/upsample_filters.cuh"

namespace fastconv::cuda {
namespace {

bool enough_channels(const Conv2dCall& call) { return call.problem.filters_per_group() >= kLeastImplicitGemmChannels; }

// ---- gather ----
Reasons gather_reasons(const Conv2dCall& call) {
  Reasons reasons = phase_extent_reasons(call.problem);
  return reasons.empty() ? implicit_gemm_simt_reasons(forward_phases(call)) : reasons;
}

void run_gather(const Conv2dCall& call, const CallContext& context) {
  implicit_gemm_simt(forward_phases(call), context);
}

// ---- phase ----
// Above this the sums cost more memory than they save work.
constexpr int64_t kMaxFilterSumBytes = int64_t{256} << 20;

Reasons phase_reasons(const Conv2dCall& call) {
  Reasons reasons = upsample_phase_reasons(call.problem);
  if (!reasons.empty()) return reasons;
  const PhasedConv c = upsample_phases(call);
  reasons = implicit_gemm_simt_reasons(c);
  const int64_t bytes = upsample_phase_weights(c) * dtype_size(accumulate_dtype(call.dtype));
  if (bytes > kMaxFilterSumBytes) {
    reasons.push_back("the summed filters would take " + std::to_string(bytes >> 20) + " MiB, more than " +
                      std::to_string(kMaxFilterSumBytes >> 20));
  }
  return reasons;
}

// Products along one axis, over all output rows.
int64_t axis_products(const PhaseAxis& axis) {
  int64_t products = 0;
  for (int phase = 0; phase < axis.phases; ++phase) products += int64_t{axis.count[phase]} * axis.taps[phase];
  return products;
}

bool phase_preferred(const Conv2dCall& call) {
  const PhasedConv summed = upsample_phases(call), plain = forward_phases(call);
  return enough_channels(call) &&
         axis_products(summed.h) * axis_products(summed.w) < axis_products(plain.h) * axis_products(plain.w);
}

void run_phase(const Conv2dCall& call, const CallContext& context) {
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using Acc = accumulate_t<T>;
    PhasedConv c = upsample_phases(call);
    Acc* sums = static_cast<Acc*>(context.workspace->allocate(upsample_phase_weights(c) * sizeof(Acc)));
    launch_upsample_filters<T>(call, c, sums, context.stream);
    c.weights = sums;
    if constexpr (sizeof(T) == sizeof(Acc)) {
      implicit_gemm_simt(c, context);
    } else {
      run_implicit_gemm_simt<T, Acc>(c, plan_implicit_gemm_simt(c), context.stream);
    }
  });
}

}  // namespace

const Algorithm<Conv2dCall> kUpsamplePhase = {
    "phase", "a convolution of x for every phase of the upsampling, with summed filters, on CUDA cores", phase_reasons,
    phase_preferred, run_phase};

const Algorithm<Conv2dCall> kUpsampleGather = {
    "gather", "implicit GEMM that reads x at the upsampled coordinate divided by the factor, on CUDA cores",
    gather_reasons, enough_channels, run_gather};

}  // namespace fastconv::cuda
