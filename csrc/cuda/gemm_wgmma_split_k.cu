// The GEMM rows "wgmma_split_k" and "wgmma_tf32_split_k".
#include "algorithms.h"
#include "gemm_wgmma.h"
#include "kernels/gemm_mma_plan.cuh"
#include "kernels/gemm_wgmma.cuh"
#include "kernels/split_k_reduce.cuh"
#include "tuning/split_plan.h"

namespace fastconv::cuda {
namespace {

int64_t tiles(const GemmCall& call, int tile_n) {
  return tile_count(call.M, call.N, call.batch, kGemmWgmmaTileM, tile_n);
}

// Values of K in a step, and how many steps there are.
int step(const GemmCall& call) { return kSwizzleBytes / static_cast<int>(dtype_size(call.dtype)); }
int64_t steps(const GemmCall& call) { return (call.K + step(call) - 1) / step(call); }

struct Plan {
  int tile_n;
  SplitPlan split;
};

// Rows of partial sums are whole sectors.
int64_t partial_columns(const GemmCall& call) { return (call.N + 7) / 8 * 8; }

// The better of two tiles, of which count(tile_n, clocks of a step) makes a plan.
template <class Count>
Plan better_tile(const Count& count) {
  const auto with = [&](int tile_n, int percent) {
    return Plan{tile_n, count(tile_n, wgmma_step_clocks(kGemmWgmmaTileM, tile_n, percent))};
  };
  const Plan wide = with(kGemmWgmmaWideN, 100), narrow = with(kGemmWgmmaNarrowN, kGemmWgmmaNarrowPercent);
  return wide.split.clocks < narrow.split.clocks ? wide : narrow;
}

Plan plan(const GemmCall& call) {
  const int64_t sums = std::max<int64_t>(1, call.batch * call.M * partial_columns(call));
  return better_tile([&](int tile_n, double step_clocks) {
    return plan_split(tiles(call, tile_n), steps(call), step_clocks, sums, current_device(), 2);
  });
}

// Of the row without a split, counted in the same way.
double clocks_without(const GemmCall& call) {
  const Plan whole = better_tile([&](int tile_n, double step_clocks) {
    return SplitPlan{1, turns_cost(tiles(call, tile_n), steps(call), step_clocks, current_device())};
  });
  return whole.split.clocks;
}

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

// Where the count of clocks, and of the second launch, is below those of the other rows.
template <class T>
bool preferred(const GemmCall& call) {
  const double clocks = plan(call).split.clocks + tuning(current_device().architecture).gemm.launch_overhead;
  return clocks < clocks_without(call) && clocks < plan_gemm_mma<T>(call, false).clocks &&
         clocks < plan_gemm_mma<T>(call, true).clocks;
}

bool split_k_preferred(const GemmCall& call) { return preferred<half_t>(call); }
bool tf32_split_k_preferred(const GemmCall& call) { return call.allow_tf32 && preferred<float>(call); }

template <class T>
void run_typed(const GemmCall& call, const CallContext& context) {
  const Plan chosen = plan(call);
  const int parts = chosen.split.parts;
  const int64_t columns = partial_columns(call);
  GemmCall padded = call;
  padded.N = columns;
  LaunchConfig config = gemm_launch_config(call, context);
  float* partials = gemm_partials<float>(padded, parts, context, config);
  const int multiprocessors = current_device().multiprocessors;
  if (chosen.tile_n == kGemmWgmmaWideN) {
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
    split_k_reasons, split_k_preferred, run_split_k};

const Algorithm<GemmCall> kGemmWgmmaTf32SplitK = {"wgmma_tf32_split_k", "as wgmma_tf32, K in parts likewise",
                                                  tf32_split_k_reasons, tf32_split_k_preferred, run_split_k};

}  // namespace fastconv::cuda
