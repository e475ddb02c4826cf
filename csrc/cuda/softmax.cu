// Softmax and its gradient.
#include "algorithms.h"
#include "device.h"
#include "kernels/softmax_long.cuh"

namespace fastconv::cuda {
namespace {

// double is there for gradient checks and goes by single elements: pairs would spill.
template <class T>
constexpr int kRowPack = sizeof(T) < 8 ? kWidestPack<T> : 1;
template <class T>
constexpr int kInnerPack = sizeof(T) < 8 ? 4 : 1;

// Whether an extent is one of whole packs, and every tensor begins with one.
template <class T>
bool in_packs(const SoftmaxCall& call, int64_t extent, int pack) {
  const auto aligned = [&](const void* p) { return pack_aligned(static_cast<const T*>(p), pack); };
  return extent % pack == 0 && aligned(call.x) && aligned(call.dy) && aligned(call.y);
}

LaunchConfig softmax_launch(const SoftmaxCall& call, const CallContext& context) {
  LaunchConfig config;
  config.stream = context.stream;
  const size_t bytes = static_cast<size_t>(call.outer * call.axis * call.inner) * dtype_size(call.dtype);
  config.footprint.reads("x", call.x, bytes).reads("dy", call.dy, bytes).writes("y", call.y, bytes);
  return config;
}

using SoftmaxKernel = void (*)(SoftmaxParams);

struct Forward {
  static constexpr const char* kName = "softmax";
  static constexpr int kBytes = 64;
  static constexpr int kOperands = 1;
  template <class Config>
  static SoftmaxKernel kernel() {
    return softmax_kernel<Config>;
  }
  template <class Config>
  static SoftmaxKernel long_kernel() {
    return softmax_long_kernel<Config>;
  }
};
struct Backward {
  static constexpr const char* kName = "softmax_backward";
  static constexpr int kBytes = 32;
  static constexpr int kOperands = 2;
  template <class Config>
  static SoftmaxKernel kernel() {
    return softmax_backward_kernel<Config>;
  }
  template <class Config>
  static SoftmaxKernel long_kernel() {
    return softmax_backward_long_kernel<Config>;
  }
};

template <class Op, class T, int kPack>
void run(const SoftmaxCall& call, LaunchConfig config) {
  using Config = SoftmaxConfig<T, kPack, false, Op::kBytes>;
  using LongConfig = SoftmaxConfig<T, kPack, false, Op::kBytes / 2>;  // loops leave fewer registers
  SoftmaxParams params;
  if (share_columns<Config>(call, params, config)) {
    return launch(Op::kName, config, Op::template kernel<Config>(), params);
  }
  share_columns<LongConfig>(call, params, config);
  const int64_t packs = Op::kOperands * softmax_packs<LongConfig>(params) * kSoftmaxThreads;
  const int64_t bytes = packs * kPack * static_cast<int64_t>(sizeof(T));
  const int64_t reductions = kSoftmaxThreads * static_cast<int64_t>(sizeof(accumulate_t<T>));
  params.stored = bytes + reductions <= current_device().shared_bytes;
  config.dynamic_shared_bytes = params.stored ? static_cast<size_t>(bytes) : 0;
  launch(Op::kName, config, Op::template long_kernel<LongConfig>(), params);
}

// In the packs that the tensors allow.
template <class Op>
void run_in_packs(const SoftmaxCall& call, const CallContext& context) {
  if (call.outer * call.axis * call.inner == 0) return;
  LaunchConfig config = softmax_launch(call, context);
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (kRowPack<T> > 1) {
      if (call.inner == 1 && in_packs<T>(call, call.axis, kRowPack<T>)) return run<Op, T, kRowPack<T>>(call, config);
      if (call.inner > 1 && in_packs<T>(call, call.inner, kInnerPack<T>)) {
        // Four columns have four maxima and sums: of 16 bits, a quarter fewer elements, or registers spill.
        using Columns = SoftmaxConfig<T, kInnerPack<T>, true, sizeof(T) == 2 ? Op::kBytes * 3 / 4 : Op::kBytes>;
        SoftmaxParams params;
        if (share_columns<Columns>(call, params, config)) {
          return launch(Op::kName, config, Op::template kernel<Columns>(), params);
        }
      }
    }
    run<Op, T, 1>(call, config);
  });
}

}  // namespace

void softmax(const SoftmaxCall& call, const CallContext& context) { run_in_packs<Forward>(call, context); }

void softmax_backward(const SoftmaxCall& call, const CallContext& context) { run_in_packs<Backward>(call, context); }

}  // namespace fastconv::cuda
