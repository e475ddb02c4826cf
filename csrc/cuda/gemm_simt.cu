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

bool large_tile(const GemmCall& call) {
  const DeviceInfo& device = current_device();
  const GemmTuning& t = tuning(device.architecture).gemm;
  const TileChoice choice = {128, 128, 64, 64, t.simt_large_resident, t.simt_small_resident, t.simt_small_percent};
  return call.dtype != DType::kFloat64 && prefer_large_tile(call.M, call.N, call.batch, choice, device);
}

int64_t steps(const GemmCall& call) {
  const int tile_k = large_tile(call) || call.dtype == DType::kFloat64 ? 8 : 16;
  return (call.K + tile_k - 1) / tile_k;
}

int parts(const GemmCall& call) {
  const DeviceInfo& device = current_device();
  const GemmTuning& t = tuning(device.architecture).gemm;
  const bool large = large_tile(call);
  const int tile = large ? 128 : 64;
  return split_parts(tile_count(call.M, call.N, call.batch, tile, tile), steps(call),
                     large ? t.simt_large_resident : t.simt_small_resident, t, device);
}

Reasons split_reasons(const GemmCall& call) {
  Reasons reasons = gemm_extent_reasons(call);
  refuse_unsplittable(reasons, call, 16);
  return reasons;
}

bool prefer_split(const GemmCall& call) { return parts(call) > 1; }

void run(const GemmCall& call, const CallContext& context, bool split) {
  if (call.batch == 0 || call.M == 0 || call.N == 0) return;
  LaunchConfig config = gemm_launch_config(call, context);
  // Asked for by name, K is split in two even where it does not pay.
  const int splits = split ? even_parts(std::max(2, parts(call)), steps(call)) : 1;
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    accumulate_t<T>* partials = nullptr;
    if (split) partials = gemm_partials<accumulate_t<T>>(call, splits, context, config);
    visit_epilogue<T>(call.epilogue, [&](auto epilogue) {
      if constexpr (sizeof(T) < 8) {
        if (large_tile(call)) return launch_gemm_simt<LargeTile<T>>(call, epilogue, splits, partials, config);
      }
      launch_gemm_simt<SmallTile<T>>(call, epilogue, splits, partials, config);
    });
    if (split) launch_split_k_reduce<T>(partials, splits, gemm_output_view(call), call.epilogue, context.stream);
  });
}

void run_simt(const GemmCall& call, const CallContext& context) { run(call, context, false); }
void run_simt_split_k(const GemmCall& call, const CallContext& context) { run(call, context, true); }

}  // namespace

const Algorithm<GemmCall> kGemmSimt = {"simt", "register-tiled, double-buffered GEMM on CUDA cores",
                                       gemm_extent_reasons, nullptr, run_simt};

const Algorithm<GemmCall> kGemmSimtSplitK = {
    "simt_split_k", "as simt, K in parts for few tiles and a long K; partial sums are added in a fixed order",
    split_reasons, prefer_split, run_simt_split_k};

}  // namespace fastconv::cuda
