// dx with few channels and a stride (the last transposed convolution of a decoder, the gradient of a stem): one phase
// would fill a few lanes only, so all phases are computed side by side, as the channels of one convolution over dy,
//
//   y[n, i, j, (a, b, c)] = dx[n, c, a + i * stride_h, b + j * stride_w]
//
// with the union of the phases' taps and zeros where a phase lacks one. A band of y at a time lies in scratch and is
// spread to dx: a 7x7 filter, stride 2, 3 channels takes 16 multiply-adds of a vector instead of 49.
#pragma once

#include "conv_engine.h"
#include "reused_workspace.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr int64_t kFewChannelsBand = 512 << 10;  // bytes of y for each thread

struct FewChannels {
  int64_t lanes, channels;  // channels: of y, phases included
  int64_t u_first, U, v_first, V;

  FewChannels(const ConvProblem& p, DType dtype)
      : lanes(kVectorBytes / (dtype == DType::kFloat64 ? 8 : 4)), channels(p.stride_h * p.stride_w * p.C) {
    u_first = first_offset(p.pad_top, p.R, p.stride_h);
    U = (p.stride_h - 1 + p.pad_top) / p.stride_h - u_first + 1;
    v_first = first_offset(p.pad_left, p.S, p.stride_w);
    V = (p.stride_w - 1 + p.pad_left) / p.stride_w - v_first + 1;
  }
  static int64_t first_offset(int64_t pad, int64_t filter, int64_t stride) {
    const int64_t low = pad - (filter - 1);
    return low >= 0 ? ceil_div(low, stride) : -(-low / stride);
  }

  static bool serves(const ConvProblem& p, DType dtype) {
    const FewChannels few(p, dtype);
    return p.stride_h * p.stride_w > 1 && p.groups == 1 && p.dilation_h == 1 && p.dilation_w == 1 &&
           p.R >= p.stride_h && p.S >= p.stride_w && p.pad_top >= 0 && p.pad_left >= 0 && 2 * p.C <= few.lanes &&
           few.channels <= kPanelVectors * few.lanes;
  }
  int64_t packed_bytes(const ConvProblem& p, DType dtype) const {
    const int64_t reduction = U * V * p.K;
    return dtype == DType::kFloat64 ? packed_elements<double>(channels, reduction) * 8
                                    : packed_elements<float>(channels, reduction) * 4;
  }
};

// One panel, rows (u, v, k): the filter's element at r = a + pad_top - u * stride_h, or zero.
template <class T>
void pack_few_channels(const ConvProblem& p, const TensorView& w, accumulate_t<T>* out) {
  const FewChannels few(p, w.dtype);
  const int64_t width = ceil_div(few.channels, few.lanes) * few.lanes;
  for (int64_t u = 0; u < few.U; ++u) {
    for (int64_t v = 0; v < few.V; ++v) {
      for (int64_t k = 0; k < p.K; ++k, out += width) {
        for (int64_t i = 0; i < width; ++i) {
          const int64_t c = i % p.C, b = i / p.C % p.stride_w, a = i / p.C / p.stride_w;
          const int64_t r = a + p.pad_top - (few.u_first + u) * p.stride_h;
          const int64_t s = b + p.pad_left - (few.v_first + v) * p.stride_w;
          const bool inside = i < few.channels && r >= 0 && r < p.R && s >= 0 && s < p.S;
          out[i] = inside ? to_accumulate(w.as<const T>()[w.offset(k, c, r, s)]) : 0;
        }
      }
    }
  }
}

// Row h of dx from its row of y: U is an unsigned integer of the element's size.
template <class U>
void spread_row(const ConvProblem& p, const U* y, int64_t channels, U* dx, int64_t pixel_stride,
                int64_t channel_stride) {
  if (channel_stride == 1 && pixel_stride == p.C) {  // neighbouring phases are neighbouring pixels
    const int64_t run = p.stride_w * p.C, row = p.W * p.C;
    for (int64_t at = 0; at < row; at += run, y += channels)
      __builtin_memcpy(dx + at, y, static_cast<size_t>(smaller(run, row - at)) * sizeof(U));
    return;
  }
  for (int64_t c = 0; c < p.C; ++c)
    for (int64_t b = 0; b < p.stride_w; ++b)
      for (int64_t w = b, at = b * p.C + c; w < p.W; w += p.stride_w, at += channels)
        dx[c * channel_stride + w * pixel_stride] = y[at];
}

template <class T>
const void* repeat_channels(const void* values, int64_t channels, int64_t times, Workspace& workspace) {
  using Acc = accumulate_t<T>;
  if (!values) return nullptr;
  Acc* out = static_cast<Acc*>(workspace.allocate(static_cast<size_t>(channels * times) * sizeof(Acc)));
  for (int64_t i = 0; i < channels * times; ++i) out[i] = static_cast<const Acc*>(values)[i % channels];
  return out;
}

template <class T>
void input_grad_few_channels(const Conv2dInputGradCall& call, const void* packed, const CallContext& context) {
  using Bits = typename UnsignedOf<sizeof(T)>::type;
  Workspace& workspace = *context.workspace;
  ReusedWorkspace scratch(workspace);
  CallContext scratch_context = context;
  scratch_context.workspace = &scratch;
  const ConvProblem& p = call.problem;
  const FewChannels few(p, call.dtype);
  const int64_t P = ceil_div(p.H, p.stride_h), Q = ceil_div(p.W, p.stride_w), times = p.stride_h * p.stride_w;
  const int64_t row = Q * few.channels, budget = kFewChannelsBand * thread_pool().threads() / sizeof(T);
  const int64_t rows = smaller(P, larger(1, budget / row)), images = smaller(p.N, larger(1, budget / (P * row)));

  ConvTask t;
  t.dtype = call.dtype;
  t.C = p.K;
  t.K = few.channels;
  t.Q = Q;
  t.R = few.U;
  t.S = few.V;
  t.packed = packed;
  t.epilogue = call.epilogue;
  t.epilogue.bias = repeat_channels<T>(call.epilogue.bias, p.C, times, workspace);
  t.epilogue.scale = repeat_channels<T>(call.epilogue.scale, p.C, times, workspace);
  t.epilogue.shift = repeat_channels<T>(call.epilogue.shift, p.C, times, workspace);
  t.epilogue.channel_param = repeat_channels<T>(call.epilogue.channel_param, p.C, times, workspace);
  Bits* y = static_cast<Bits*>(workspace.allocate(static_cast<size_t>(images * rows * row) * sizeof(T)));
  int64_t* offsets = static_cast<int64_t*>(workspace.allocate(static_cast<size_t>(t.R + t.S) * sizeof(int64_t)));
  t.dh = offsets;
  t.dw = offsets + t.R;
  for (int64_t v = 0; v < t.S; ++v) offsets[t.R + v] = few.v_first + v;

  for (int64_t n = 0; n < p.N; n += images) {
    for (int64_t i = 0; i < P; i += rows) {
      t.N = smaller(images, p.N - n);
      t.P = smaller(rows, P - i);
      for (int64_t u = 0; u < t.R; ++u) offsets[u] = few.u_first + u + i;
      t.x = call.dy;
      t.x.data = call.dy.as<T>() + n * call.dy.stride[0];
      t.x.size[0] = t.N;
      t.y = {y, call.dtype, {t.N, t.K, t.P, Q}, {t.P * row, 1, row, t.K}};
      scratch.reuse();
      run_task(t, scratch_context);

      const int64_t h0 = i * p.stride_h, height = smaller(p.H, (i + t.P) * p.stride_h) - h0;
      parallel_for(t.N * height, ceil_div(16384, p.W * p.C), [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) {
          const int64_t image = task / height, h = task % height;
          const Bits* from = y + (image * t.P + h / p.stride_h) * row + h % p.stride_h * p.stride_w * p.C;
          spread_row(p, from, t.K, call.dx.as<Bits>() + call.dx.offset(n + image, 0, h0 + h, 0), call.dx.stride[3],
                     call.dx.stride[1]);
        }
      });
    }
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
