// The epilogue of csrc/common/epilogue.h in two kinds, chosen on the host by visit_epilogue():
//   ChannelEpilogue   bias, scale, shift, and ReLU, ReLU6 or nothing: what nearly every layer asks for
//   GeneralEpilogue   everything else, decided at run time: residual, any activation, any parameter
// Two and no more, because kernels are instantiated for each; double, which is there for gradient checks, has the
// second only. The general one's code is long: kernels call finish() from one place, a loop that is not unrolled.
#pragma once

#include <limits>

#include "../../common/epilogue.h"
#include "cuda.h"

namespace fastconv::cuda {

template <class T>
struct ChannelEpilogue {
  using Acc = accumulate_t<T>;
  const Acc* bias;  // null: absent
  const Acc* scale;
  const Acc* shift;
  Acc low, high;  // the activation: everything outside is clamped; infinite where there is no bound
  // Short enough to stand in an unrolled loop.
  static constexpr bool kUnrolled = true;
  struct Channel {
    Acc bias, scale, shift;
  };
  __device__ Channel channel(int64_t k) const {
    return {bias ? bias[k] : Acc(0), scale ? scale[k] : Acc(1), shift ? shift[k] : Acc(0)};
  }
  // The value before the narrowing cast; finish() with it.
  __device__ Acc value(const Channel& c, Acc acc) const {
    return min_nan(max_nan(c.scale * (acc + c.bias) + c.shift, low), high);
  }
  __device__ T finish(const Channel& c, Acc acc, int64_t, int64_t, int64_t, int64_t) const {
    return from_accumulate<T>(value(c, acc));
  }
  // The channels k to k + kCount - 1 of one pixel.
  template <int kCount>
  __device__ __forceinline__ void finish_run(const Channel (&c)[kCount], const Acc (&acc)[kCount], int64_t, int64_t,
                                             int64_t, int64_t, T (&y)[kCount]) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) y[i] = from_accumulate<T>(value(c[i], acc[i]));
  }
};

template <class T>
struct GeneralEpilogue {
  using Acc = accumulate_t<T>;
  EpilogueArgs args;
  static constexpr bool kUnrolled = false;
  struct Channel {
    int64_t k;
  };
  __device__ Channel channel(int64_t k) const { return {k}; }
  __device__ T finish(Channel, Acc acc, int64_t n, int64_t k, int64_t p, int64_t q) const {
    return apply_epilogue<T>(args, acc, n, k, p, q);
  }
  // The activation is looked up once for all of them.
  template <int kCount>
  __device__ __forceinline__ void finish_run(const Channel (&)[kCount], const Acc (&acc)[kCount], int64_t n, int64_t k,
                                             int64_t p, int64_t q, T (&y)[kCount]) const {
    Acc v[kCount], param[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      v[i] = epilogue_linear<T>(args, acc[i], n, k + i, p, q);
      param[i] = epilogue_param<T>(args, n, k + i, p, q);
    }
    visit_activation(args.act, [&](auto f) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) y[i] = from_accumulate<T>(decltype(f)::template apply<Acc>(v[i], param[i]));
    });
  }
};

// Calls f(epilogue object) for the kind that `args` needs.
template <class T, class F>
void visit_epilogue(const EpilogueArgs& args, F&& f) {
  using Acc = accumulate_t<T>;
  if constexpr (sizeof(T) < 8) {
    const bool relu = args.act == Activation::kRelu, relu6 = args.act == Activation::kRelu6;
    if (!args.residual.present() && (args.act == Activation::kIdentity || relu || relu6)) {
      constexpr Acc kInfinity = std::numeric_limits<Acc>::infinity();
      return f(ChannelEpilogue<T>{static_cast<const Acc*>(args.bias), static_cast<const Acc*>(args.scale),
                                  static_cast<const Acc*>(args.shift), relu || relu6 ? Acc(0) : -kInfinity,
                                  relu6 ? Acc(6) : kInfinity});
    }
  }
  f(GeneralEpilogue<T>{args});
}

}  // namespace fastconv::cuda
