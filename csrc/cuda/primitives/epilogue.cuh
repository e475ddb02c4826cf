// The epilogue of csrc/common/epilogue.h in two kinds, chosen on the host by visit_epilogue():
//   ChannelEpilogue   bias, scale, shift, and ReLU or nothing: what nearly every layer asks for
//   GeneralEpilogue   everything else, decided at run time: residual, any activation, any parameter
// Two and no more, because kernels are instantiated for each; double, which is there for gradient checks, has the
// second only. The general one's code is long: kernels call finish() from one place, a loop that is not unrolled.
#pragma once

#include "../../common/epilogue.h"
#include "cuda.h"

namespace fastconv::cuda {

template <class T>
struct ChannelEpilogue {
  using Acc = accumulate_t<T>;
  const Acc* bias;  // null: absent
  const Acc* scale;
  const Acc* shift;
  bool relu;
  struct Channel {
    Acc bias, scale, shift;
  };
  __device__ Channel channel(int64_t k) const {
    return {bias ? bias[k] : Acc(0), scale ? scale[k] : Acc(1), shift ? shift[k] : Acc(0)};
  }
  // The value before the narrowing cast; finish() with it.
  __device__ Acc value(const Channel& c, Acc acc) const {
    const Acc v = c.scale * (acc + c.bias) + c.shift;
    return relu ? activations::Relu::apply<Acc>(v, Acc(0)) : v;
  }
  __device__ T finish(const Channel& c, Acc acc, int64_t, int64_t, int64_t, int64_t) const {
    return from_accumulate<T>(value(c, acc));
  }
};

template <class T>
struct GeneralEpilogue {
  using Acc = accumulate_t<T>;
  EpilogueArgs args;
  struct Channel {
    int64_t k;
  };
  __device__ Channel channel(int64_t k) const { return {k}; }
  __device__ T finish(Channel, Acc acc, int64_t n, int64_t k, int64_t p, int64_t q) const {
    return apply_epilogue<T>(args, acc, n, k, p, q);
  }
};

// Calls f(epilogue object) for the kind that `args` needs.
template <class T, class F>
void visit_epilogue(const EpilogueArgs& args, F&& f) {
  using Acc = accumulate_t<T>;
  if constexpr (sizeof(T) < 8) {
    if (!args.residual.present() && (args.act == Activation::kIdentity || args.act == Activation::kRelu)) {
      return f(ChannelEpilogue<T>{static_cast<const Acc*>(args.bias), static_cast<const Acc*>(args.scale),
                                  static_cast<const Acc*>(args.shift), args.act == Activation::kRelu});
    }
  }
  f(GeneralEpilogue<T>{args});
}

}  // namespace fastconv::cuda
