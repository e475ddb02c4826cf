// The GEMM rows "mma" and "mma_split_k": float16 and bfloat16 on tensor cores.
#include "algorithms.h"
#include "kernels/gemm_mma_plan.cuh"

namespace fastconv::cuda {
namespace {

Reasons mma_reasons(const GemmCall& call) {
  Reasons reasons = gemm_extent_reasons(call);
  if (dtype_size(call.dtype) != 2) {
    reasons.push_back(std::string("dtype is ") + dtype_name(call.dtype) + ", not float16 or bfloat16");
  }
  refuse_without_mma(reasons);
  return reasons;
}

Reasons mma_split_k_reasons(const GemmCall& call) {
  Reasons reasons = mma_reasons(call);
  refuse_unsplittable(reasons, call, 32);
  return reasons;
}

Prediction predict_mma(const GemmCall& call) { return plan_gemm_mma<half_t>(call, false).predicted; }
Prediction predict_mma_split_k(const GemmCall& call) { return plan_gemm_mma<half_t>(call, true).predicted; }

void run(const GemmCall& call, const CallContext& context, bool split) {
  call.dtype == DType::kFloat16 ? run_gemm_mma<half_t>(call, context, split)
                                : run_gemm_mma<bfloat16_t>(call, context, split);
}

void run_mma(const GemmCall& call, const CallContext& context) { run(call, context, false); }
void run_mma_split_k(const GemmCall& call, const CallContext& context) { run(call, context, true); }

}  // namespace

const Algorithm<GemmCall> kGemmMma = {
    "mma",
    "tensor cores (mma.sync), float32 sums; rows that are not aligned to 16 bytes are copied by the element",
    mma_reasons,
    nullptr,
    run_mma,
    seconds_of<GemmCall, predict_mma>,
    predict_mma};

const Algorithm<GemmCall> kGemmMmaSplitK = {
    "mma_split_k",       "as mma, K in parts for few tiles and a long K; partial sums are added in a fixed order",
    mma_split_k_reasons, nullptr,
    run_mma_split_k,     seconds_of<GemmCall, predict_mma_split_k>,
    predict_mma_split_k};

}  // namespace fastconv::cuda
