// The GEMM rows "wgmma" and "wgmma_tf32".
#include "algorithms.h"
#include "gemm_wgmma.h"
#include "kernels/gemm_wgmma.cuh"
#include "wgmma_support.h"

namespace fastconv::cuda {
namespace {

constexpr int kTileM = kGemmWgmmaTileM, kWideN = kGemmWgmmaWideN, kNarrowN = kGemmWgmmaNarrowN;

int64_t tiles(const GemmCall& call, int tile_n) { return tile_count(call.M, call.N, call.batch, kTileM, tile_n); }

void refuse_layout(Reasons& reasons, const GemmCall& call) {
  const auto operand = [&](const std::string& name, const void* data, int64_t rows, const char* row, int64_t stride_row,
                           int64_t stride_k, int64_t stride_batch) {
    const int64_t multiple = kTmaBytes / static_cast<int64_t>(dtype_size(call.dtype));
    const WgmmaOperand layout = wgmma_operand(rows, call.K, stride_row, stride_k, multiple);
    const std::string strides = name + " has strides (" + row + ", K) = (" + std::to_string(stride_row) + ", " +
                                std::to_string(stride_k) + "): ";
    if (const uintptr_t past = reinterpret_cast<uintptr_t>(data) % 16; past != 0) {
      reasons.push_back(name + " starts " + std::to_string(past) + " bytes past a multiple of 16");
    }
    if (!layout.served) {
      reasons.push_back(strides + "TMA needs a 1 beside a multiple of " + std::to_string(multiple));
    } else if (layout.mn_major && call.dtype == DType::kFloat32) {
      reasons.push_back(strides + "wgmma takes tf32 operands with K contiguous");
    }
    if (call.batch > 1 && (stride_batch < 0 || stride_batch % multiple != 0)) {
      reasons.push_back(name + " has a batch stride of " + std::to_string(stride_batch) + ", no multiple of " +
                        std::to_string(multiple));
    }
  };
  operand("a", call.a, call.M, "M", call.a_stride_m, call.a_stride_k, call.a_stride_batch);
  operand("b", call.b, call.N, "N", call.b_stride_n, call.b_stride_k, call.b_stride_batch);
}

Reasons reasons_for(const GemmCall& call, bool served_type, const char* types) {
  Reasons reasons = gemm_extent_reasons(call);
  refuse_without_wgmma(reasons);
  if (call.K == 0) reasons.push_back("K = 0");
  if (reasons.empty() && tiles(call, kNarrowN) > 0x7fffffff) {
    reasons.push_back(std::to_string(tiles(call, kNarrowN)) + " tiles are above 2^31 - 1");
  }
  if (!served_type) {
    reasons.push_back(std::string("dtype is ") + dtype_name(call.dtype) + ", not " + types);
  } else {
    refuse_layout(reasons, call);
  }
  return reasons;
}

Reasons wgmma_reasons(const GemmCall& call) {
  return reasons_for(call, dtype_size(call.dtype) == 2, "float16 or bfloat16");
}
Reasons wgmma_tf32_reasons(const GemmCall& call) { return reasons_for(call, call.dtype == DType::kFloat32, "float32"); }

bool allows_tf32(const GemmCall& call) { return call.allow_tf32; }

// Of the tiles whose consumers share each. Clusters, in which two blocks share what they fetch of B, start and end
// together: for more than one wave of wide tiles.
TilePlan plan(const GemmCall& call) {
  const int bytes = static_cast<int>(dtype_size(call.dtype));
  const TileKernel wide = wgmma_kernel(bytes, kWideN, 1), narrow = wgmma_kernel(bytes, kNarrowN, 1);
  const TileProblem problem = tile_problem(call);
  const int multiprocessors = current_device().multiprocessors;
  if (multiprocessors == 1 || tiles(call, kWideN) <= multiprocessors) return fastest({wide, narrow}, problem, kUnsplit);
  return fastest({wide, narrow, wgmma_kernel(bytes, kWideN, 2)}, problem, kUnsplit);
}

Prediction predict(const GemmCall& call) { return plan(call).predicted; }

// Clusters of the narrow tile, whose consumers take turns: where a second block seldom goes without a tile.
bool narrow_clusters(const GemmCall& call, const DeviceInfo& device) {
  const int64_t rows = (call.M + kTileM - 1) / kTileM;
  return device.multiprocessors > 1 && tiles(call, kNarrowN) > device.multiprocessors && (rows % 2 == 0 || rows > 16);
}

template <class T>
void launch_for(const GemmCall& call, const LaunchConfig& config) {
  const DeviceInfo& device = current_device();
  const bool residual_by_tma = tma_row_stride(call) > 0 && tma_residual_stride(call) > 0;
  visit_wgmma_epilogue<T>(call.epilogue, residual_by_tma, [&](auto epilogue) {
    const auto launch_tile = [&](auto tile) {
      launch_gemm_wgmma<decltype(tile)>(call, epilogue, config, device.multiprocessors);
    };
    const int64_t steps = (call.K * static_cast<int64_t>(sizeof(T)) + kSwizzleBytes - 1) / kSwizzleBytes;
    const Prediction chosen = predict(call);
    const bool wide = chosen.tile_n == kWideN;
    const WgmmaTurns turns = {tiles(call, kNarrowN), steps, wide, !decltype(epilogue)::kUnrolled};
    if (prefer_ping_pong(turns, device)) {
      narrow_clusters(call, device) ? launch_tile(WgmmaConfig<T, kNarrowN, 6, 2, true>())
                                    : launch_tile(WgmmaConfig<T, kNarrowN, 6, 1, true>());
    } else if (!wide) {
      launch_tile(WgmmaConfig<T, kNarrowN, 6>());
    } else {
      chosen.cluster > 1 ? launch_tile(WgmmaConfig<T, kWideN, 4, 2>()) : launch_tile(WgmmaConfig<T, kWideN, 4>());
    }
  });
}

void run_wgmma(const GemmCall& call, const CallContext& context) {
  if (call.batch == 0 || call.M == 0 || call.N == 0) return;
  const LaunchConfig config = gemm_launch_config(call, context);
  if (call.dtype == DType::kFloat16) launch_for<half_t>(call, config);
  if (call.dtype == DType::kBFloat16) launch_for<bfloat16_t>(call, config);
  if (call.dtype == DType::kFloat32) launch_for<float>(call, config);
}

}  // namespace

Reasons gemm_wgmma_reasons(const GemmCall& call, bool tf32) {
  return tf32 ? wgmma_tf32_reasons(call) : wgmma_reasons(call);
}

const Algorithm<GemmCall> kGemmWgmma = {
    "wgmma",       "Hopper's tensor cores (TMA, wgmma), float32 sums; operands whose rows are aligned to 16 bytes",
    wgmma_reasons, nullptr,
    run_wgmma,     seconds_of<GemmCall, predict>,
    predict};

const Algorithm<GemmCall> kGemmWgmmaTf32 = {
    "wgmma_tf32",
    "the same for float32, rounded to tf32, with K contiguous in both; unasked only where torch allows tf32",
    wgmma_tf32_reasons,
    allows_tf32,
    run_wgmma,
    seconds_of<GemmCall, predict>,
    predict,
    allows_tf32};

}  // namespace fastconv::cuda
