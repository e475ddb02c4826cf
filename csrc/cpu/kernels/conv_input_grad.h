// dx of y = conv(x, w), which is also the forward of a transposed convolution (then with an epilogue). By phases: the
// pixels (a + i * stride_h, b + j * stride_w) of dx form a dense grid on which
//
//   dx[n, c, a + i * stride_h, b + j * stride_w] = sum over k and the phase's taps of dy[n, k, i + u, j + v] * w[k, c]
//
// is a convolution of unit stride over dy with the taps r for which a + pad_top - r * dilation_h = u * stride_h. Each
// phase is a task of the engine, with filters transposed (c out, k in) and flipped. A phase without taps writes
// epilogue(0); so do pixels that no tap reaches (output_padding). Few channels: input_grad_few_channels.h.
#pragma once

#include "conv_engine.h"
#include "input_grad_few_channels.h"
#include "reused_workspace.h"

namespace fastconv::cpu::FASTCONV_ISA {

// The taps of one axis that serve a phase, in order of rising offset: tap = last - j * step, offset = first + j * rise.
struct PhaseTaps {
  int64_t count = 0, last = 0, step = 1;
  int64_t offset = 0, rise = 0;

  PhaseTaps(int64_t phase, int64_t pad, int64_t filter, int64_t stride, int64_t dilation) {
    int64_t divisor = stride;  // gcd(stride, dilation)
    for (int64_t rest = dilation; rest != 0;) {
      const int64_t next = divisor % rest;
      divisor = rest;
      rest = next;
    }
    step = stride / divisor;
    rise = dilation / divisor;
    for (int64_t tap = 0; tap < filter; ++tap) {
      if ((phase + pad - tap * dilation) % stride != 0) continue;
      ++count;
      last = tap;
    }
    offset = (phase + pad - last * dilation) / stride;
  }
};

struct InputGradPhase {
  int64_t a, b;
  PhaseTaps h, w;
  InputGradPhase(const ConvProblem& p, int64_t index)
      : a(index / p.stride_w),
        b(index % p.stride_w),
        h(a, p.pad_top, p.R, p.stride_h, p.dilation_h),
        w(b, p.pad_left, p.S, p.stride_w, p.dilation_w) {}
  int64_t taps() const { return h.count * w.count; }
};

FC_INLINE int64_t phase_count(const ConvProblem& p) { return p.stride_h * p.stride_w; }

// Packing visits every phase, also those beyond the image, which it does not know: strides past any in use are left to
// the call, which does.
constexpr int64_t kMostPackedPhases = 4096;

// Bytes of one phase's filters, whole cache lines.
inline int64_t phase_packed_bytes(const ConvProblem& p, DType dtype, const InputGradPhase& phase) {
  const int64_t channels = p.channels_per_group(), reduction = phase.taps() * p.filters_per_group();
  const int64_t bytes = dtype == DType::kFloat64 ? packed_elements<double>(channels, reduction) * 8
                                                 : packed_elements<float>(channels, reduction) * 4;
  return ceil_div(bytes * p.groups, 64) * 64;
}

inline size_t phases_packed_bytes(const ConvProblem& p, DType dtype) {
  int64_t bytes = 0;
  for (int64_t i = 0; i < phase_count(p); ++i) bytes += phase_packed_bytes(p, dtype, {p, i});
  return static_cast<size_t>(bytes);
}

// All phases, one behind the other; depends on the filter's extents, stride, padding, dilation and groups alone.
inline void pack_phases(const ConvProblem& p, const TensorView& w, void* packed) {
  visit_dtype(w.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    char* out = static_cast<char*>(packed);
    for (int64_t i = 0; i < phase_count(p); ++i) {
      const InputGradPhase phase(p, i);
      if (phase.taps() == 0) continue;
      const FilterView view{w.as<const T>() + phase.h.last * w.stride[2] + phase.w.last * w.stride[3],
                            w.stride[1],
                            w.stride[0],
                            phase.h.count,
                            phase.w.count,
                            -phase.h.step * w.stride[2],
                            -phase.w.step * w.stride[3],
                            p.filters_per_group() * w.stride[0]};
      pack_filter<T>(view, p.groups, p.channels_per_group(), p.filters_per_group(), out);
      out += phase_packed_bytes(p, w.dtype, phase);
    }
  });
}

// The pixels of a phase in a tensor of dx's extents.
inline TensorView phase_view(TensorView v, const ConvProblem& p, const InputGradPhase& phase, int64_t P, int64_t Q) {
  if (!v.present()) return v;
  const int64_t first = phase.a * v.stride[2] + phase.b * v.stride[3];
  v.data = static_cast<char*>(v.data) + first * static_cast<int64_t>(dtype_size(v.dtype));
  v.size[2] = P;
  v.size[3] = Q;
  v.stride[2] *= p.stride_h;
  v.stride[3] *= p.stride_w;
  return v;
}

inline void input_grad_by_phases(const Conv2dInputGradCall& call, const void* packed_w, const CallContext& context) {
  const ConvProblem& p = call.problem;
  const char* packed = static_cast<const char*>(packed_w);
  ReusedWorkspace workspace(*context.workspace);
  CallContext phase_context = context;
  phase_context.workspace = &workspace;
  int64_t* offsets =
      static_cast<int64_t*>(context.workspace->allocate(static_cast<size_t>(p.R + p.S) * sizeof(int64_t)));

  for (int64_t i = 0; i < phase_count(p); ++i) {
    const InputGradPhase phase(p, i);
    ConvTask t;
    t.dtype = call.dtype;
    t.N = p.N;
    t.P = p.H > phase.a ? ceil_div(p.H - phase.a, p.stride_h) : 0;
    t.Q = p.W > phase.b ? ceil_div(p.W - phase.b, p.stride_w) : 0;
    t.groups = p.groups;
    t.C = p.filters_per_group();
    t.K = p.channels_per_group();
    // One axis without taps leaves the whole phase without.
    t.R = phase.taps() > 0 ? phase.h.count : 0;
    t.S = phase.taps() > 0 ? phase.w.count : 0;
    for (int64_t r = 0; r < t.R; ++r) offsets[r] = phase.h.offset + r * phase.h.rise;
    for (int64_t s = 0; s < t.S; ++s) offsets[p.R + s] = phase.w.offset + s * phase.w.rise;
    t.dh = offsets;
    t.dw = offsets + p.R;
    t.x = call.dy;
    t.y = phase_view(call.dx, p, phase, t.P, t.Q);
    t.packed = packed;
    t.epilogue = call.epilogue;
    t.epilogue.residual = phase_view(call.epilogue.residual, p, phase, t.P, t.Q);
    t.epilogue.full_param = phase_view(call.epilogue.full_param, p, phase, t.P, t.Q);
    workspace.reuse();
    run_task(t, phase_context);
    packed += phase_packed_bytes(p, call.dtype, phase);
  }
}

// What modules and the cache keep; which of the two forms it is, the problem says.
inline size_t input_grad_form_bytes(const ConvProblem& p, DType dtype) {
  if (!FewChannels::serves(p, dtype)) return phases_packed_bytes(p, dtype);
  return static_cast<size_t>(FewChannels(p, dtype).packed_bytes(p, dtype));
}

// Asked without an image; 0: to be packed by the call.
inline size_t input_grad_packed_bytes(const ConvProblem& p, DType dtype) {
  const bool many =
      p.stride_h > kMostPackedPhases || p.stride_w > kMostPackedPhases || phase_count(p) > kMostPackedPhases;
  return many ? 0 : input_grad_form_bytes(p, dtype);
}

inline void input_grad_pack(const ConvProblem& p, const TensorView& w, void* packed) {
  if (!FewChannels::serves(p, w.dtype)) return pack_phases(p, w, packed);
  visit_dtype(w.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    pack_few_channels<T>(p, w, static_cast<accumulate_t<T>*>(packed));
  });
}

// A single row of dy is as good at any stride. At 1 it has one phase; else as many as the stride, most of them beyond
// the image.
inline Conv2dInputGradCall with_phases_in_the_image(Conv2dInputGradCall call) {
  ConvProblem& p = call.problem;
  if (call.packed_w) return call;  // for this very stride
  if (p.P == 1 && p.stride_h > p.H) p.stride_h = 1;
  if (p.Q == 1 && p.stride_w > p.W) p.stride_w = 1;
  return call;
}

inline void conv2d_input_grad(const Conv2dInputGradCall& given, const CallContext& context) {
  if (given.dx.numel() == 0) return;
  const Conv2dInputGradCall call = with_phases_in_the_image(given);
  const ConvProblem& p = call.problem;
  const bool few = FewChannels::serves(p, call.dtype);
  // Tensors of dx's extents do not lie as the phases side by side do.
  const bool by_phases = !few || call.epilogue.residual.present() || call.epilogue.full_param.present();
  const void* packed = few && by_phases ? nullptr : call.packed_w;
  if (!packed) {
    const size_t bytes = by_phases ? phases_packed_bytes(p, call.dtype) : input_grad_form_bytes(p, call.dtype);
    void* fresh = context.workspace->allocate(bytes + 64);
    by_phases ? pack_phases(p, call.w, fresh) : input_grad_pack(p, call.w, fresh);
    packed = fresh;
  }
  if (by_phases) return input_grad_by_phases(call, packed, context);
  visit_dtype(call.dtype,
              [&](auto tag) { input_grad_few_channels<typename decltype(tag)::type>(call, packed, context); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
