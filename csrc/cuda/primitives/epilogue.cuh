// The epilogue of csrc/common/epilogue.h as compile-time pieces, so that what a call does not use costs nothing. Three
// kinds, chosen on the host by visit_epilogue():
//   PlainEpilogue          the narrowing cast
//   ChannelEpilogue<Act>   bias, scale, shift, and an activation known at compile time (identity, relu)
//   GeneralEpilogue        everything else, decided at run time: residual, any activation, any parameter
// The list is short on purpose: kernels are instantiated for each kind, and the third is memory-bound on its tensors or
// dominated by its activation. Its code is long: kernels call finish() from one place, a loop that is not unrolled.
#pragma once

#include "../../common/epilogue.h"
#include "cuda.h"

namespace fastconv::cuda {

template <class T>
struct PlainEpilogue {
  using Acc = accumulate_t<T>;
  struct Channel {};
  __device__ Channel channel(int64_t) const { return {}; }
  __device__ T finish(Channel, Acc acc, int64_t, int64_t, int64_t, int64_t) const { return from_accumulate<T>(acc); }
};

template <class T, class Act>
struct ChannelEpilogue {
  using Acc = accumulate_t<T>;
  const Acc* bias;
  const Acc* scale;
  const Acc* shift;
  struct Channel {
    Acc bias, scale, shift;
  };
  __device__ Channel channel(int64_t k) const {
    return {bias ? bias[k] : Acc(0), scale ? scale[k] : Acc(1), shift ? shift[k] : Acc(0)};
  }
  __device__ T finish(const Channel& c, Acc acc, int64_t, int64_t, int64_t, int64_t) const {
    return from_accumulate<T>(Act::template apply<Acc>(c.scale * (acc + c.bias) + c.shift, Acc(0)));
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
  if (args.is_identity()) return f(PlainEpilogue<T>{});
  const Acc* bias = static_cast<const Acc*>(args.bias);
  const Acc* scale = static_cast<const Acc*>(args.scale);
  const Acc* shift = static_cast<const Acc*>(args.shift);
  if (!args.residual.present() && args.act == Activation::kIdentity) {
    return f(ChannelEpilogue<T, activations::Identity>{bias, scale, shift});
  }
  if (!args.residual.present() && args.act == Activation::kRelu) {
    return f(ChannelEpilogue<T, activations::Relu>{bias, scale, shift});
  }
  f(GeneralEpilogue<T>{args});
}

}  // namespace fastconv::cuda
