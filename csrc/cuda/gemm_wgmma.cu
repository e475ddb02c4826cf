// The GEMM row "wgmma".
#include "algorithms.h"
#include "gemm_rows.h"
#include "kernels/gemm_wgmma.cuh"
#include "wgmma_support.h"

namespace fastconv::cuda {
namespace {

constexpr int kTileM = 128, kWideN = 256, kNarrowN = 128;

int64_t tiles(const GemmCall& call, int tile_n) { return tile_count(call.M, call.N, call.batch, kTileM, tile_n); }

void refuse_layout(Reasons& reasons, const GemmCall& call) {
  const auto operand = [&](const std::string& name, const void* data, int64_t rows, const char* row, int64_t stride_row,
                           int64_t stride_k, int64_t stride_batch) {
    if (const uintptr_t past = reinterpret_cast<uintptr_t>(data) % 16; past != 0) {
      reasons.push_back(name + " starts " + std::to_string(past) + " bytes past a multiple of 16");
    }
    if (!wgmma_operand(rows, call.K, stride_row, stride_k).served) {
      reasons.push_back(name + " has strides (" + row + ", K) = (" + std::to_string(stride_row) + ", " +
                        std::to_string(stride_k) + "): TMA needs a 1 beside a multiple of 8");
    }
    if (call.batch > 1 && (stride_batch < 0 || stride_batch % 8 != 0)) {
      reasons.push_back(name + " has a batch stride of " + std::to_string(stride_batch) + ", no multiple of 8");
    }
  };
  operand("a", call.a, call.M, "M", call.a_stride_m, call.a_stride_k, call.a_stride_batch);
  operand("b", call.b, call.N, "N", call.b_stride_n, call.b_stride_k, call.b_stride_batch);
}

Reasons wgmma_reasons(const GemmCall& call) {
  Reasons reasons = gemm_extent_reasons(call);
  refuse_without_wgmma(reasons);
  if (call.K == 0) reasons.push_back("K = 0");
  if (reasons.empty() && tiles(call, kNarrowN) > 0x7fffffff) {
    reasons.push_back(std::to_string(tiles(call, kNarrowN)) + " tiles are above 2^31 - 1");
  }
  if (dtype_size(call.dtype) != 2) {
    reasons.push_back(std::string("dtype is ") + dtype_name(call.dtype) + ", not float16 or bfloat16");
  } else {
    refuse_layout(reasons, call);
  }
  return reasons;
}

// Where its large tiles keep at least half of the GPU busy, over a reduction that fills the ring at least once; the
// rest has smaller tiles, or K split, in mma.sync's rows.
bool wgmma_preferred(const GemmCall& call) {
  return 2 * tiles(call, kNarrowN) >= current_device().multiprocessors && call.K >= 256;
}

// One block a multiprocessor with either tile. The narrow one fetches a third more for the same product: 85 % of the
// wide one's rate is what that is taken to cost, not measured.
constexpr TilePair kTiles = {kTileM, kWideN, kTileM, kNarrowN, 1, 1, 85};

template <class T>
void launch_for(const GemmCall& call, const LaunchConfig& config) {
  const DeviceInfo& device = current_device();
  visit_epilogue<T>(call.epilogue, [&](auto epilogue) {
    if (prefer_large_tile(call.M, call.N, call.batch, kTiles, device)) {
      launch_gemm_wgmma<WgmmaConfig<T, kWideN, 4>>(call, epilogue, config, device.multiprocessors);
    } else {
      launch_gemm_wgmma<WgmmaConfig<T, kNarrowN, 6>>(call, epilogue, config, device.multiprocessors);
    }
  });
}

void run_wgmma(const GemmCall& call, const CallContext& context) {
  if (call.batch == 0 || call.M == 0 || call.N == 0) return;
  const LaunchConfig config = gemm_launch_config(call, context);
  call.dtype == DType::kFloat16 ? launch_for<half_t>(call, config) : launch_for<bfloat16_t>(call, config);
}

}  // namespace

const Algorithm<GemmCall> kGemmWgmma = {
    "wgmma", "Hopper's tensor cores (TMA, wgmma), float32 sums; operands whose rows are aligned to 16 bytes",
    wgmma_reasons, wgmma_preferred, run_wgmma};

}  // namespace fastconv::cuda
