// Nearest upsampling by whole factors, large[n, c, h, w] = small[n, c, h / scale_h, w / scale_w], and its transpose,
// the sum over each scale_h x scale_w block. Forward moves bits, whatever the type; backward sums in the accumulate
// type, rows first. Channels-last tensors move runs of channels, others rows of the image.
#pragma once

#include "../cpu_kernels.h"
#include "runs.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr int64_t kUpsampleRun = 512;

FC_INLINE bool channels_in_runs(const UpsampleCall& call) {
  return call.small.size[1] > 1 && call.small.stride[1] == 1 && call.large.stride[1] == 1;
}

// out[i] = in[i / scale] for i < n * scale.
template <class U>
FC_INLINE void repeat_elements(const U* in, int64_t in_stride, int64_t n, int64_t scale, U* out, int64_t out_stride) {
  if (scale == 2 && in_stride == 1 && out_stride == 1) {
    for (int64_t i = 0; i < n; ++i) out[2 * i] = out[2 * i + 1] = in[i];
    return;
  }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < scale; ++j) out[(i * scale + j) * out_stride] = in[i * in_stride];
}

template <class U>  // an unsigned integer of the element's size
void upsample_typed(const UpsampleCall& call) {
  const TensorView &small = call.small, &large = call.large;
  const int64_t C = small.size[1], H = small.size[2], W = small.size[3];
  const bool last = channels_in_runs(call);
  const int64_t rows = last ? H : C * H;
  const int64_t cost = call.scale_h * call.scale_w * W * (last ? C : 1);
  parallel_for(small.size[0] * rows, ceil_div(16384, cost), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / rows, c = last ? 0 : task % rows / H, h = task % H;
      const U* in = small.as<const U>() + small.offset(n, c, h, 0);
      for (int64_t i = 0; i < call.scale_h; ++i) {
        U* out = large.as<U>() + large.offset(n, c, h * call.scale_h + i, 0);
        if (!last) {
          repeat_elements(in, small.stride[3], W, call.scale_w, out, large.stride[3]);
          continue;
        }
        for (int64_t w = 0; w < W * call.scale_w; ++w)
          __builtin_memcpy(out + w * large.stride[3], in + w / call.scale_w * small.stride[3],
                           static_cast<size_t>(C) * sizeof(U));
      }
    }
  });
}

inline void upsample_nearest2d(const UpsampleCall& call, const CallContext&) {
  if (call.large.numel() == 0) return;
  const size_t bytes = dtype_size(call.dtype);
  bytes == 8   ? upsample_typed<uint64_t>(call)
  : bytes == 4 ? upsample_typed<uint32_t>(call)
               : upsample_typed<uint16_t>(call);
}

// sums[0 .. n) = the sum of `rows` x `columns` runs.
template <class T>
FC_INLINE void sum_runs(const T* in, int64_t run_stride, int64_t rows, int64_t row_step, int64_t columns,
                        int64_t column_step, int64_t n, accumulate_t<T>* buffer, accumulate_t<T>* sums) {
  using V = Vec<accumulate_t<T>>;
  load_run(in, run_stride, n, sums);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = i == 0; j < columns; ++j) {
      const auto* run = dense_run(in + i * row_step + j * column_step, run_stride, n, buffer);
      int64_t k = 0;
      for (; k + V::kLanes <= n; k += V::kLanes) (V::load(sums + k) + V::load(run + k)).store(sums + k);
      for (; k < n; ++k) sums[k] += run[k];
    }
  }
}

template <class T>
void upsample_backward_typed(const UpsampleCall& call) {
  using Acc = accumulate_t<T>;
  const TensorView &small = call.small, &large = call.large;
  const int64_t C = small.size[1], H = small.size[2], W = small.size[3];
  const int64_t scale_h = call.scale_h, scale_w = call.scale_w;
  const bool last = channels_in_runs(call);
  const int64_t rows = last ? H : C * H;
  const int64_t cost = scale_h * scale_w * W * (last ? C : 1);
  parallel_for(small.size[0] * rows, ceil_div(16384, cost), [&](int64_t begin, int64_t end) {
    Acc buffer[kUpsampleRun], sums[kUpsampleRun];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / rows, h = task % H, row_step = large.stride[2];
      if (last) {
        for (int64_t w = 0; w < W; ++w) {
          for (int64_t c = 0; c < C; c += kUpsampleRun) {
            const int64_t run = C - c < kUpsampleRun ? C - c : kUpsampleRun;
            const T* in = large.as<const T>() + large.offset(n, c, h * scale_h, w * scale_w);
            sum_runs(in, 1, scale_h, row_step, scale_w, large.stride[3], run, buffer, sums);
            store_run(small.as<T>() + small.offset(n, c, h, w), 1, run, sums);
          }
        }
        continue;
      }
      // Whole rows first, in vectors; then neighbours within the run. Factors beyond a run go element by element.
      const int64_t c = task % rows / H, step = scale_w < kUpsampleRun ? kUpsampleRun / scale_w : 1;
      for (int64_t w = 0; w < W; w += step) {
        const int64_t width = W - w < step ? W - w : step;
        T* out = small.as<T>() + small.offset(n, c, h, w);
        if (scale_w > kUpsampleRun) {
          Acc sum = 0;
          for (int64_t i = 0; i < scale_h; ++i)
            for (int64_t j = 0; j < scale_w; ++j)
              sum += to_accumulate(large.as<const T>()[large.offset(n, c, h * scale_h + i, w * scale_w + j)]);
          *out = from_accumulate<T>(sum);
          continue;
        }
        const T* in = large.as<const T>() + large.offset(n, c, h * scale_h, w * scale_w);
        sum_runs(in, large.stride[3], scale_h, row_step, 1, 0, width * scale_w, buffer, sums);
        if (scale_w == 2) {  // a constant factor, which the compiler turns into shuffles
          for (int64_t i = 0; i < width; ++i) sums[i] = sums[2 * i] + sums[2 * i + 1];
        } else {
          for (int64_t i = 0; i < width; ++i) {
            Acc sum = sums[i * scale_w];
            for (int64_t j = 1; j < scale_w; ++j) sum += sums[i * scale_w + j];
            sums[i] = sum;
          }
        }
        store_run(out, small.stride[3], width, sums);
      }
    }
  });
}

inline void upsample_nearest2d_backward(const UpsampleCall& call, const CallContext&) {
  if (call.small.numel() == 0) return;
  visit_dtype(call.dtype, [&](auto tag) { upsample_backward_typed<typename decltype(tag)::type>(call); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
