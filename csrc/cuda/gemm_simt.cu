// The GEMM rows "simt" and "simt_split_k": any dtype, any strides, on CUDA cores.
#include "algorithms.h"
#include "gemm_rows.h"
#include "kernels/gemm_simt.cuh"
#include "kernels/split_k_reduce.cuh"

namespace fastconv::cuda {
namespace {

// 128 x 128 tiles do twice the arithmetic on every loaded value; double has the small ones only, as its accumulators
// take twice the registers.
template <class T>
using SmallTile = GemmSimtConfig<T, 64, 64, sizeof(T) == 8 ? 8 : 16, 4, 4>;
template <class T>
using LargeTile = GemmSimtConfig<T, 128, 128, 8, 8, 8>;
constexpr int kLongestStep = 16;  // of these tiles, along K: parts of a split are multiples of it

TilePlan plan(const GemmCall& call, bool split) {
  const int bytes = static_cast<int>(dtype_size(call.dtype));
  const int64_t most = tuning(current_device().architecture).split_max;
  const int partial = static_cast<int>(dtype_size(accumulate_dtype(call.dtype)));
  const SplitRule rule = split ? SplitRule{2, most, 1, partial} : kUnsplit;
  TileKernel large = simt_kernel(bytes, 128, 128), small = simt_kernel(bytes, 64, 64);
  large.tile_k = small.tile_k = kLongestStep;
  const TileProblem problem = tile_problem(call);
  return call.dtype == DType::kFloat64 ? fastest({small}, problem, rule) : fastest({large, small}, problem, rule);
}

Reasons split_reasons(const GemmCall& call) {
  Reasons reasons = gemm_extent_reasons(call);
  refuse_unsplittable(reasons, call, kLongestStep);
  return reasons;
}

Prediction predict_simt(const GemmCall& call) { return plan(call, false).predicted; }
Prediction predict_simt_split_k(const GemmCall& call) { return plan(call, true).predicted; }

void run(const GemmCall& call, const CallContext& context, bool split) {
  if (call.batch == 0 || call.M == 0 || call.N == 0) return;
  LaunchConfig config = gemm_launch_config(call, context);
  const TilePlan chosen = plan(call, split);
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    accumulate_t<T>* partials = nullptr;
    if (split) partials = gemm_partials<accumulate_t<T>>(call, chosen.parts, context, config);
    visit_epilogue<T>(call.epilogue, [&](auto epilogue) {
      if constexpr (sizeof(T) < 8) {
        if (chosen.predicted.tile_m == 128)
          return launch_gemm_simt<LargeTile<T>>(call, epilogue, chosen.parts, partials, config);
      }
      launch_gemm_simt<SmallTile<T>>(call, epilogue, chosen.parts, partials, config);
    });
    if (split) launch_split_k_reduce<T>(partials, chosen.parts, gemm_output_view(call), call.epilogue, context.stream);
  });
}

void run_simt(const GemmCall& call, const CallContext& context) { run(call, context, false); }
void run_simt_split_k(const GemmCall& call, const CallContext& context) { run(call, context, true); }

}  // namespace

const Algorithm<GemmCall> kGemmSimt = {"simt",
                                       "register-tiled, double-buffered GEMM on CUDA cores",
                                       gemm_extent_reasons,
                                       nullptr,
                                       run_simt,
                                       seconds_of<GemmCall, predict_simt>,
                                       predict_simt};

const Algorithm<GemmCall> kGemmSimtSplitK = {
    "simt_split_k",      "as simt, K in parts for few tiles and a long K; partial sums are added in a fixed order",
    split_reasons,       nullptr,
    run_simt_split_k,    seconds_of<GemmCall, predict_simt_split_k>,
    predict_simt_split_k};

}  // namespace fastconv::cuda
