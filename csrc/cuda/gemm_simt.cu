// The GEMM row "simt".
#include "algorithms.h"
#include "gemm_rows.h"
#include "kernels/gemm_simt.cuh"

namespace fastconv::cuda {
namespace {

void run_simt(const GemmCall& call, const CallContext& context) {
  if (call.batch == 0 || call.M == 0 || call.N == 0) return;
  const LaunchConfig config = gemm_launch_config(call, context);
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    visit_epilogue<T>(call.epilogue, [&](auto epilogue) {
      // 64-row tiles where 128-row tiles would leave most of a large GPU idle, and for double, whose accumulators take
      // twice the registers.
      using Small = GemmSimtConfig<T, 64, 64, sizeof(T) == 8 ? 8 : 16, 4, 4>;
      if constexpr (sizeof(T) < 8) {
        using Large = GemmSimtConfig<T, 128, 128, 8, 8, 8>;
        const int64_t large_tiles = (call.M + 127) / 128 * ((call.N + 127) / 128) * call.batch;
        if (large_tiles >= 96) return launch_gemm_simt<Large>(call, epilogue, config);
      }
      launch_gemm_simt<Small>(call, epilogue, config);
    });
  });
}

}  // namespace

const Algorithm<GemmCall> kGemmSimt = {"simt", "register-tiled, double-buffered GEMM on CUDA cores",
                                       gemm_extent_reasons, nullptr, run_simt};

}  // namespace fastconv::cuda
