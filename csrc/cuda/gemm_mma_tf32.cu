// The GEMM rows "mma_tf32" and "mma_tf32_split_k": float32 on tensor cores, operands rounded to ten bits of mantissa.
#include "algorithms.h"
#include "kernels/gemm_mma_plan.cuh"

namespace fastconv::cuda {
namespace {

Reasons tf32_reasons(const GemmCall& call) {
  Reasons reasons = gemm_extent_reasons(call);
  if (call.dtype != DType::kFloat32) {
    reasons.push_back(std::string("dtype is ") + dtype_name(call.dtype) + ", not float32");
  }
  refuse_without_mma(reasons);
  return reasons;
}

Reasons tf32_split_k_reasons(const GemmCall& call) {
  Reasons reasons = tf32_reasons(call);
  refuse_unsplittable(reasons, call, 16);
  return reasons;
}

bool allows_tf32(const GemmCall& call) { return call.allow_tf32; }

Prediction predict_tf32(const GemmCall& call) { return plan_gemm_mma<float>(call, false).predicted; }
Prediction predict_tf32_split_k(const GemmCall& call) { return plan_gemm_mma<float>(call, true).predicted; }

void run_tf32(const GemmCall& call, const CallContext& context) { run_gemm_mma<float>(call, context, false); }
void run_tf32_split_k(const GemmCall& call, const CallContext& context) { run_gemm_mma<float>(call, context, true); }

}  // namespace

const Algorithm<GemmCall> kGemmMmaTf32 = {
    "mma_tf32",   "tensor cores, operands rounded to tf32, float32 sums; unasked only where torch allows tf32",
    tf32_reasons, allows_tf32,
    run_tf32,     seconds_of<GemmCall, predict_tf32>,
    predict_tf32, allows_tf32};

const Algorithm<GemmCall> kGemmMmaTf32SplitK = {
    "mma_tf32_split_k",   "as mma_tf32, K in parts for few tiles and a long K; partial sums are added in a fixed order",
    tf32_split_k_reasons, allows_tf32,
    run_tf32_split_k,     seconds_of<GemmCall, predict_tf32_split_k>,
    predict_tf32_split_k, allows_tf32};

}  // namespace fastconv::cuda
