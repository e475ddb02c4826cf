// conv2d for large filters by fast Fourier transforms, overlap-save: y is cut into tiles, each made from L x L pixels
// of x.
//
//   x tile [c]    -- fft -->  X[c]
//   filter [k][c] -- fft -->  W[k][c]
//   sum over c of X[c] * W[k][c]  -- inverse fft -->  L - R + 1 rows and L - S + 1 columns of y; the others wrapped
//   around
//
// Two neighbouring tiles of an image are the real and the imaginary part of one transform: filters are real, so that
// the parts do not mix but in rounding. Transforms run along columns of a tile, one vector of columns at a time, in
// passes of eight points held in registers, decimating in frequency forwards and in time backwards: spectra stay in
// bit-reversed order, which a product does not mind. Tiles and pairs depend on the extents of one image alone.
#pragma once

#include "conv_depthwise.h"
#include "conv_engine.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace fft {

// exp(-2 pi i n / L) for n < L, as [cosine][sine].
template <class Acc, int L>
void make_roots(Acc* roots) {
  for (int n = 0; n < L; ++n) {
    const double angle = 6.283185307179586476925286766559 * n / L;
    roots[n] = static_cast<Acc>(__builtin_cos(angle));
    roots[L + n] = static_cast<Acc>(-__builtin_sin(angle));
  }
}

template <class V>
struct Complex {
  V re, im;
};

template <class V>
FC_INLINE Complex<V> operator+(Complex<V> a, Complex<V> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class V>
FC_INLINE Complex<V> operator-(Complex<V> a, Complex<V> b) {
  return {a.re - b.re, a.im - b.im};
}
// a * (c + i s)
template <class V>
FC_INLINE Complex<V> turned(Complex<V> a, V c, V s) {
  return {a.re * c - a.im * s, fma(a.re, s, a.im * c)};
}

// kPoints points `step` rows apart through log2(kPoints) stages of a transform of `length` = kPoints * step rows, of
// which row j of each stretch is at hand: roots of order `length` are every (L / length)-th.
template <class V, int kPoints, bool kInverse, class Acc>
FC_INLINE void stages(Complex<V> (&a)[kPoints], const Acc* roots, int64_t L, int64_t j, int64_t step) {
  const int64_t spread = L / (kPoints * step);
  constexpr int kStages = kPoints == 8 ? 3 : kPoints == 4 ? 2 : 1;
#pragma GCC unroll 4
  for (int stage = 0; stage < kStages; ++stage) {
    // Forwards pairs are far apart first, backwards last.
    const int half = kInverse ? 1 << stage : kPoints >> (stage + 1);
    const int64_t scale = spread * (kPoints / (2 * half));
#pragma GCC unroll 8
    for (int m = 0; m < half; ++m) {
      const int64_t n = (j + m * step) * scale;
      const V c(roots[n]), s(kInverse ? -roots[L + n] : roots[L + n]);
#pragma GCC unroll 8
      for (int first = m; first < kPoints; first += 2 * half) {
        const Complex<V> u = a[first], v = a[first + half];
        if constexpr (kInverse) {
          const Complex<V> w = turned(v, c, s);
          a[first] = u + w;
          a[first + half] = u - w;
        } else {
          a[first] = u + v;
          a[first + half] = turned(u - v, c, s);
        }
      }
    }
  }
}

// One pass over a stretch of kPoints * step rows, one vector of columns.
template <class V, int kPoints, bool kInverse, int L, class Acc>
FC_INLINE void pass(Acc* re, Acc* im, const Acc* roots, int64_t step) {
  for (int64_t j = 0; j < step; ++j) {
    Complex<V> a[kPoints];
#pragma GCC unroll 8
    for (int m = 0; m < kPoints; ++m) a[m] = {V::load(re + (j + m * step) * L), V::load(im + (j + m * step) * L)};
    stages<V, kPoints, kInverse>(a, roots, L, j, step);
#pragma GCC unroll 8
    for (int m = 0; m < kPoints; ++m) {
      a[m].re.store(re + (j + m * step) * L);
      a[m].im.store(im + (j + m * step) * L);
    }
  }
}

// Transforms every column of an L x L grid.
template <class Acc, int L, bool kInverse>
void transform_columns(Acc* grid, const Acc* roots) {
  using V = Vec<Acc>;
  static_assert(L == 64 || L == 128, "passes below are 8 * 8 and 8 * 8 * 2");
  constexpr int64_t kFirst = L / 8, kSecond = kFirst / 8;
  for (int64_t column = 0; column < L; column += V::kLanes) {
    Acc *re = grid + column, *im = re + L * L;
    if constexpr (!kInverse) pass<V, 8, false, L>(re, im, roots, kFirst);
    for (int64_t i = 0; i < 8; ++i) {
      Acc *re1 = re + i * kFirst * L, *im1 = im + i * kFirst * L;
      if constexpr (!kInverse) pass<V, 8, false, L>(re1, im1, roots, kSecond);
      if constexpr (kSecond == 2) {
        for (int64_t row = 0; row < kFirst; row += 2) pass<V, 2, kInverse, L>(re1 + row * L, im1 + row * L, roots, 1);
      }
      if constexpr (kInverse) pass<V, 8, true, L>(re1, im1, roots, kSecond);
    }
    if constexpr (kInverse) pass<V, 8, true, L>(re, im, roots, kFirst);
  }
}

template <class Acc, int L>
void transpose(const Acc* from, Acc* to) {
  for (int part = 0; part < 2; ++part, from += L * L, to += L * L) {
    if constexpr (sizeof(Acc) == 4) {
      for (int64_t i = 0; i < L; i += kTransposeBlock)
        for (int64_t j = 0; j < L; j += kTransposeBlock) transpose_block(from + i * L + j, L, to + j * L + i, L);
    } else {
      for (int64_t i = 0; i < L; ++i)
        for (int64_t j = 0; j < L; ++j) to[j * L + i] = from[i * L + j];
    }
  }
}

// Both axes; `grid` is used up, the result is in `to`.
template <class Acc, int L, bool kInverse>
void transform(Acc* grid, Acc* to, const Acc* roots) {
  transform_columns<Acc, L, kInverse>(grid, roots);
  transpose<Acc, L>(grid, to);
  transform_columns<Acc, L, kInverse>(to, roots);
}

// sum = X * W, or added to it.
template <class Acc, int L>
void multiply(const Acc* x, const Acc* w, bool add, Acc* sum) {
  using V = Vec<Acc>;
  constexpr int64_t kPart = L * L;
  for (int64_t i = 0; i < kPart; i += V::kLanes) {
    const V xr = V::load(x + i), xi = V::load(x + kPart + i), wr = V::load(w + i), wi = V::load(w + kPart + i);
    V re = xr * wr - xi * wi, im = fma(xr, wi, xi * wr);
    if (add) re = re + V::load(sum + i), im = im + V::load(sum + kPart + i);
    re.store(sum + i);
    im.store(sum + kPart + i);
  }
}

template <class T, int L>
class Runner {
 public:
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  static constexpr int64_t kGrid = 2 * L * L;  // the real parts, then the imaginary ones

  Runner(const Conv2dCall& call, const CallContext& context)
      : call_(call),
        c_(call.problem),
        C_(c_.channels_per_group()),
        K_(c_.filters_per_group()),
        rows_(L - (c_.R - 1) * c_.dilation_h),
        columns_(L - (c_.S - 1) * c_.dilation_w),
        across_(ceil_div(c_.Q, columns_)),
        tiles_(ceil_div(c_.P, rows_) * across_),
        epilogue_(call.epilogue, call.y, kColumnLanes, *context.workspace) {
    roots_ = allocate<Acc>(context, 2 * L);
    make_roots<Acc, L>(roots_);
    filters_ = allocate<Acc>(context, c_.K * C_ * kGrid);
  }

  void run(const CallContext& context) {
    using namespace work;
    const int64_t grid_bytes = kGrid * static_cast<int64_t>(sizeof(Acc)), pairs = ceil_div(tiles_, 2);
    run_in_slots(context, c_.K * C_, c_.K * C_ * L * L * 8, grid_bytes, [&](void* scratch, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) transform_filter(i, static_cast<Acc*>(scratch));
    });
    const int64_t units = c_.N * c_.groups * pairs;
    run_in_slots(context, units, units * (C_ + K_) * L * L * 8, (2 + C_) * grid_bytes,
                 [&](void* scratch, int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i)
                     run_pair(i / pairs / c_.groups, i / pairs % c_.groups, i % pairs * 2, static_cast<Acc*>(scratch));
                 });
  }

 private:
  // W[k][c], of the filter turned around (correlation is what conv2d computes) and divided by L * L, as the transform
  // back is not.
  void transform_filter(int64_t index, Acc* scratch) {
    __builtin_memset(scratch, 0, kGrid * sizeof(Acc));
    const int64_t k = index / C_, c = index % C_;
    for (int64_t r = 0; r < c_.R; ++r)
      for (int64_t s = 0; s < c_.S; ++s) {
        const int64_t row = (L - r * c_.dilation_h) % L, column = (L - s * c_.dilation_w) % L;
        scratch[row * L + column] =
            Acc(to_accumulate(call_.w.as<const T>()[call_.w.offset(k, c, r, s)])) * (Acc(1) / (L * L));
      }
    transform<Acc, L, false>(scratch, filters_ + index * kGrid, roots_);
  }

  void load_tile(int64_t n, int64_t channel, int64_t tile, Acc* part) const {
    const int64_t h0 = tile / across_ * rows_ - c_.pad_top, w0 = tile % across_ * columns_ - c_.pad_left;
    const int64_t first = work::min(L, work::max(0, -w0)), last = work::max(first, work::min(L, c_.W - w0));
    __builtin_memset(part, 0, L * L * sizeof(Acc));
    if (tile >= tiles_ || first == last) return;
    for (int64_t i = work::max(0, -h0); i < L && h0 + i < c_.H; ++i)
      load_run(call_.x.as<const T>() + call_.x.offset(n, channel, h0 + i, w0 + first), call_.x.stride[3], last - first,
               part + i * L + first);
  }

  void run_pair(int64_t n, int64_t group, int64_t tile, Acc* scratch) const {
    Acc *grid = scratch, *sum = grid + kGrid, *spectra = sum + kGrid;
    for (int64_t c = 0; c < C_; ++c) {
      load_tile(n, group * C_ + c, tile, grid);
      load_tile(n, group * C_ + c, tile + 1, grid + L * L);
      transform<Acc, L, false>(grid, spectra + c * kGrid, roots_);
    }
    for (int64_t k = group * K_; k < (group + 1) * K_; ++k) {
      for (int64_t c = 0; c < C_; ++c)
        multiply<Acc, L>(spectra + c * kGrid, filters_ + (k * C_ + c) * kGrid, c > 0, sum);
      transform<Acc, L, true>(sum, grid, roots_);
      store_tile(n, k, tile, grid);
      store_tile(n, k, tile + 1, grid + L * L);
    }
  }

  void store_tile(int64_t n, int64_t k, int64_t tile, const Acc* part) const {
    if (tile >= tiles_) return;
    const int64_t p0 = tile / across_ * rows_, q0 = tile % across_ * columns_;
    const int64_t rows = work::min(rows_, c_.P - p0), columns = work::min(columns_, c_.Q - q0);
    const V initial = epilogue_.initial(k);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; j += V::kLanes) {
        V acc[1] = {
            (columns - j >= V::kLanes ? V::load(part + i * L + j) : V::load_partial(part + i * L + j, columns - j)) +
            initial};
        epilogue_.template finish<1, 1>(acc, {n, k, p0 + i, q0 + j, 1, 1, columns - j});
      }
  }

  const Conv2dCall& call_;
  const ConvProblem& c_;
  const int64_t C_, K_;           // of a group
  const int64_t rows_, columns_;  // outputs of a tile
  const int64_t across_, tiles_;  // of an image
  const LaneEpilogue<Acc> epilogue_;
  Acc *roots_, *filters_;
};

}  // namespace fft

inline void conv2d_fft(const Conv2dCall& call, const CallContext& context) {
  const ConvProblem& c = call.problem;
  if (c.N * c.K * c.P * c.Q == 0) return;
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (fft_side(c) == 64) {
      fft::Runner<T, 64>(call, context).run(context);
    } else {
      fft::Runner<T, 128>(call, context).run(context);
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
