// The gradient of a bias: sum[k] = sum over n, p, q of dy[n, k, p, q].
#pragma once

#include "channel_reduction.h"

namespace fastconv::cpu::FASTCONV_ISA {

inline void channel_sum(const ChannelSumCall& call, const CallContext& context) {
  const int64_t K = call.dy.size[1];
  if (K == 0) return;
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using V = Vec<accumulate_t<T>>;
    T* out = static_cast<T*>(call.sum);
    if (call.dy.numel() == 0) {
      for (int64_t k = 0; k < K; ++k) out[k] = from_accumulate<T>(0);
      return;
    }
    double* sums = static_cast<double*>(context.workspace->allocate(static_cast<size_t>(K) * sizeof(double)));
    reduce_to_channels<T>(call.dy, call.dy, *context.workspace, [](V dy, V) { return dy; }, sums);
    for (int64_t k = 0; k < K; ++k) out[k] = from_accumulate<T>(static_cast<accumulate_t<T>>(sums[k]));
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
