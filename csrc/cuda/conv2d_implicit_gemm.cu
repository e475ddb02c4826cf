// The conv2d row "implicit_gemm", and the kernel behind it for the tables that share it.
#include "algorithms.h"
#include "device.h"
#include "implicit_gemm_simt.h"
#include "kernels/implicit_gemm_simt.cuh"

namespace fastconv::cuda {

Reasons implicit_gemm_simt_reasons(const PhasedConv& c) {
  constexpr int64_t kMax = 0x7fffffff;
  Reasons reasons;
  const int64_t taps = static_cast<int64_t>(phase_detail::most_taps(c.h)) * phase_detail::most_taps(c.w);
  if (taps * c.in_channels > kMax - 64) {
    reasons.push_back("a reduction of " + std::to_string(taps * c.in_channels) + " is above 2^31 - 65");
  }
  const int64_t tiles = implicit_gemm_pixel_tiles(c, 64) * ((c.out_channels + 31) / 32) * c.groups;
  if (tiles > kMax) reasons.push_back(std::to_string(tiles) + " tiles are more than one grid holds");
  return reasons;
}

TilePlan plan_implicit_gemm_simt(const PhasedConv& c) {
  const int bytes = static_cast<int>(dtype_size(c.dtype));
  const int64_t weights =
      c.groups * c.out_channels * c.in_channels * most_of(c.h.taps) * most_of(c.w.taps) * c.phases();
  const int64_t results = c.out.numel() * (c.epilogue.residual.present() ? 2 : 1);
  const TileProblem problem{c.N * most_of(c.h.count) * most_of(c.w.count),
                            c.out_channels,
                            c.in_channels * most_of(c.h.taps) * most_of(c.w.taps),
                            1,
                            c.groups * c.phases(),
                            bytes,
                            static_cast<double>(c.in.numel() + weights + results) * bytes,
                            0,
                            0};
  if (bytes < 8 && c.out_channels <= 32) return fastest({simt_kernel(bytes, 64, 32)}, problem, kUnsplit);
  const TileKernel large = simt_kernel(bytes, 128, 128), small = simt_kernel(bytes, 64, 64);
  return bytes == 4 ? fastest({large, small}, problem, kUnsplit) : fastest({small}, problem, kUnsplit);
}

void implicit_gemm_simt(const PhasedConv& c, const CallContext& context) {
  visit_dtype(c.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    run_implicit_gemm_simt<T, T>(c, plan_implicit_gemm_simt(c), context.stream);
  });
}

namespace {

Reasons reasons_against(const Conv2dCall& call) {
  Reasons reasons = phase_extent_reasons(call.problem);
  return reasons.empty() ? implicit_gemm_simt_reasons(forward_phases(call)) : reasons;
}

bool preferred(const Conv2dCall& call) { return call.problem.filters_per_group() >= kLeastImplicitGemmChannels; }

Prediction predict(const Conv2dCall& call) { return plan_implicit_gemm_simt(forward_phases(call)).predicted; }

void run(const Conv2dCall& call, const CallContext& context) { implicit_gemm_simt(forward_phases(call), context); }

}  // namespace

const Algorithm<Conv2dCall> kConv2dImplicitGemm = {"implicit_gemm",
                                                   "GEMM whose left side is gathered from x, on CUDA cores",
                                                   reasons_against,
                                                   preferred,
                                                   run,
                                                   seconds_of<Conv2dCall, predict>,
                                                   predict};

}  // namespace fastconv::cuda
