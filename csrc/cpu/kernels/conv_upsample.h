// Nearest upsampling by whole factors and then conv2d, with no upsampled tensor in memory.
//
//   gather  the same products as the unfused pair: input rows are repeated as they are brought into the band
//   phase   outputs fall into phases within which every tap reads the same stored pixel offset; taps that meet there
//           are summed beforehand. 3x3 after 2x: four phases of 2x2 taps, 2.25 times fewer multiplications
//
// Output row p reads upsampled row h = p * stride - pad + r * dilation, so stored row floor(h / scale). With
// d = gcd(scale, stride), p = p' * (scale / d) + a gives p' * (stride / d) + floor((a * stride - pad + r * dilation) /
// scale): one task per pair of phases (a, b), its step stride / d, its taps the distinct values of the last term. Zero
// padding stays zero padding, because h is outside exactly where the stored row is.
#pragma once

#include "conv_implicit_gemm.h"
#include "reused_workspace.h"

namespace fastconv::cpu::FASTCONV_ISA {

inline void upsample_conv2d_gather(const Conv2dCall& call, const CallContext& context) {
  run_task(conv2d_task(call, context), context);
}

namespace phases {

FC_INLINE int64_t gcd(int64_t a, int64_t b) {
  while (b) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}
FC_INLINE int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// One axis of the problem.
struct Axis {
  int64_t taps, stride, dilation, pad, scale;
  int64_t phases() const { return scale / gcd(scale, stride); }
  int64_t step() const { return stride / gcd(scale, stride); }
  int64_t stored(int64_t phase, int64_t tap) const { return floor_div(phase * stride - pad + tap * dilation, scale); }
  // Whether a tap reads another stored row than the tap before it.
  bool starts(int64_t phase, int64_t tap) const { return tap == 0 || stored(phase, tap) != stored(phase, tap - 1); }
  // Distinct stored offsets of a phase, ascending, into `offsets` if given.
  int64_t distinct(int64_t phase, int64_t* offsets = nullptr) const {
    int64_t count = 0;
    for (int64_t tap = 0; tap < taps; ++tap) {
      if (!starts(phase, tap)) continue;
      if (offsets) offsets[count] = stored(phase, tap);
      ++count;
    }
    return count;
  }
};
FC_INLINE Axis vertical(const ConvProblem& p) { return {p.R, p.stride_h, p.dilation_h, p.pad_top, p.scale_h}; }
FC_INLINE Axis horizontal(const ConvProblem& p) { return {p.S, p.stride_w, p.dilation_w, p.pad_left, p.scale_w}; }

// f(a, b, elements of one group's filters in phase (a, b), elements before it) over the phases, in packed order.
template <class Acc, class F>
void for_phases(const ConvProblem& p, F&& f) {
  const Axis v = vertical(p), h = horizontal(p);
  int64_t before = 0;
  for (int64_t a = 0; a < v.phases(); ++a) {
    for (int64_t b = 0; b < h.phases(); ++b) {
      const int64_t taps = v.distinct(a) * h.distinct(b);
      const int64_t elements = packed_elements<Acc>(p.filters_per_group(), taps * p.channels_per_group());
      f(a, b, elements, before);
      before += p.groups * elements;
    }
  }
}

template <class Acc>
int64_t elements(const ConvProblem& p) {
  int64_t total = 0;
  for_phases<Acc>(p, [&](int64_t, int64_t, int64_t group, int64_t before) { total = before + p.groups * group; });
  return total;
}

template <class T>
void pack(const ConvProblem& p, const TensorView& w, accumulate_t<T>* packed) {
  using Acc = accumulate_t<T>;
  const Axis v = vertical(p), h = horizontal(p);
  const int64_t K = p.filters_per_group(), C = p.channels_per_group(), panels = panel_count<Acc>(K);
  const FilterView view = filter_view(p, w);
  parallel_for(p.groups * panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t g = i / panels, panel = i % panels;
      for_phases<Acc>(p, [&](int64_t a, int64_t b, int64_t elements, int64_t before) {
        Acc* out = packed + before + g * elements;
        const int64_t taps_w = h.distinct(b), taps = v.distinct(a) * taps_w;
        for (int64_t r = 0, row = -1; r < p.R; ++r) {
          row += v.starts(a, r);
          for (int64_t s = 0, column = -1; s < p.S; ++s) {
            column += h.starts(b, s);
            const bool first = v.starts(a, r) && h.starts(b, s);
            FilterView one = view;
            one.data = static_cast<const T*>(view.data) + g * view.stride_group + r * view.stride_r + s * view.stride_s;
            one.R = one.S = 1;
            pack_panel<T>(one, K, C, panel, {taps, row * taps_w + column, 0, 0, !first}, out);
          }
        }
      });
    }
  });
}

// Positions a, a + step, a + 2 * step ... of a view along an axis.
FC_INLINE TensorView every(TensorView v, int axis, int64_t first, int64_t step, int64_t count) {
  if (!v.present()) return v;
  v.data = static_cast<char*>(v.data) + first * v.stride[axis] * static_cast<int64_t>(dtype_size(v.dtype));
  v.stride[axis] *= step;
  v.size[axis] = count;
  return v;
}

template <class Acc>
void run(const Conv2dCall& call, const void* packed, const CallContext& context) {
  const ConvProblem& p = call.problem;
  const Axis v = vertical(p), h = horizontal(p);
  ReusedWorkspace workspace(*context.workspace);
  CallContext phase_context = context;
  phase_context.workspace = &workspace;
  int64_t* offsets = allocate<int64_t>(context, p.R + p.S);
  for_phases<Acc>(p, [&](int64_t a, int64_t b, int64_t, int64_t before) {
    ConvTask t;
    t.dtype = call.dtype;
    t.N = p.N;
    t.P = (p.P - a + v.phases() - 1) / v.phases();
    t.Q = (p.Q - b + h.phases() - 1) / h.phases();
    if (t.P <= 0 || t.Q <= 0) return;
    t.groups = p.groups;
    t.C = p.channels_per_group();
    t.K = p.filters_per_group();
    t.dh = offsets;
    t.dw = offsets + p.R;
    t.R = v.distinct(a, offsets);
    t.S = h.distinct(b, offsets + p.R);
    t.step_h = v.step();
    t.step_w = h.step();
    t.x = call.x;
    const auto grid = [&](const TensorView& view) {
      return every(every(view, 2, a, v.phases(), t.P), 3, b, h.phases(), t.Q);
    };
    t.y = grid(call.y);
    t.epilogue = call.epilogue;
    t.epilogue.residual = grid(call.epilogue.residual);
    t.epilogue.full_param = grid(call.epilogue.full_param);
    t.packed = static_cast<const Acc*>(packed) + before;
    workspace.reuse();
    run_task(t, phase_context);
  });
}

}  // namespace phases

// The summed filters grow with the number of phases: for large factors, into gigabytes. 0 bytes: not worth having.
constexpr int64_t kMostUpsamplePhases = 256;

inline size_t upsample_phase_packed_bytes(const ConvProblem& p, DType dtype) {
  const int64_t rows = phases::vertical(p).phases(), columns = phases::horizontal(p).phases();
  if (rows > kMostUpsamplePhases || columns > kMostUpsamplePhases || rows * columns > kMostUpsamplePhases) return 0;
  return dtype == DType::kFloat64 ? static_cast<size_t>(phases::elements<double>(p)) * sizeof(double)
                                  : static_cast<size_t>(phases::elements<float>(p)) * sizeof(float);
}

inline void upsample_phase_pack(const ConvProblem& p, const TensorView& w, void* packed) {
  visit_dtype(w.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    phases::pack<T>(p, w, static_cast<accumulate_t<T>*>(packed));
  });
}

inline void upsample_conv2d_phase(const Conv2dCall& call, const CallContext& context) {
  const ConvProblem& p = call.problem;
  if (p.N * p.P * p.Q * p.K == 0) return;
  const void* packed = call.packed_format == PackedFormat::kPhases ? call.packed_w : nullptr;
  if (!packed) {
    void* fresh = context.workspace->allocate(upsample_phase_packed_bytes(p, call.dtype) + 64);
    upsample_phase_pack(p, call.w, fresh);
    packed = fresh;
  }
  call.dtype == DType::kFloat64 ? phases::run<double>(call, packed, context)
                                : phases::run<float>(call, packed, context);
}

}  // namespace fastconv::cpu::FASTCONV_ISA
