// Softmax and its gradient.
#include "algorithms.h"
#include "kernels/softmax.cuh"

namespace fastconv::cuda {
namespace {

// double is there for gradient checks and goes by single elements: pairs would spill.
template <class T>
constexpr int kSoftmaxPack = sizeof(T) < 8 ? kWidestPack<T> : 1;

// Whether a column's elements can be moved in packs: rows in memory, of whole packs.
bool in_packs(const SoftmaxCall& call, int pack) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  return call.inner == 1 && call.axis % pack == 0 && aligned(call.x) && aligned(call.dy) && aligned(call.y);
}

LaunchConfig softmax_launch(const SoftmaxCall& call, const CallContext& context) {
  LaunchConfig config;
  config.stream = context.stream;
  const size_t bytes = static_cast<size_t>(call.outer * call.axis * call.inner) * dtype_size(call.dtype);
  config.footprint.reads("x", call.x, bytes).reads("dy", call.dy, bytes).writes("y", call.y, bytes);
  return config;
}

}  // namespace

void softmax(const SoftmaxCall& call, const CallContext& context) {
  if (call.outer * call.axis * call.inner == 0) return;
  LaunchConfig config = softmax_launch(call, context);
  const SoftmaxParams params = softmax_params(call, config);
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int kPack = kSoftmaxPack<T>;
    in_packs(call, kPack) ? launch("softmax", config, softmax_kernel<SoftmaxConfig<T, kPack>>, params)
                          : launch("softmax", config, softmax_kernel<SoftmaxConfig<T, 1>>, params);
  });
}

void softmax_backward(const SoftmaxCall& call, const CallContext& context) {
  if (call.outer * call.axis * call.inner == 0) return;
  LaunchConfig config = softmax_launch(call, context);
  const SoftmaxParams params = softmax_params(call, config);
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int kPack = kSoftmaxPack<T>;
    in_packs(call, kPack) ? launch("softmax_backward", config, softmax_backward_kernel<SoftmaxConfig<T, kPack>>, params)
                          : launch("softmax_backward", config, softmax_backward_kernel<SoftmaxConfig<T, 1>>, params);
  });
}

}  // namespace fastconv::cuda
