// Where pooling windows lie along one axis, and which windows lie over a place: shared by all pooling kernels.
#pragma once

#include <string>

#include "../../common/algorithm_table.h"
#include "image_index.cuh"

namespace fastconv::cuda {

struct PoolAxis {
  int extent, count, window, stride, pad, dilation;
  bool adaptive;
  // By the dilation and the stride; of adaptive windows by the count and the extent.
  Divider tap_divider, window_divider;

  // The first tap inside the image, and one past the last place a tap may have; taps lie `dilation` apart.
  __device__ __forceinline__ int begin(int i) const {
    if (adaptive) return tap_quotient(static_cast<int64_t>(i) * extent);
    const int start = i * stride - pad;
    return start >= 0 ? start : start + tap_quotient(dilation - 1 - start) * dilation;
  }
  __device__ __forceinline__ int end(int i) const {
    if (adaptive) return tap_quotient(static_cast<int64_t>(i + 1) * extent + count - 1);
    return min(extent, i * stride - pad + (window - 1) * dilation + 1);
  }
  // How many taps lie in [from, to), from being one.
  __device__ __forceinline__ int taps(int from, int to) const {
    return adaptive || dilation == 1 ? to - from : tap_quotient(to - from + dilation - 1);
  }
  // The windows that may hold place x: [first_over(x), last_over(x)].
  __device__ __forceinline__ int first_over(int x) const {
    if (adaptive) return window_quotient(static_cast<int64_t>(x) * count);
    const int reach = x + pad - (window - 1) * dilation;
    return reach <= 0 ? 0 : window_quotient(reach + stride - 1);
  }
  __device__ __forceinline__ int last_over(int x) const {
    if (adaptive) return window_quotient(static_cast<int64_t>(x + 1) * count - 1);
    return min(count - 1, window_quotient(x + pad));
  }
  // How many places of window i an average divides by: with `include_pad` the padding's too, but never those that
  // ceil_mode adds behind it.
  __device__ __forceinline__ int counted(int i, bool include_pad) const {
    if (adaptive || !include_pad) return max(1, end(i) - begin(i));
    const int start = i * stride - pad;
    return max(1, min(start + window, extent + pad) - start);
  }
  // Taps of the largest window.
  int most_taps() const { return adaptive ? (extent + count - 1) / count + 1 : window < extent ? window : extent; }

 private:
  __device__ __forceinline__ int tap_quotient(int64_t v) const {
    int64_t rest;
    return static_cast<int>(tap_divider.divide(v, rest));
  }
  __device__ __forceinline__ int window_quotient(int64_t v) const {
    int64_t rest;
    return static_cast<int>(window_divider.divide(v, rest));
  }
};

constexpr int64_t kMaxPoolExtent = int64_t{1} << 28;  // coordinates, with padding and the last window, stay in int

inline PoolAxis make_pool_axis(int64_t extent, int64_t count, int64_t window, int64_t stride, int64_t pad,
                               int64_t dilation, bool adaptive) {
  // Adaptive windows of one size are plain windows.
  if (adaptive && count > 0 && extent % count == 0) {
    window = stride = extent / count, pad = 0, dilation = 1, adaptive = false;
  }
  const auto as_int = [](int64_t v) { return static_cast<int>(v < kMaxPoolExtent ? v : kMaxPoolExtent); };
  PoolAxis axis;
  axis.extent = as_int(extent), axis.count = as_int(count);
  axis.window = as_int(adaptive ? 1 : window), axis.pad = as_int(adaptive ? 0 : pad);
  // A lone window's stride and a lone tap's dilation mean nothing, and may be of any size.
  axis.stride = as_int(adaptive || count <= 1 ? extent + 2 * pad + 1 : stride);
  axis.dilation = as_int(adaptive || window <= 1 ? 1 : dilation);
  axis.adaptive = adaptive;
  const int64_t products = adaptive ? (count + 1) * (extent + 1) : int64_t{1} << 31;
  axis.tap_divider = Divider(adaptive ? count : axis.dilation, products);
  axis.window_divider = Divider(adaptive ? extent : axis.stride, products);
  return axis;
}

inline PoolAxis vertical_axis(const PoolProblem& c) {
  return make_pool_axis(c.H, c.P, c.window_h, c.stride_h, c.pad_top, c.dilation_h, c.adaptive);
}
inline PoolAxis horizontal_axis(const PoolProblem& c) {
  return make_pool_axis(c.W, c.Q, c.window_w, c.stride_w, c.pad_left, c.dilation_w, c.adaptive);
}

// What the kernels' integers cannot hold is refused, with the value.
inline void check_pool_extents(const char* op, const PoolProblem& c) {
  const auto limit = [op](const char* what, int64_t value) {
    if (value < kMaxPoolExtent) return;
    throw NotServed(std::string(op) + ": no algorithm serves this problem:\n  windows: " + what + " = " +
                    std::to_string(value) + " is above 2^28 - 1");
  };
  limit("H with its padding", c.H + 2 * c.pad_top);
  limit("W with its padding", c.W + 2 * c.pad_left);
  limit("P", c.P);
  limit("Q", c.Q);
}

}  // namespace fastconv::cuda
