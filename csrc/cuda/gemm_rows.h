// What the gemm rows have in common on the host: limits, the memory they touch, the shape of a split along K.
#pragma once

#include "../common/algorithm_table.h"
#include "device.h"
#include "model.h"
#include "primitives/launch.h"
#include "requirements.h"
#include "tuning/lookup.h"

namespace fastconv::cuda {

inline Reasons gemm_extent_reasons(const GemmCall& call) {
  constexpr int64_t kMaxExtent = 0x7fffffff - 256;  // tile arithmetic is in int; offsets are 64-bit
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

inline void refuse_unsplittable(Reasons& reasons, const GemmCall& call, int tile_k) {
  if (call.K <= tile_k) {
    reasons.push_back("K = " + std::to_string(call.K) + " is one step of " + std::to_string(tile_k) +
                      ": nothing to split");
  }
  if (call.batch > 65535) {
    reasons.push_back("batch = " + std::to_string(call.batch) + " fills the GPU without a split");
  }
}

// The product as the model sees it. Operands that all products of a batch share are read once.
inline TileProblem tile_problem(const GemmCall& call) {
  const auto values = [](int64_t a, int64_t b) { return static_cast<double>(a) * static_cast<double>(b); };
  const auto products = [&](int64_t stride) { return stride == 0 ? 1.0 : static_cast<double>(call.batch); };
  const int bytes = static_cast<int>(dtype_size(call.dtype));
  const double results = values(call.M, call.N) * static_cast<double>(call.batch);
  const double memory = values(call.M, call.K) * products(call.a_stride_batch) +
                        values(call.K, call.N) * products(call.b_stride_batch) +
                        results * (call.epilogue.residual.present() ? 2 : 1);
  return {call.M, call.N, call.K, 1, call.batch, bytes, memory * bytes, 0, 0};
}

inline TensorView gemm_view(const void* data, DType dtype, const int64_t (&size)[3], const int64_t (&stride)[3]) {
  return {const_cast<void*>(data), dtype, {size[0], size[1], size[2], 1}, {stride[0], stride[1], stride[2], 0}};
}

// d as the epilogue sees it: batch, channel n, row m.
inline TensorView gemm_output_view(const GemmCall& call) {
  return gemm_view(call.d, call.dtype, {call.batch, call.N, call.M},
                   {call.d_stride_batch, call.d_stride_n, call.d_stride_m});
}

inline LaunchConfig gemm_launch_config(const GemmCall& call, const CallContext& context) {
  LaunchConfig config;
  config.stream = context.stream;
  config.footprint
      .reads("a", gemm_view(call.a, call.dtype, {call.batch, call.M, call.K},
                            {call.a_stride_batch, call.a_stride_m, call.a_stride_k}))
      .reads("b", gemm_view(call.b, call.dtype, {call.batch, call.K, call.N},
                            {call.b_stride_batch, call.b_stride_k, call.b_stride_n}))
      .writes("d", gemm_output_view(call))
      .reads(call.epilogue, call.dtype, call.N);
  return config;
}

// Memory for the partial sums of a split K: (splits, batch, M, N) of Acc. Declared in `config`.
template <class Acc>
Acc* gemm_partials(const GemmCall& call, int splits, const CallContext& context, LaunchConfig& config) {
  const size_t bytes = static_cast<size_t>(splits * call.batch * call.M * call.N) * sizeof(Acc);
  Acc* partials = static_cast<Acc*>(context.workspace->allocate(bytes));
  config.footprint.scratch("partials", partials, bytes);
  return partials;
}

}  // namespace fastconv::cuda
