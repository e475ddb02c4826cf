// From a GemmCall to one of gemm_mma.cuh's kernels: loader by alignment, layouts by strides, tile and split by the
// model.
#pragma once

#include "../gemm_rows.h"
#include "gemm_mma.cuh"
#include "split_k_reduce.cuh"

namespace fastconv::cuda {

// How an operand can be copied in whole chunks.
struct OperandOrder {
  bool chunks;
  Major major;
};

// `rows` of M (N for operand B). A chunk must neither be misaligned nor cross the operand's border.
template <class T>
OperandOrder operand_order(const void* data, int64_t batch, int64_t rows, int64_t K, int64_t stride_batch,
                           int64_t stride_row, int64_t stride_k) {
  constexpr int64_t kChunk = 16 / sizeof(T);
  const auto apart = [&](int64_t extent, int64_t stride) { return extent == 1 || stride % kChunk == 0; };
  const bool aligned = reinterpret_cast<uintptr_t>(data) % 16 == 0 && apart(batch, stride_batch);
  if (aligned && stride_k == 1 && K % kChunk == 0 && apart(rows, stride_row)) return {true, Major::kK};
  if (aligned && stride_row == 1 && rows % kChunk == 0 && apart(K, stride_k)) return {true, Major::kMN};
  return {false, Major::kK};
}

template <class T>
struct GemmMmaOrders {
  OperandOrder a, b;

  explicit GemmMmaOrders(const GemmCall& c)
      : a(operand_order<T>(c.a, c.batch, c.M, c.K, c.a_stride_batch, c.a_stride_m, c.a_stride_k)),
        b(operand_order<T>(c.b, c.batch, c.N, c.K, c.b_stride_batch, c.b_stride_n, c.b_stride_k)) {}
  bool chunks() const { return a.chunks && b.chunks; }
};

// Of the tiles 128 x 128 and 64 x 64; operands that are copied by the element have the small one.
template <class T>
TilePlan plan_gemm_mma(const GemmCall& call, bool split) {
  const Tuning& t = tuning(current_device().architecture);
  const SplitRule rule = split ? SplitRule{2, t.split_max, 1} : kUnsplit;
  const TileKernel large = mma_kernel(sizeof(T), 128, 128, 64, 64, t.mma_large_resident);
  const TileKernel small = mma_kernel(sizeof(T), 64, 64, 32, 32, t.mma_small_resident);
  const TileProblem problem = tile_problem(call);
  return GemmMmaOrders<T>(call).chunks() ? fastest({large, small}, problem, rule) : fastest({small}, problem, rule);
}

template <class T>
void run_gemm_mma(const GemmCall& call, const CallContext& context, bool split) {
  if (call.batch == 0 || call.M == 0 || call.N == 0) return;
  const GemmMmaOrders<T> orders(call);
  const TilePlan plan = plan_gemm_mma<T>(call, split);
  LaunchConfig config = gemm_launch_config(call, context);
  float* partials = split ? gemm_partials<float>(call, plan.parts, context, config) : nullptr;
  const auto launch_tile = [&](auto major_a, auto major_b) {
    constexpr Major kA = decltype(major_a)::value, kB = decltype(major_b)::value;
    if (plan.predicted.tile_m == 128) {
      launch_gemm_mma<MmaConfig<T, 128, 128, 64, 64, 4, kA, kB>, ChunkLoader>(call, plan.parts, partials, config);
    } else {
      launch_gemm_mma<MmaConfig<T, 64, 64, 32, 32, 4, kA, kB>, ChunkLoader>(call, plan.parts, partials, config);
    }
  };
  using AlongK = std::integral_constant<Major, Major::kK>;
  using AlongRows = std::integral_constant<Major, Major::kMN>;
  if (!orders.chunks()) {
    using Config = MmaConfig<T, 64, 64, 32, 32, 4, Major::kK, Major::kK>;
    launch_gemm_mma<Config, ElementLoader>(call, plan.parts, partials, config);
  } else if (orders.a.major == Major::kK) {
    orders.b.major == Major::kK ? launch_tile(AlongK{}, AlongK{}) : launch_tile(AlongK{}, AlongRows{});
  } else {
    orders.b.major == Major::kK ? launch_tile(AlongRows{}, AlongK{}) : launch_tile(AlongRows{}, AlongRows{});
  }
  if (split) launch_split_k_reduce<T>(partials, plan.parts, gemm_output_view(call), call.epilogue, context.stream);
}

}  // namespace fastconv::cuda
