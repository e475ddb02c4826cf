// The GEMM row "simt".
#include "algorithms.h"
#include "kernels/gemm_simt.cuh"

namespace fastconv::cuda {
namespace {

constexpr int64_t kMaxExtent = 0x7fffffff - 256;  // tile arithmetic is in int; offsets are 64-bit

Reasons simt_reasons(const GemmCall& call) {
  Reasons reasons;
  const auto limit = [&](const char* name, int64_t extent) {
    if (extent > kMaxExtent)
      reasons.push_back(std::string(name) + " = " + std::to_string(extent) + " is above 2^31 - 257");
  };
  limit("M", call.M);
  limit("N", call.N);
  limit("K", call.K);
  const int64_t tiles = (call.M + 63) / 64 * ((call.N + 63) / 64);
  if (reasons.empty() && tiles > 0x7fffffff) {
    reasons.push_back(std::to_string(tiles) + " tiles are more than one grid holds");
  }
  return reasons;
}

TensorView view(const void* data, DType dtype, const int64_t (&size)[3], const int64_t (&stride)[3]) {
  return {const_cast<void*>(data), dtype, {size[0], size[1], size[2], 1}, {stride[0], stride[1], stride[2], 0}};
}

void run_simt(const GemmCall& call, const CallContext& context) {
  if (call.batch == 0 || call.M == 0 || call.N == 0) return;
  LaunchConfig config;
  config.stream = context.stream;
  config.footprint
      .reads("a", view(call.a, call.dtype, {call.batch, call.M, call.K},
                       {call.a_stride_batch, call.a_stride_m, call.a_stride_k}))
      .reads("b", view(call.b, call.dtype, {call.batch, call.K, call.N},
                       {call.b_stride_batch, call.b_stride_k, call.b_stride_n}))
      .writes("d", view(call.d, call.dtype, {call.batch, call.M, call.N},
                        {call.d_stride_batch, call.d_stride_m, call.d_stride_n}))
      .reads(call.epilogue, call.dtype, call.N);
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

const Algorithm<GemmCall> kGemmSimt = {"simt", "register-tiled, double-buffered GEMM on CUDA cores", simt_reasons,
                                       nullptr, run_simt};

}  // namespace fastconv::cuda
