// What the convolution engine computes: a grid of outputs, taps into an input, packed weights, an epilogue. Fprop, the
// phases of strided dgrad, of transposed convolution and of upsampling, 1x1 and GEMM are all of this form:
//
//   y[n, g*K + k, p, q] = epilogue(sum over r, s, c of x[n, g*C + c, (p*step_h + dh[r]) / scale_h,
//                                                                  (q*step_w + dw[s]) / scale_w] * w[g, k, (r, s, c)])
//
// Outside of x, zeros: such products are skipped or multiplied by a stored zero, so an Inf in the weights may or may
// not turn into NaN there, as in torch. NaN in x propagates. Grid positions need not be dense in y: the view says
// where.
#pragma once

#include "../../common/calls.h"

namespace fastconv::cpu::FASTCONV_ISA {

struct ConvTask {
  DType dtype = DType::kFloat32;
  int64_t N = 0, P = 0, Q = 0;       // the output grid: y.size[0], [2], [3]
  int64_t groups = 1, C = 0, K = 0;  // C and K of one group
  int64_t R = 1, S = 1;              // taps
  const int64_t* dh = nullptr;       // R offsets, in rows of the (upsampled) input, any sign and order
  const int64_t* dw = nullptr;       // S offsets
  int64_t step_h = 1, step_w = 1;    // input rows per output row
  int64_t scale_h = 1, scale_w = 1;  // nearest upsampling of x
  TensorView x;                      // extents as stored: (N, groups * C, H, W)
  TensorView y;                      // (N, groups * K, P, Q): offset, strides as the caller needs
  const void* packed = nullptr;      // accumulate type, from pack_filter (pack.h), reduction order (r, s, c)
  int64_t packed_image = 0;  // elements from one image's filters to the next one's (batched GEMM); 0: all share them
  // Sums to start from, of the accumulate type, channels adjacent; absent: zeros. Where y can hold such sums
  // (stores_directly, blocking.h) they must be in y itself.
  TensorView partial;
  EpilogueArgs epilogue;  // residual and full_param are views like y
};

// A task brought to the form that tiles best, and where its taps lie in the packed order.
struct SimplifiedTask : ConvTask {
  const int64_t* filter_r = nullptr;  // taps kept -> taps of the packed filters
  const int64_t* filter_s = nullptr;
  int64_t filter_step_r = 0, filter_step_s = 1;  // packed taps from r to r + 1, from s to s + 1
};

namespace task_detail {

FC_INLINE bool row_follows_row(const TensorView& v, int64_t columns) {
  return !v.present() || v.size[2] == 1 || v.stride[2] == columns * v.stride[3];
}
FC_INLINE void merge_rows(TensorView& v) {
  if (!v.present()) return;
  v.size[3] *= v.size[2];
  v.size[2] = 1;
}
FC_INLINE bool image_follows_image(const TensorView& v, int64_t pixels) {
  return !v.present() || v.size[0] == 1 || pixels == 1 || v.stride[0] == pixels * v.stride[3];
}
FC_INLINE void merge_images(TensorView& v) {
  if (!v.present()) return;
  if (v.size[3] == 1) v.stride[3] = v.stride[0];
  v.size[3] *= v.size[0];
  v.size[0] = 1;
}

// One tap along an axis and nothing outside: a view of exactly the rows (columns) that are read.
FC_INLINE void fold_axis(TensorView& x, int axis, int64_t extent, int64_t scale, int64_t& step, int64_t& tap) {
  if (scale != 1 || tap < 0 || (extent - 1) * step + tap >= x.size[axis]) return;
  x.data = static_cast<char*>(x.data) + tap * x.stride[axis] * static_cast<int64_t>(dtype_size(x.dtype));
  x.stride[axis] *= step;
  x.size[axis] = extent;
  step = 1;
  tap = 0;
}

FC_INLINE void swap_axes(TensorView& v) {
  const int64_t size = v.size[2], stride = v.stride[2];
  v.size[2] = v.size[3];
  v.stride[2] = v.stride[3];
  v.size[3] = size;
  v.stride[3] = stride;
}

template <class V>
FC_INLINE void exchange(V& a, V& b) {
  const V t = a;
  a = b;
  b = t;
}

// Keeps the taps that meet x for some output. `kept`: room for 2 * taps.
FC_INLINE int64_t live_taps(int64_t taps, const int64_t* offsets, int64_t extent, int64_t step, int64_t input,
                            int64_t* kept) {
  int64_t count = 0;
  for (int64_t i = 0; i < taps; ++i) {
    if (offsets[i] + (extent - 1) * step < 0 || offsets[i] >= input) continue;
    kept[count] = offsets[i];
    kept[taps + count++] = i;
  }
  return count;
}

}  // namespace task_detail

FC_INLINE int64_t simplify_memory(const ConvTask& t) { return 2 * (t.R + t.S) + 2; }

// The task as it stands, for callers that go by its rows. `memory`: as for simplify().
inline SimplifiedTask as_it_stands(const ConvTask& task, int64_t* memory) {
  SimplifiedTask t;
  static_cast<ConvTask&>(t) = task;
  if (t.epilogue.full_param.size[0] == 1) t.epilogue.full_param.stride[0] = 0;
  for (int64_t i = 0; i < task.R + task.S; ++i) memory[i] = i < task.R ? i : i - task.R;
  t.filter_r = memory;
  t.filter_s = memory + task.R;
  t.filter_step_r = task.S;
  return t;
}

// Without touching data: taps that only meet padding go, narrow images lie down, single taps become plain views, and
// the pixels of a 1x1 convolution become one long row. `memory`: simplify_memory() numbers that outlive the result.
inline SimplifiedTask simplify(const ConvTask& task, int64_t* memory) {
  using namespace task_detail;
  SimplifiedTask t;
  static_cast<ConvTask&>(t) = task;
  TensorView* const views[] = {&t.x, &t.y, &t.partial, &t.epilogue.residual, &t.epilogue.full_param};
  if (t.epilogue.full_param.size[0] == 1) t.epilogue.full_param.stride[0] = 0;
  int64_t *kept_h = memory, *kept_w = memory + 2 * task.R, *single = kept_w + 2 * task.S;
  t.R = live_taps(task.R, task.dh, t.P, t.step_h, t.x.size[2] * t.scale_h, kept_h);
  t.S = live_taps(task.S, task.dw, t.Q, t.step_w, t.x.size[3] * t.scale_w, kept_w);
  t.dh = kept_h;
  t.dw = kept_w;
  t.filter_r = kept_h + task.R;
  t.filter_s = kept_w + task.S;
  t.filter_step_r = task.S;
  if (t.Q * 4 <= t.P) {  // tiles run along q: let that be the longer axis
    for (TensorView* v : views) swap_axes(*v);
    exchange(t.P, t.Q);
    exchange(t.R, t.S);
    exchange(t.dh, t.dw);
    exchange(t.step_h, t.step_w);
    exchange(t.scale_h, t.scale_w);
    exchange(t.filter_r, t.filter_s);
    exchange(t.filter_step_r, t.filter_step_s);
  }
  for (TensorView* v : views)
    if (v->size[3] == 1) v->stride[3] = v->stride[2];  // so that single columns follow each other
  if (t.R == 1) {
    single[0] = t.dh[0];
    t.dh = single;
    fold_axis(t.x, 2, t.P, t.scale_h, t.step_h, single[0]);
  }
  if (t.S == 1) {
    single[1] = t.dw[0];
    t.dw = single + 1;
    fold_axis(t.x, 3, t.Q, t.scale_w, t.step_w, single[1]);
  }
  const bool plain = t.R == 1 && t.S == 1 && t.dh[0] == 0 && t.dw[0] == 0 && t.step_h == 1 && t.step_w == 1 &&
                     t.scale_h == 1 && t.scale_w == 1 && t.x.size[2] == t.P && t.x.size[3] == t.Q;
  if (!plain) return t;
  bool rows = true, images = true;
  for (TensorView* v : views) rows = rows && row_follows_row(*v, t.Q);
  if (!rows) return t;
  for (TensorView* v : views) merge_rows(*v);
  t.Q *= t.P;
  t.P = 1;
  for (TensorView* v : views) images = images && image_follows_image(*v, t.Q);
  images = images && t.packed_image == 0;
  // A slope shared by the batch has size 1 there, or stride 0.
  if (t.epilogue.full_param.present() && t.N > 1) images = images && t.epilogue.full_param.size[0] == t.N;
  if (!images) return t;
  for (TensorView* v : views) merge_images(*v);
  t.Q *= t.N;
  t.N = 1;
  return t;
}

}  // namespace fastconv::cpu::FASTCONV_ISA
