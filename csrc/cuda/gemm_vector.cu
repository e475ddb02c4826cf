// The GEMM row "gemv": M or N is 1.
#include "algorithms.h"
#include "gemm_rows.h"
#include "kernels/gemm_vector.cuh"

namespace fastconv::cuda {
namespace {

Reasons gemv_reasons(const GemmCall& call) {
  Reasons reasons = gemm_extent_reasons(call);
  if (call.M != 1 && call.N != 1) {
    reasons.push_back("M = " + std::to_string(call.M) + ", N = " + std::to_string(call.N) + ": neither is 1");
  }
  return reasons;
}

Prediction predict_gemv(const GemmCall& call) {
  const TileProblem p = tile_problem(call);
  const double products = static_cast<double>(p.M * p.N) * static_cast<double>(p.K * p.batch);
  return predict_stream(p.memory_bytes, products, false, 0.5, 1);
}

void run_gemv(const GemmCall& call, const CallContext& context) {
  if (call.batch == 0 || call.M == 0 || call.N == 0) return;
  const LaunchConfig config = gemm_launch_config(call, context);
  visit_dtype(call.dtype, [&](auto tag) {
    launch_gemv<typename decltype(tag)::type>(call, current_device().multiprocessors, config);
  });
}

}  // namespace

const Algorithm<GemmCall> kGemmVector = {"gemv",       "a matrix times a vector, every value read once, on CUDA cores",
                                         gemv_reasons, nullptr,
                                         run_gemv,     nullptr,
                                         predict_gemv};

}  // namespace fastconv::cuda
