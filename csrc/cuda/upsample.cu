// Nearest upsampling by whole factors, and its transpose.
#include "algorithms.h"
#include "kernels/upsample_nearest.cuh"

namespace fastconv::cuda {
namespace {

// Rows and columns are counted in int.
void check_extents(const char* op, const UpsampleCall& call) {
  for (int d = 2; d < 4; ++d) {
    if (call.large.size[d] <= 0x7fffffff) continue;
    throw NotServed(std::string(op) + ": no algorithm serves this problem:\n  gather: " + (d == 2 ? "H = " : "W = ") +
                    std::to_string(call.large.size[d]) + " is above 2^31 - 1");
  }
}

bool in_packs(const UpsampleCall& call, int pack) {
  return runs_in_packs(call.small, 1, pack, 16) && runs_in_packs(call.large, 1, pack, 16);
}

}  // namespace

void upsample_nearest2d(const UpsampleCall& call, const CallContext& context) {
  if (call.large.numel() == 0) return;
  check_extents("upsample_nearest2d", call);
  LaunchConfig config;
  config.stream = context.stream;
  config.footprint.reads("small", call.small).writes("large", call.large);
  const int bytes = static_cast<int>(dtype_size(call.dtype)), pack = 16 / bytes;
  const bool packs = in_packs(call, pack);
  const UpsampleParams params = upsample_params(call, call.large, packs ? pack : 1);
  const auto move = [&](auto bits) {
    launch("upsample_nearest2d", flat_launch(config, params.index.count), upsample_nearest_kernel<decltype(bits)>,
           params, bytes);
  };
  packs ? move(Pack<uint64_t, 2>{}) : bytes == 8 ? move(uint64_t{}) : bytes == 4 ? move(uint32_t{}) : move(uint16_t{});
}

void upsample_nearest2d_backward(const UpsampleCall& call, const CallContext& context) {
  if (call.small.numel() == 0) return;
  check_extents("upsample_nearest2d_backward", call);
  LaunchConfig config;
  config.stream = context.stream;
  config.footprint.reads("large", call.large).writes("small", call.small);
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int kPack = kWidestPack<T>;
    const bool packs = in_packs(call, kPack);
    const UpsampleParams params = upsample_params(call, call.small, packs ? kPack : 1);
    const LaunchConfig flat = flat_launch(config, params.index.count);
    packs ? launch("upsample_nearest2d_backward", flat, upsample_nearest_backward_kernel<T, kPack>, params)
          : launch("upsample_nearest2d_backward", flat, upsample_nearest_backward_kernel<T, 1>, params);
  });
}

}  // namespace fastconv::cuda
