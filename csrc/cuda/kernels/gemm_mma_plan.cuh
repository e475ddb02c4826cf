// From a GemmCall to one of gemm_mma.cuh's kernels: loader by alignment, layouts by strides, tile and split by tuning.
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
struct GemmMmaPlan {
  OperandOrder a, b;
  bool large;
  int64_t tiles, steps;
  int resident;  // blocks of this tile on one multiprocessor

  bool chunks() const { return a.chunks && b.chunks; }
};

template <class T>
GemmMmaPlan<T> plan_gemm_mma(const GemmCall& call) {
  const DeviceInfo& device = current_device();
  const GemmTuning& t = tuning(device.architecture).gemm;
  GemmMmaPlan<T> plan;
  plan.a = operand_order<T>(call.a, call.batch, call.M, call.K, call.a_stride_batch, call.a_stride_m, call.a_stride_k);
  plan.b = operand_order<T>(call.b, call.batch, call.N, call.K, call.b_stride_batch, call.b_stride_n, call.b_stride_k);
  const TileChoice choice = {128, 128, 64, 64, t.mma_large_resident, t.mma_small_resident, t.mma_small_percent};
  plan.large = plan.chunks() && prefer_large_tile(call.M, call.N, call.batch, choice, device);
  plan.tiles = tile_count(call.M, call.N, call.batch, plan.large ? 128 : 64, plan.large ? 128 : 64);
  plan.resident = plan.large ? t.mma_large_resident : t.mma_small_resident;
  constexpr int64_t kTileK = 64 / sizeof(T);
  plan.steps = (call.K + kTileK - 1) / kTileK;
  return plan;
}

// Parts that K is best split into; 1: not at all.
template <class T>
int gemm_mma_parts(const GemmCall& call) {
  const GemmMmaPlan<T> plan = plan_gemm_mma<T>(call);
  const DeviceInfo& device = current_device();
  return split_parts(plan.tiles, plan.steps, plan.resident, tuning(device.architecture).gemm, device);
}

template <class T>
void run_gemm_mma(const GemmCall& call, const CallContext& context, bool split) {
  if (call.batch == 0 || call.M == 0 || call.N == 0) return;
  const GemmMmaPlan<T> plan = plan_gemm_mma<T>(call);
  LaunchConfig config = gemm_launch_config(call, context);
  // Asked for by name, K is split in two even where it does not pay.
  const int splits = split ? even_parts(std::max(2, gemm_mma_parts<T>(call)), plan.steps) : 1;
  float* partials = split ? gemm_partials<float>(call, splits, context, config) : nullptr;
  const auto launch_tile = [&](auto major_a, auto major_b) {
    constexpr Major kA = decltype(major_a)::value, kB = decltype(major_b)::value;
    if (plan.large) {
      launch_gemm_mma<MmaConfig<T, 128, 128, 64, 64, 4, kA, kB>, ChunkLoader>(call, splits, partials, config);
    } else {
      launch_gemm_mma<MmaConfig<T, 64, 64, 32, 32, 4, kA, kB>, ChunkLoader>(call, splits, partials, config);
    }
  };
  using AlongK = std::integral_constant<Major, Major::kK>;
  using AlongRows = std::integral_constant<Major, Major::kMN>;
  if (!plan.chunks()) {
    using Config = MmaConfig<T, 64, 64, 32, 32, 4, Major::kK, Major::kK>;
    launch_gemm_mma<Config, ElementLoader>(call, splits, partials, config);
  } else if (plan.a.major == Major::kK) {
    plan.b.major == Major::kK ? launch_tile(AlongK{}, AlongK{}) : launch_tile(AlongK{}, AlongRows{});
  } else {
    plan.b.major == Major::kK ? launch_tile(AlongRows{}, AlongK{}) : launch_tile(AlongRows{}, AlongRows{});
  }
  if (split) launch_split_k_reduce<T>(partials, splits, gemm_output_view(call), call.epilogue, context.stream);
}

}  // namespace fastconv::cuda
