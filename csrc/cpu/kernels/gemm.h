// d[b] = epilogue(op(a[b]) * op(b[b])) on the convolution engine: rows of A are pixels, columns of B output channels,
// the reduction the channels of a 1x1 filter. A is read in place where its rows are contiguous; else (transposed,
// narrow, rows a power of two apart) it passes through the engine's band. B comes packed, or is packed here in blocks:
//
//   for each few batches, or each block of columns
//     for each block of the reduction: pack the block (all threads), multiply all of A's rows with it (all threads)
//
// Partial sums of a divided reduction wait in d, or in a float32 block where d cannot hold them.
#pragma once

#include "conv_engine.h"
#include "gemm_few_rows.h"
#include "reused_workspace.h"

namespace fastconv::cpu::FASTCONV_ISA {

namespace gemm_detail {

// Of B, per thread, so that with the engine's band a thread stays within 1 MiB. With whole columns the band is deep;
// divided at kReduction rows it is a quarter of a MiB, and B's block may be larger: the more columns, the less often
// rows of A are fetched.
constexpr int64_t kPackBytes = 256 << 10, kDividedPackBytes = 512 << 10;
constexpr int64_t kReduction = kChain;  // whole chains of additions: the sums are those of an undivided reduction

// b as filters: column n is k, row k is c.
template <class T>
FilterView columns_of(const GemmCall& g, int64_t batch, int64_t n, int64_t k) {
  FilterView w;
  w.data = static_cast<const T*>(g.b) + batch * g.b_stride_batch + n * g.b_stride_n + k * g.b_stride_k;
  w.stride_k = g.b_stride_n;
  w.stride_c = g.b_stride_k;
  w.stride_group = g.b_stride_batch;
  return w;
}

inline TensorView view(void* data, DType dtype, int64_t batch, int64_t channels, int64_t pixels, int64_t stride_batch,
                       int64_t stride_channel, int64_t stride_pixel) {
  return {data, dtype, {batch, channels, 1, pixels}, {stride_batch, stride_channel, 0, stride_pixel}};
}

// The part of the product in rows [m, m + rows), columns [n, n + columns), batches [batch, batch + batches), reduction
// [k, k + depth).
struct Range {
  int64_t batch, batches, m, rows, n, columns, k, depth;
};

inline TensorView part(TensorView v, int axis, int64_t first, int64_t count) {
  v.data = static_cast<char*>(v.data) + first * v.stride[axis] * static_cast<int64_t>(dtype_size(v.dtype));
  v.size[axis] = count;
  return v;
}

// An operand of d's extents, given as (batch, N, M, 1): that part, its rows as one row of pixels.
inline TensorView part_of(TensorView v, const Range& at) {
  if (!v.present()) return v;
  task_detail::swap_axes(v);
  v = part(part(v, 1, at.n, at.columns), 3, at.m, at.rows);
  return v.size[0] > 1 ? part(v, 0, at.batch, at.batches) : v;
}

template <class Acc>
const void* shifted(const void* vector, int64_t n) {
  return vector ? static_cast<const Acc*>(vector) + n : nullptr;
}

template <class T>
ConvTask task_of(const GemmCall& g, const Range& at, bool last) {
  using Acc = accumulate_t<T>;
  static const int64_t kZero[1] = {0};
  ConvTask t;
  t.dtype = g.dtype;
  t.N = at.batches;
  t.P = 1;
  t.Q = at.rows;
  t.C = at.depth;
  t.K = at.columns;
  t.dh = t.dw = kZero;
  T* a =
      static_cast<T*>(const_cast<void*>(g.a)) + at.batch * g.a_stride_batch + at.m * g.a_stride_m + at.k * g.a_stride_k;
  t.x = view(a, g.dtype, at.batches, at.depth, at.rows, g.a_stride_batch, g.a_stride_k, g.a_stride_m);
  T* d = static_cast<T*>(g.d) + at.batch * g.d_stride_batch + at.m * g.d_stride_m + at.n * g.d_stride_n;
  t.y = view(d, g.dtype, at.batches, at.columns, at.rows, g.d_stride_batch, g.d_stride_n, g.d_stride_m);
  if (!last) return t;
  EpilogueArgs& e = t.epilogue;
  e = g.epilogue;
  e.bias = shifted<Acc>(e.bias, at.n);
  e.scale = shifted<Acc>(e.scale, at.n);
  e.shift = shifted<Acc>(e.shift, at.n);
  e.channel_param = shifted<Acc>(e.channel_param, at.n);
  e.residual = part_of(e.residual, at);
  e.full_param = part_of(e.full_param, at);
  return t;
}

template <class T>
void run_packed(const GemmCall& g, const CallContext& context) {
  ConvTask t = task_of<T>(g, {0, g.batch, 0, g.M, 0, g.N, 0, g.K}, true);
  t.packed = g.packed_b;
  run_task_of<T>(t, context);
}

// The sums of a few rows, in d where it can hold them, then the epilogue: a task without reduction that starts there.
template <class Acc>
void run_few_rows(const GemmCall& g, const CallContext& context) {
  ReusedWorkspace workspace(*context.workspace);
  CallContext batch_context = context;
  batch_context.workspace = &workspace;
  Acc* a = allocate<Acc>(context, g.M * g.K);
  Acc* sums = allocate<Acc>(context, g.M * g.N);
  for (int64_t batch = 0; batch < g.batch; ++batch) {
    ConvTask t = task_of<Acc>(g, {batch, 1, 0, g.M, 0, g.N, 0, g.K}, true);
    t.C = 0;
    t.partial = stores_directly<Acc>(t.y) ? t.y : view(sums, accumulate_dtype(g.dtype), 1, g.N, g.M, 0, 1, g.N);
    load_pixels(static_cast<const Acc*>(g.a) + batch * g.a_stride_batch, g.a_stride_m, g.a_stride_k, g.M, g.K, a, g.K);
    few_rows(a, static_cast<const Acc*>(g.b) + batch * g.b_stride_batch, g.b_stride_k, g.b_stride_n, g.M, g.N, g.K,
             t.partial.template as<Acc>(), t.partial.stride[3]);
    workspace.reuse();
    run_task_of<Acc>(t, batch_context);
  }
}

template <class T>
void run(const GemmCall& g, const CallContext& context) {
  using Acc = accumulate_t<T>;
  const int64_t item = sizeof(Acc), threads = thread_pool().threads(), width = kPanelWidth<Acc>;
  int64_t budget = kPackBytes * threads;
  const int64_t rounded = ceil_div(g.N, width) * width;
  if (g.packed_b) return run_packed<T>(g, context);

  if (sizeof(T) == sizeof(Acc) && g.M <= kFewRows && (g.b_stride_n == 1 || g.b_stride_k == 1)) {
    return run_few_rows<Acc>(g, context);
  }

  const bool sums_fit_d = stores_directly<Acc>(task_of<T>(g, {0, 1, 0, g.M, 0, g.N, 0, g.K}, false).y);
  Range step{0, 1, 0, g.M, 0, g.N, 0, g.K};
  if (rounded * g.K * item <= budget) {
    step.batches = larger(1, smaller(g.batch, budget / larger(1, rounded * g.K * item)));
  } else {
    // Whole columns while d cannot hold partial sums, and narrow blocks of them suffice.
    if (sums_fit_d || g.K * width * item > budget) step.depth = smaller(g.K, kReduction);
    if (sums_fit_d) budget = kDividedPackBytes * threads;
    step.columns = larger(width, budget / (step.depth * item) / width * width);
    step.columns = ceil_div(balanced(g.N, step.columns), width) * width;
  }
  const bool divided = step.depth < g.K;
  Acc* sums = nullptr;
  if (divided && !sums_fit_d) {
    step.rows = smaller(g.M, larger(kTileRows, budget / (step.columns * item)));
    sums = allocate<Acc>(context, step.rows * step.columns);
  }
  const int64_t packed_image = packed_elements<Acc>(smaller(step.columns, g.N), step.depth);
  Acc* packed = allocate<Acc>(context, step.batches * packed_image);
  ReusedWorkspace workspace(*context.workspace);
  CallContext step_context = context;
  step_context.workspace = &workspace;
  for (Range at = step; at.batch < g.batch; at.batch += step.batches) {
    at.batches = smaller(step.batches, g.batch - at.batch);
    for (at.n = 0; at.n < g.N; at.n += step.columns) {
      at.columns = smaller(step.columns, g.N - at.n);
      for (at.m = 0; at.m < g.M; at.m += step.rows) {
        at.rows = smaller(step.rows, g.M - at.m);
        for (at.k = 0; at.k == 0 || at.k < g.K; at.k += larger(step.depth, 1)) {
          at.depth = smaller(step.depth, g.K - at.k);
          const bool first = at.k == 0, last = at.k + at.depth >= g.K;
          pack_filter<T>(columns_of<T>(g, at.batch, at.n, at.k), at.batches, at.columns, at.depth, packed);
          ConvTask t = task_of<T>(g, at, last);
          t.packed = packed;
          t.packed_image = at.batches > 1 ? packed_elements<Acc>(at.columns, at.depth) : 0;
          const TensorView waiting =
              sums ? view(sums, accumulate_dtype(g.dtype), 1, at.columns, at.rows, 0, 1, step.columns) : t.y;
          if (!first) t.partial = waiting;
          if (!last) t.y = waiting;
          workspace.reuse();
          run_task_of<T>(t, step_context);
        }
      }
    }
  }
}

}  // namespace gemm_detail

inline void gemm(const GemmCall& call, const CallContext& context) {
  if (call.batch == 0 || call.M == 0 || call.N == 0) return;
  visit_dtype(call.dtype, [&](auto tag) { gemm_detail::run<typename decltype(tag)::type>(call, context); });
}

inline size_t gemm_packed_b_bytes(int64_t K, int64_t N, DType dtype) {
  return dtype == DType::kFloat64 ? static_cast<size_t>(packed_elements<double>(N, K)) * sizeof(double)
                                  : static_cast<size_t>(packed_elements<float>(N, K)) * sizeof(float);
}

inline void gemm_pack_b(const GemmCall& call, void* packed) {
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    pack_filter<T>(gemm_detail::columns_of<T>(call, 0, 0, 0), 1, call.N, call.K, packed);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
