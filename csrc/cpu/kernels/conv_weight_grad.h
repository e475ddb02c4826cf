// dw[k, c, r, s] = sum over n, p, q of dy[n, k, p, q] * x[n, c, p * stride_h - pad_top + r * dilation_h, ...]: any
// stride, padding, dilation and group, any layout and type, sums in the accumulate type.
//
// A task (weight_grad_plan.h) packs a block of dy and the x under it to [pixel][channel], widened, and runs register
// tiles (weight_grad_tile.h) over them, tap by tap; x stays in L1 over all filters of a tap:
//
//   for block of pixels: pack dy, x;  for 2 vectors of channels: for tap: for MR filters: tile += dy^T x
#pragma once

#include "../cpu_kernels.h"
#include "pixel_runs.h"
#include "tap_range.h"
#include "weight_grad_plan.h"

namespace fastconv::cpu::FASTCONV_ISA {

template <class T>
struct WeightGradTask {
  using Acc = accumulate_t<T>;
  static constexpr int64_t kLanes = Vec<Acc>::kLanes;

  const Conv2dWeightGradCall& call;
  const ConvProblem& p;
  const WeightGradPlan& plan;
  Acc *dy, *x, *line, *sum;  // packed operands, one input row, sums [tap][k_block][c_block]
  int64_t group, k0, k_count, c0, c_count, r0, r_count;

  WeightGradTask(const Conv2dWeightGradCall& call, const WeightGradPlan& plan, Acc* dy, Acc* x, Acc* line, Acc* sum,
                 int64_t tile)
      : call(call), p(call.problem), plan(plan), dy(dy), x(x), line(line), sum(sum) {
    r0 = tile % plan.r_blocks * plan.r_block;
    r_count = plan.flat ? 1 : at_most(plan.r_block, p.R - r0);
    tile /= plan.r_blocks;
    c0 = tile % plan.c_blocks * plan.c_block;
    c_count = at_most(plan.c_block, plan.channels - c0);
    tile /= plan.c_blocks;
    k0 = tile % plan.k_blocks * plan.k_block;
    k_count = at_most(plan.k_block, plan.K - k0);
    group = tile / plan.k_blocks;
  }

  static void clear(Acc* values, int64_t count) {
    __builtin_memset(values, 0, static_cast<size_t>(count) * sizeof(Acc));
  }

  void run(int64_t first_block, int64_t last_block) {
    clear(sum, plan.sum_elements);
    // Packing leaves the padding up to whole tiles alone.
    if (k_count < plan.k_block) clear(dy, plan.dy_elements);
    if (c_count < plan.c_block) clear(x, plan.x_elements);
    for (int64_t block = first_block; block < last_block; ++block) plan.flat ? flat_block(block) : tap_block(block);
  }

  const T* dy_at(int64_t n, int64_t row, int64_t q) const {
    return call.dy.template as<const T>() + call.dy.offset(n, group * plan.K + k0, row, q);
  }
  const T* x_at(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return call.x.template as<const T>() + call.x.offset(n, group * plan.C + c, h, w);
  }
  void pack_dy(int64_t n, int64_t row, int64_t q, int64_t count, int64_t pixel) const {
    load_pixels(dy_at(n, row, q), call.dy.stride[3], call.dy.stride[1], count, k_count, dy + pixel * plan.dy_pitch,
                plan.dy_pitch);
  }

  template <int kVectors>
  void tiles(const Acc* x_first, int64_t x_step, int64_t x_row, const Acc* dy_first, int64_t dy_row, int64_t rows,
             int64_t pixels, Acc* sums) const {
    const auto run_tile = find_weight_grad_tile<Acc, kVectors>(plan.height);
    for (int64_t k = 0; k < k_count; k += plan.height) {
      run_tile({dy_first + k, x_first, plan.dy_pitch, x_step, dy_row, x_row, rows, pixels, sums + k * plan.c_block,
                plan.c_block});
    }
  }

  // All filters and channels of one tap: f(vectors in the tile, first channel).
  template <class F>
  void for_columns(F f) const {
    const int64_t width = whole_multiple(c_count, kLanes);
    for (int64_t c = 0; c < width; c += 2 * kLanes) {
      width - c >= 2 * kLanes ? f(TypeTag<Acc[2]>{}, c) : f(TypeTag<Acc[1]>{}, c);
    }
  }
  template <class Tag>
  static constexpr int kVectorsOf = sizeof(typename Tag::type) / sizeof(Acc);

  void tap_block(int64_t block) const {
    const int64_t strip = block % plan.strips, band = block / plan.strips % plan.bands;
    const int64_t n = block / plan.strips / plan.bands;
    const int64_t p0 = band * plan.rows, p1 = at_most(p0 + plan.rows, p.P);
    const int64_t q0 = strip * plan.columns, q1 = at_most(q0 + plan.columns, p.Q), width = q1 - q0;
    const int64_t h0 = at_least(0, p0 * p.stride_h - p.pad_top + r0 * p.dilation_h);
    const int64_t h1 = at_most(p.H, (p1 - 1) * p.stride_h - p.pad_top + (r0 + r_count - 1) * p.dilation_h + 1);
    const int64_t w0 = at_least(0, q0 * p.stride_w - p.pad_left);
    const int64_t w1 = at_most(p.W, (q1 - 1) * p.stride_w - p.pad_left + (p.S - 1) * p.dilation_w + 1);
    if (h0 >= h1 || w0 >= w1) return;  // padding only
    for (int64_t row = p0; row < p1; ++row) pack_dy(n, row, q0, width, (row - p0) * width);
    const int64_t x_row = (w1 - w0) * plan.x_pitch;
    for (int64_t h = h0; h < h1; ++h)
      load_pixels(x_at(n, c0, h, w0), call.x.stride[3], call.x.stride[1], w1 - w0, c_count, x + (h - h0) * x_row,
                  plan.x_pitch);

    for_columns([&](auto tag, int64_t c) {
      for (int64_t r = r0; r < r0 + r_count; ++r) {
        const TapRange all_p = tap_range(r * p.dilation_h - p.pad_top, p.stride_h, p.H, p.P);
        const int64_t begin_p = at_least(all_p.begin, p0), rows = at_most(all_p.end, p1) - begin_p;
        if (rows <= 0) continue;
        const int64_t h = begin_p * p.stride_h - p.pad_top + r * p.dilation_h;
        for (int64_t s = 0; s < p.S; ++s) {
          const TapRange all_q = tap_range(s * p.dilation_w - p.pad_left, p.stride_w, p.W, p.Q);
          const int64_t begin_q = at_least(all_q.begin, q0), pixels = at_most(all_q.end, q1) - begin_q;
          if (pixels <= 0) continue;
          const int64_t w = begin_q * p.stride_w - p.pad_left + s * p.dilation_w;
          tiles<kVectorsOf<decltype(tag)>>(
              x + (h - h0) * x_row + (w - w0) * plan.x_pitch + c, p.stride_w * plan.x_pitch, p.stride_h * x_row,
              dy + ((begin_p - p0) * width + begin_q - q0) * plan.dy_pitch, width * plan.dy_pitch, rows, pixels,
              sum + ((r - r0) * p.S + s) * plan.k_block * plan.c_block + c);
        }
      }
    });
  }

  void flat_block(int64_t block) const {
    const int64_t first = block * kWeightGradFlatPixels;
    const int64_t count = at_most(kWeightGradFlatPixels, p.N * p.P * p.Q - first);
    if (reaches_outside()) clear(x, count * plan.x_pitch);
    for (int64_t done = 0; done < count;) {  // row by row
      const int64_t q = (first + done) % p.Q, row = (first + done) / p.Q % p.P, n = (first + done) / p.Q / p.P;
      const int64_t pixels = at_most(count - done, p.Q - q);
      pack_dy(n, row, q, pixels, done);
      pack_flat(n, row, q, pixels, x + done * plan.x_pitch);
      done += pixels;
    }
    for_columns([&](auto tag, int64_t c) {
      tiles<kVectorsOf<decltype(tag)>>(x + c, plan.x_pitch, 0, dy, 0, 1, count, sum + c);
    });
  }

  bool reaches_outside() const {
    return p.pad_top > 0 || p.pad_left > 0 || (p.P - 1) * p.stride_h - p.pad_top + (p.R - 1) * p.dilation_h >= p.H ||
           (p.Q - 1) * p.stride_w - p.pad_left + (p.S - 1) * p.dilation_w >= p.W;
  }

  // Columns (tap, c) of outputs [q0, q0 + count) of one row; those in the padding stay as they are: zero.
  void pack_flat(int64_t n, int64_t row, int64_t q0, int64_t count, Acc* out) const {
    const int64_t filter_row = p.S * plan.C;
    for (int64_t column = c0; column < c0 + c_count;) {
      const int64_t r = column / filter_row, h = row * p.stride_h - p.pad_top + r * p.dilation_h;
      const int64_t length = at_most((r + 1) * filter_row, c0 + c_count) - column;
      if (h >= 0 && h < p.H) {
        const FilterRow part{column % filter_row, length, q0, count, out + (column - c0)};
        plan.line_elements > 0 ? pack_from_line(n, h, part) : pack_from_input(n, h, part);
      }
      column += length;
    }
  }

  // Columns [first, first + length) of a filter row's S * C for outputs [q0, q0 + count), to `out`.
  struct FilterRow {
    int64_t first, length, q0, count;
    Acc* out;
  };

  // f(tap, first channel, channels, outputs whose tap is inside, where to) for each tap of the part.
  template <class F>
  void for_taps(const FilterRow& part, int64_t begin, int64_t end, F f) const {
    for (int64_t done = 0; done < part.length;) {
      const int64_t s = (part.first + done) / plan.C, c = (part.first + done) % plan.C;
      const int64_t channels = at_most(plan.C - c, part.length - done);
      const TapRange inside = outputs_of(s, begin, end);
      if (inside.begin < inside.end)
        f(s, c, channels, inside, part.out + done + (inside.begin - part.q0) * plan.x_pitch);
      done += channels;
    }
  }
  TapRange outputs_of(int64_t s, int64_t begin, int64_t end) const {
    const TapRange range = tap_range(s * p.dilation_w - p.pad_left, p.stride_w, p.W, p.Q);
    return {at_least(range.begin, begin), at_most(range.end, end)};
  }

  void pack_from_input(int64_t n, int64_t h, const FilterRow& part) const {
    for_taps(part, part.q0, part.q0 + part.count,
             [&](int64_t s, int64_t c, int64_t channels, TapRange inside, Acc* to) {
               const int64_t w = inside.begin * p.stride_w - p.pad_left + s * p.dilation_w;
               load_pixels(x_at(n, c, h, w), p.stride_w * call.x.stride[3], call.x.stride[1], inside.end - inside.begin,
                           channels, to, plan.x_pitch);
             });
  }

  // Few channels: the input row as [pixel][channel] first, once for all taps; there a filter row without dilation is
  // one run of memory.
  void pack_from_line(int64_t n, int64_t h, const FilterRow& part) const {
    const int64_t C = plan.C, end_q = part.q0 + part.count;
    const int64_t w0 = at_least(0, part.q0 * p.stride_w - p.pad_left);
    const int64_t w1 = at_most(p.W, (end_q - 1) * p.stride_w - p.pad_left + (p.S - 1) * p.dilation_w + 1);
    if (w0 >= w1) return;
    const Acc* pixels = line;
    if (sizeof(T) == sizeof(Acc) && call.x.stride[1] == 1 && call.x.stride[3] == C) {
      pixels = reinterpret_cast<const Acc*>(x_at(n, 0, h, w0));
    } else {
      load_pixels(x_at(n, 0, h, w0), call.x.stride[3], call.x.stride[1], w1 - w0, C, line, C);
    }
    const auto copy = [&](int64_t s, int64_t c, int64_t length, TapRange inside, Acc* to) {
      const int64_t w = inside.begin * p.stride_w - p.pad_left + s * p.dilation_w;
      load_pixels(pixels + (w - w0) * C + c, p.stride_w * C, 1, inside.end - inside.begin, length, to, plan.x_pitch);
    };
    const int64_t first_s = part.first / C, last_s = (part.first + part.length - 1) / C;
    TapRange whole{end_q, end_q};
    if (p.dilation_w == 1) {
      const TapRange first = outputs_of(first_s, part.q0, end_q), last = outputs_of(last_s, part.q0, end_q);
      whole = {at_least(first.begin, last.begin), at_most(first.end, last.end)};
      if (whole.begin >= whole.end) whole = {end_q, end_q};
    }
    if (whole.begin < whole.end)
      copy(first_s, part.first % C, part.length, whole, part.out + (whole.begin - part.q0) * plan.x_pitch);
    for_taps(part, part.q0, whole.begin, copy);
    for_taps(part, whole.end, end_q, copy);
  }

  // Filter k of the task to dw, the splits added in order.
  void write_filter(int64_t k, int64_t splits, int64_t split_step) const {
    T* out = call.dw.template as<T>() + (group * plan.K + k0 + k) * call.dw.stride[0];
    const int64_t taps = plan.flat ? 1 : r_count * p.S;
    for (int64_t tap = 0; tap < taps; ++tap) {
      Acc* row = sum + (tap * plan.k_block + k) * plan.c_block;
      for (int64_t split = 1; split < splits; ++split)
        for (int64_t c = 0; c < c_count; ++c) row[c] += row[split * split_step + c];
      for (int64_t c = 0; c < c_count;) {
        const int64_t filter_tap = plan.flat ? (c0 + c) / plan.C : r0 * p.S + tap;
        const int64_t channel = plan.flat ? (c0 + c) % plan.C : c0 + c;
        const int64_t count = at_most(plan.C - channel, c_count - c);
        store_run(out + channel * call.dw.stride[1] + filter_tap / p.S * call.dw.stride[2] +
                      filter_tap % p.S * call.dw.stride[3],
                  call.dw.stride[1], count, row + c);
        c += count;
      }
    }
  }
};

template <class T>
void weight_grad_typed(const Conv2dWeightGradCall& call, const CallContext& context) {
  using Acc = accumulate_t<T>;
  const ConvProblem& p = call.problem;
  const int64_t threads = at_least(1, thread_pool().threads());
  const WeightGradPlan plan = plan_weight_grad<Acc>(p, threads);
  const int64_t tiles = plan.tiles(p.groups), tasks = tiles * plan.splits, slots = at_most(threads, tasks);
  const bool split = plan.splits > 1;

  // 64 bytes between the parts keep every packed pixel and every sum on a vector's boundary.
  constexpr int64_t kLine = 64 / sizeof(Acc);
  const int64_t dy_elements = whole_multiple(plan.dy_elements, kLine),
                x_elements = whole_multiple(plan.x_elements, kLine);
  const int64_t sum_elements = whole_multiple(plan.sum_elements, kLine);
  const int64_t line_elements = whole_multiple(plan.line_elements, kLine);
  const int64_t slot_elements = dy_elements + x_elements + line_elements + (split ? 0 : sum_elements);
  const auto allocate = [&](int64_t elements) {
    return static_cast<Acc*>(context.workspace->allocate(static_cast<size_t>(elements) * sizeof(Acc)));
  };
  Acc* scratch = allocate(slots * slot_elements);
  Acc* partial = split ? allocate(tasks * sum_elements) : nullptr;

  parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) {
      Acc *dy = scratch + slot * slot_elements, *x = dy + dy_elements, *line = x + x_elements;
      for (int64_t i = slot * tasks / slots; i < (slot + 1) * tasks / slots; ++i) {
        const int64_t part = i % plan.splits;
        Acc* sum = split ? partial + i * sum_elements : line + line_elements;
        WeightGradTask<T> task(call, plan, dy, x, line, sum, i / plan.splits);
        task.run(part * plan.blocks / plan.splits, (part + 1) * plan.blocks / plan.splits);
        for (int64_t k = 0; !split && k < task.k_count; ++k) task.write_filter(k, 1, 0);
      }
    }
  });
  if (!split) return;
  const int64_t filter_cost = plan.taps * plan.c_block * plan.splits;
  parallel_for(tiles * plan.k_block, ceil_div(16384, filter_cost), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Acc* sum = partial + i / plan.k_block * plan.splits * sum_elements;
      const WeightGradTask<T> task(call, plan, nullptr, nullptr, nullptr, sum, i / plan.k_block);
      if (i % plan.k_block < task.k_count) task.write_filter(i % plan.k_block, plan.splits, sum_elements);
    }
  });
}

inline void conv2d_weight_grad(const Conv2dWeightGradCall& call, const CallContext& context) {
  const ConvProblem& p = call.problem;
  if (call.dw.numel() == 0) return;
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (p.N * p.P * p.Q > 0) return weight_grad_typed<T>(call, context);
    for (int64_t k = 0; k < p.K; ++k)
      for (int64_t c = 0; c < p.channels_per_group(); ++c)
        for (int64_t r = 0; r < p.R; ++r)
          for (int64_t s = 0; s < p.S; ++s) call.dw.as<T>()[call.dw.offset(k, c, r, s)] = from_accumulate<T>(0);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
