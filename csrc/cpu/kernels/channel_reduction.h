// Sums over every axis but the channel's: sum[c] = sum over n, h, w of f(a, b). Shared by the gradients of a bias and
// of PReLU's parameter. The split into tasks depends on the extents alone and partial sums are added in a fixed order,
// so that the bits do not depend on the number of threads. float runs are short (kReductionRun), then float64.
//
//   channels last:  task = (group of pixel strips) x (4 vectors of channels), channels in the lanes
//   other strides:  task = (channel) x (group of runs), pixels in the lanes
#pragma once

#include "../cpu_kernels.h"
#include "loop_axes.h"
#include "runs.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr int64_t kReductionRun = 256;    // pixels added up in float, per lane at most
constexpr int64_t kReductionGroups = 32;  // partial sums per channel, at most

// The pixels of one operand pair after merging: up to three axes, innermost last.
struct ReductionPixels {
  LoopAxis axis[3];
  int count;
  int64_t runs_per_row, runs;

  ReductionPixels(const TensorView& a, const TensorView& b) {
    const int from[3] = {0, 2, 3};
    for (int i = 0; i < 3; ++i) axis[i] = {a.size[from[i]], {a.stride[from[i]], b.stride[from[i]], 0, 0}};
    count = merge_axes(axis, 3);
    runs_per_row = ceil_div(inner().size, kReductionRun);
    runs = runs_per_row;
    for (int i = 0; i + 1 < count; ++i) runs *= axis[i].size;
  }
  const LoopAxis& inner() const { return axis[count - 1]; }
  // Start of run i in both operands, and its length.
  int64_t locate(int64_t i, int64_t* a, int64_t* b) const {
    const int64_t at = i % runs_per_row * kReductionRun;
    int64_t row = i / runs_per_row;
    *a = at * inner().stride[0];
    *b = at * inner().stride[1];
    for (int d = count - 2; d >= 0; --d) {
      *a += row % axis[d].size * axis[d].stride[0];
      *b += row % axis[d].size * axis[d].stride[1];
      row /= axis[d].size;
    }
    const int64_t left = inner().size - at;
    return left < kReductionRun ? left : kReductionRun;
  }
};

// One strip of pixels for `lanes` channels from `a` on, added to sums.
template <class T, class F, int kVectors>
FC_INLINE void reduce_strip(const T* a, const T* b, int64_t a_step, int64_t b_step, int64_t pixels, int64_t lanes, F f,
                            double* sums) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  V acc[kVectors];
  for (int v = 0; v < kVectors; ++v) acc[v] = V(0);
  for (int64_t i = 0; i < pixels; ++i, a += a_step, b += b_step) {
    for (int v = 0; v < kVectors; ++v) {
      if constexpr (kVectors > 1) {
        acc[v] = acc[v] + f(V::load(a + v * V::kLanes), V::load(b + v * V::kLanes));
      } else {
        acc[v] = acc[v] + f(V::load_partial(a, lanes), V::load_partial(b, lanes));
      }
    }
  }
  Acc lane[kVectors * V::kLanes];
  for (int v = 0; v < kVectors; ++v) acc[v].store(lane + v * V::kLanes);
  for (int64_t i = 0; i < lanes; ++i) sums[i] += lane[i];
}

template <class T, class F>
void reduce_channels_last(const TensorView& a, const TensorView& b, F f, double* partial, int64_t groups) {
  using V = Vec<accumulate_t<T>>;
  constexpr int64_t kBlock = 4 * V::kLanes;
  const ReductionPixels pixels(a, b);
  const int64_t C = a.size[1], blocks = ceil_div(C, kBlock);
  parallel_for(groups * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / blocks, c0 = task % blocks * kBlock;
      const int64_t c1 = c0 + kBlock < C ? c0 + kBlock : C;
      for (int64_t c = c0; c < c1; ++c) partial[group * C + c] = 0;
      for (int64_t i = group * pixels.runs / groups; i < (group + 1) * pixels.runs / groups; ++i) {
        int64_t at_a, at_b;
        const int64_t n = pixels.locate(i, &at_a, &at_b);
        const T *pa = a.as<const T>() + at_a, *pb = b.as<const T>() + at_b;
        const int64_t a_step = pixels.inner().stride[0], b_step = pixels.inner().stride[1];
        double* sums = partial + group * C;
        if (c1 - c0 == kBlock) {
          reduce_strip<T, F, 4>(pa + c0, pb + c0, a_step, b_step, n, kBlock, f, sums + c0);
        } else {
          for (int64_t c = c0; c < c1; c += V::kLanes) {
            const int64_t lanes = c1 - c < V::kLanes ? c1 - c : V::kLanes;
            reduce_strip<T, F, 1>(pa + c, pb + c, a_step, b_step, n, lanes, f, sums + c);
          }
        }
      }
    }
  });
}

template <class T, class F>
void reduce_planes(const TensorView& a, const TensorView& b, F f, double* partial, int64_t groups) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  const ReductionPixels pixels(a, b);
  const int64_t C = a.size[1];
  parallel_for(
      groups * C, ceil_div(16384, ceil_div(pixels.runs, groups) * kReductionRun), [&](int64_t begin, int64_t end) {
        Acc a_buffer[kReductionRun], b_buffer[kReductionRun];
        for (int64_t task = begin; task < end; ++task) {
          const int64_t group = task % groups, c = task / groups;
          double sum = 0;
          for (int64_t i = group * pixels.runs / groups; i < (group + 1) * pixels.runs / groups; ++i) {
            int64_t at_a, at_b;
            const int64_t n = pixels.locate(i, &at_a, &at_b);
            const T *pa = a.as<const T>() + c * a.stride[1] + at_a, *pb = b.as<const T>() + c * b.stride[1] + at_b;
            const Acc* ra = dense_run(pa, pixels.inner().stride[0], n, a_buffer);
            const Acc* rb = pb == pa ? ra : dense_run(pb, pixels.inner().stride[1], n, b_buffer);
            V acc(0);
            int64_t j = 0;
            for (; j + V::kLanes <= n; j += V::kLanes) acc = acc + f(V::load(ra + j), V::load(rb + j));
            if (j < n) acc = acc + f(V::load_partial(ra + j, n - j), V::load_partial(rb + j, n - j));
            sum += acc.reduce_add();
          }
          partial[group * C + c] = sum;
        }
      });
}

// Fills `sums` (C values). f(0, 0) must be 0, for the lanes beyond a tail. Pass `a` twice for a function of one.
template <class T, class F>
void reduce_to_channels(const TensorView& a, const TensorView& b, Workspace& workspace, F f, double* sums) {
  const int64_t C = a.size[1];
  const bool last = C > 1 && a.stride[1] == 1 && b.stride[1] == 1;
  const ReductionPixels pixels(a, b);
  // Planes are already as many as there are channels; split them only when that leaves too few tasks.
  const int64_t wanted = last ? kReductionGroups : ceil_div(kReductionGroups, C);
  const int64_t groups = wanted < pixels.runs ? wanted : pixels.runs;
  double* partial = static_cast<double*>(workspace.allocate(static_cast<size_t>(groups * C) * sizeof(double)));
  last ? reduce_channels_last<T>(a, b, f, partial, groups) : reduce_planes<T>(a, b, f, partial, groups);
  for (int64_t c = 0; c < C; ++c) {
    sums[c] = 0;
    for (int64_t g = 0; g < groups; ++g) sums[c] += partial[g * C + c];
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
