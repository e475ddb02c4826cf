// y = a (any element type to any other), a + b, a * b over tensors of any strides. Axes that lie behind one another in
// every operand are merged, so that dense tensors of one layout become one run; a copy between layouts goes by squares
// that stay in L1:
//
//   axes (outer ... inner) -> rows of the innermost axis -> chunks        a copy whose a runs along another axis:
//                                                                         kSquare x kSquare of the two axes
#pragma once

#include "../cpu_kernels.h"
#include "loop_axes.h"
#include "runs.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace combining {

constexpr int64_t kChunk = 2048;       // elements: two buffers of it stay in L1
constexpr int64_t kGrain = 16 * 1024;  // elements a thread takes at least
constexpr int64_t kSquare = 32;
enum { kY, kA, kB };

struct Loops {
  LoopAxis axis[4];  // outermost first
  int count = 0;
  int64_t rows = 1;  // of everything but the last axis
};

inline Loops make_loops(const CombineCall& call) {
  Loops loops;
  for (int d = 0; d < 4; ++d) {
    // Operands that are not there go along with y, so that they keep no axes apart.
    const int64_t b = call.b.present() ? call.b.stride[d] : call.y.stride[d], y = call.y.stride[d];
    loops.axis[d] = {call.y.size[d], {y, call.a.stride[d], b, y, y, y}};
  }
  loops.count = merge_axes(loops.axis, 4);
  for (int d = 0; d + 1 < loops.count; ++d) loops.rows *= loops.axis[d].size;
  return loops;
}

struct Offsets {
  int64_t y = 0, a = 0, b = 0;
};

// Where row `row` of the first `count` axes begins.
inline Offsets offsets_of(const Loops& loops, int count, int64_t row) {
  Offsets at;
  for (int d = count - 1; d >= 0; --d) {
    const int64_t i = row % loops.axis[d].size;
    row /= loops.axis[d].size;
    at.y += i * loops.axis[d].stride[kY];
    at.a += i * loops.axis[d].stride[kA];
    at.b += i * loops.axis[d].stride[kB];
  }
  return at;
}

// f(row, first element, elements) for shares of all rows, cut into chunks.
template <class F>
void for_chunks(const Loops& loops, F&& f) {
  const int64_t length = loops.axis[loops.count - 1].size, chunks = ceil_div(length, kChunk);
  const int64_t each = length < kChunk ? length : kChunk;
  parallel_for(loops.rows * chunks, ceil_div(kGrain, each), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t from = i % chunks * kChunk, left = length - from;
      f(i / chunks, from, left < kChunk ? left : kChunk);
    }
  });
}

template <class T, class F>
void binary(const CombineCall& call, F&& operation) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  const Loops loops = make_loops(call);
  const LoopAxis& run = loops.axis[loops.count - 1];
  for_chunks(loops, [&](int64_t row, int64_t from, int64_t n) {
    Acc a_buffer[kChunk], b_buffer[kChunk], y_buffer[kChunk];
    const Offsets at = offsets_of(loops, loops.count - 1, row);
    T* y = call.y.as<T>() + at.y + from * run.stride[kY];
    const Acc* a = dense_run(call.a.as<const T>() + at.a + from * run.stride[kA], run.stride[kA], n, a_buffer);
    const Acc* b = dense_run(call.b.as<const T>() + at.b + from * run.stride[kB], run.stride[kB], n, b_buffer);
    const bool straight = sizeof(T) == sizeof(Acc) && run.stride[kY] == 1;
    Acc* out = straight ? reinterpret_cast<Acc*>(y) : y_buffer;
    int64_t i = 0;
    for (; i + V::kLanes <= n; i += V::kLanes) operation(V::load(a + i), V::load(b + i)).store(out + i);
    if (i < n) operation(V::load_partial(a + i, n - i), V::load_partial(b + i, n - i)).store_partial(out + i, n - i);
    if (!straight) store_run(y, run.stride[kY], n, y_buffer);
  });
}

// Elements moved as they are: of any type, and bits of NaNs included.
template <class U>
void move(const CombineCall& call) {
  const Loops loops = make_loops(call);
  const LoopAxis& run = loops.axis[loops.count - 1];
  const U* const a0 = call.a.as<const U>();
  U* const y0 = call.y.as<U>();
  int across = -1;  // the axis along which a runs, where it is not y's
  for (int d = 0; d + 1 < loops.count && run.stride[kA] != 1; ++d)
    if (loops.axis[d].stride[kA] == 1) across = d;
  if (across < 0) {
    for_chunks(loops, [&](int64_t row, int64_t from, int64_t n) {
      const Offsets at = offsets_of(loops, loops.count - 1, row);
      const U* a = a0 + at.a + from * run.stride[kA];
      U* y = y0 + at.y + from * run.stride[kY];
      if (run.stride[kA] == 1 && run.stride[kY] == 1) {
        __builtin_memcpy(y, a, static_cast<size_t>(n) * sizeof(U));
        return;
      }
      for (int64_t i = 0; i < n; ++i) y[i * run.stride[kY]] = a[i * run.stride[kA]];
    });
    return;
  }
  Loops outer;
  for (int d = 0; d + 1 < loops.count; ++d)
    if (d != across) outer.axis[outer.count++] = loops.axis[d], outer.rows *= loops.axis[d].size;
  const LoopAxis& column = loops.axis[across];
  const int64_t high = ceil_div(column.size, kSquare), wide = ceil_div(run.size, kSquare);
  parallel_for(outer.rows * high * wide, kGrain / (kSquare * kSquare), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const Offsets at = offsets_of(outer, outer.count, unit / (high * wide));
      const int64_t j0 = unit / wide % high * kSquare, i0 = unit % wide * kSquare;
      const int64_t j1 = j0 + kSquare < column.size ? j0 + kSquare : column.size;
      const int64_t i1 = i0 + kSquare < run.size ? i0 + kSquare : run.size;
      for (int64_t j = j0; j < j1; ++j) {
        const U* a = a0 + at.a + j;
        U* y = y0 + at.y + j * column.stride[kY];
        for (int64_t i = i0; i < i1; ++i) y[i * run.stride[kY]] = a[i * run.stride[kA]];
      }
    }
  });
}

// Through float32, or float64 where one of the two is that.
template <class From, class To>
void convert(const CombineCall& call) {
  using Acc = accumulate_t<From>;
  using Wide = accumulate_t<To>;
  const Loops loops = make_loops(call);
  const LoopAxis& run = loops.axis[loops.count - 1];
  for_chunks(loops, [&](int64_t row, int64_t from, int64_t n) {
    Acc buffer[kChunk];
    const Offsets at = offsets_of(loops, loops.count - 1, row);
    const Acc* a = dense_run(call.a.as<const From>() + at.a + from * run.stride[kA], run.stride[kA], n, buffer);
    To* y = call.y.as<To>() + at.y + from * run.stride[kY];
    if constexpr (sizeof(Acc) == sizeof(Wide)) {
      store_run(y, run.stride[kY], n, a);
    } else {
      for (int64_t i = 0; i < n; ++i) y[i * run.stride[kY]] = from_accumulate<To>(static_cast<Wide>(a[i]));
    }
  });
}

}  // namespace combining

inline void combine(const CombineCall& call, const CallContext&) {
  using namespace combining;
  if (call.y.numel() == 0) return;
  const DType from = call.a.dtype, to = call.y.dtype;
  if (call.what == Combine::kCopy && from == to) {
    const size_t bytes = dtype_size(to);
    bytes == 8 ? move<uint64_t>(call) : bytes == 4 ? move<uint32_t>(call) : move<uint16_t>(call);
  } else if (call.what == Combine::kCopy) {
    visit_dtype(from, [&](auto a) {
      visit_dtype(to, [&](auto y) { convert<typename decltype(a)::type, typename decltype(y)::type>(call); });
    });
  } else {
    visit_dtype(to, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using V = Vec<accumulate_t<T>>;
      call.what == Combine::kAdd ? binary<T>(call, [](V a, V b) { return a + b; })
                                 : binary<T>(call, [](V a, V b) { return a * b; });
    });
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
