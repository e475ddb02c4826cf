// The GEMM rows "wgmma_split_k" and "wgmma_tf32_split_k".
#include <algorithm>

#include "algorithms.h"
#include "gemm_wgmma.h"
#include "kernels/gemm_wgmma.cuh"
#include "kernels/split_k_reduce.cuh"

namespace fastconv::cuda {
namespace {

constexpr int64_t kMostParts = 2;  // for each multiprocessor

int64_t tiles(const GemmCall& call, int tile_n) {
  return tile_count(call.M, call.N, call.batch, kGemmWgmmaTileM, tile_n);
}

// Values of K in a step.
int step(const GemmCall& call) { return kSwizzleBytes / static_cast<int>(dtype_size(call.dtype)); }

// Rows of partial sums are whole sectors.
int64_t partial_columns(const GemmCall& call) { return (call.N + 7) / 8 * 8; }

// Of the wide tile and the narrow one.
TilePlan plan(const GemmCall& call) {
  const int bytes = static_cast<int>(dtype_size(call.dtype));
  const int64_t sums = std::max<int64_t>(1, call.batch * call.M * partial_columns(call));
  constexpr int64_t kMostBytes = int64_t{256} << 20;
  const SplitRule rule{2, std::min<int64_t>(kMostParts * current_device().multiprocessors, kMostBytes / (4 * sums)), 1};
  return fastest({wgmma_kernel(bytes, kGemmWgmmaWideN, 1), wgmma_kernel(bytes, kGemmWgmmaNarrowN, 1)},
                 tile_problem(call), rule);
}

Prediction predict(const GemmCall& call) { return plan(call).predicted; }

bool allows_tf32(const GemmCall& call) { return call.allow_tf32; }

Reasons reasons_for(const GemmCall& call, bool tf32) {
  Reasons reasons = gemm_wgmma_reasons(call, tf32);
  refuse_unsplittable(reasons, call, step(call));
  if (!reasons.empty()) return reasons;
  const int64_t most = tiles(call, kGemmWgmmaNarrowN) * kMostParts * current_device().multiprocessors;
  if (most > 0x7fffffff) reasons.push_back(std::to_string(most) + " parts of tiles are above 2^31 - 1");
  return reasons;
}

Reasons split_k_reasons(const GemmCall& call) { return reasons_for(call, false); }
Reasons tf32_split_k_reasons(const GemmCall& call) { return reasons_for(call, true); }

template <class T>
void run_typed(const GemmCall& call, const CallContext& context) {
  const TilePlan chosen = plan(call);
  const int parts = chosen.parts;
  const int64_t columns = partial_columns(call);
  GemmCall padded = call;
  padded.N = columns;
  LaunchConfig config = gemm_launch_config(call, context);
  float* partials = gemm_partials<float>(padded, parts, context, config);
  const int multiprocessors = current_device().multiprocessors;
  if (chosen.predicted.tile_n == kGemmWgmmaWideN) {
    launch_gemm_wgmma_parts<WgmmaConfig<T, kGemmWgmmaWideN, 4>>(call, parts, partials, columns, config,
                                                                multiprocessors);
  } else {
    launch_gemm_wgmma_parts<WgmmaConfig<T, kGemmWgmmaNarrowN, 6>>(call, parts, partials, columns, config,
                                                                  multiprocessors);
  }
  launch_split_k_reduce<T>(partials, parts, gemm_output_view(call), call.epilogue, context.stream, columns);
}

void run_split_k(const GemmCall& call, const CallContext& context) {
  if (call.batch == 0 || call.M == 0 || call.N == 0) return;
  if (call.dtype == DType::kFloat16) run_typed<half_t>(call, context);
  if (call.dtype == DType::kBFloat16) run_typed<bfloat16_t>(call, context);
  if (call.dtype == DType::kFloat32) run_typed<float>(call, context);
}

}  // namespace

const Algorithm<GemmCall> kGemmWgmmaSplitK = {
    "wgmma_split_k", "as wgmma, K in parts for few tiles and a long K; partial sums are added in a fixed order",
    split_k_reasons, nullptr,
    run_split_k,     seconds_of<GemmCall, predict>,
    predict};

const Algorithm<GemmCall> kGemmWgmmaTf32SplitK = {"wgmma_tf32_split_k",
                                                  "as wgmma_tf32, K in parts likewise",
                                                  tf32_split_k_reasons,
                                                  allows_tf32,
                                                  run_split_k,
                                                  seconds_of<GemmCall, predict>,
                                                  predict,
                                                  allows_tf32};

}  // namespace fastconv::cuda
