// y = act((x - mean) / sqrt(var + eps) * weight + bias + residual) in one pass, and its gradients in two: dz = dy *
// act'(z) is summed to dbias = sum(dz) and dweight = sum(dz * (x - mean)) / sqrt(var + eps) (channel_reduce.cuh), then
//
//   dx = scale * (dz - mean(dz) - xhat * mean(dz * xhat))      with scale = weight / sqrt(var + eps)
//
// or scale * dz where the statistics are not x's own. z is computed anew from x, so that nothing but x is kept from the
// forward pass. Threads keep a channel's factors in registers and walk over its pixels (channel_walk.cuh).
#pragma once

#include "../../common/calls.h"
#include "channel_reduce.cuh"

namespace fastconv::cuda {

// What a channel's elements share. Small enough to be held for each of a thread's channels.
template <class Acc>
struct NormChannel {
  Acc mean, scale, bias, param;
};

// The inputs of all three kernels, in this order; forward has no dy.
enum NormInput { kNormX, kNormResidual, kNormParam, kNormDy };

template <class Acc>
struct NormParams {
  const Acc* mean;
  const Acc* var;
  const Acc* weight;  // null: 1
  const Acc* bias;    // null: 0
  Acc eps;
  Activation act;
  ParamKind param_kind;
  Acc param;
  const Acc* channel_param;

  __device__ __forceinline__ Acc deviation(int64_t c) const { return sqrt(var[c] + eps); }
  __device__ __forceinline__ NormChannel<Acc> channel(int64_t c) const {
    return {mean[c], (weight ? weight[c] : Acc(1)) / deviation(c), bias ? bias[c] : Acc(0),
            param_kind == ParamKind::kPerChannel ? channel_param[c] : param};
  }
  // z, and the activation's parameter, of element e of a pack.
  template <int kInputs, int kPack>
  __device__ __forceinline__ Acc before(const NormChannel<Acc>& channel, const Acc (&v)[kInputs][kPack], int e) const {
    return (v[kNormX][e] - channel.mean) * channel.scale + channel.bias + v[kNormResidual][e];
  }
  template <int kInputs, int kPack>
  __device__ __forceinline__ Acc act_param(const NormChannel<Acc>& channel, const Acc (&v)[kInputs][kPack],
                                           int e) const {
    return param_kind == ParamKind::kFull ? v[kNormParam][e] : channel.param;
  }
  // dz of a pack.
  template <class Config, int kInputs>
  __device__ __forceinline__ void backward(const NormChannel<Acc> (&channel)[Config::kChannels],
                                           const Acc (&v)[kInputs][Config::kPack], Acc (&dz)[Config::kPack]) const {
    visit_activation(act, [&](auto f) {
      using F = decltype(f);
#pragma unroll
      for (int e = 0; e < Config::kPack; ++e) {
        const NormChannel<Acc>& its = channel[Config::kAlongPixels ? 0 : e];
        dz[e] = v[kNormDy][e] * F::template grad<Acc>(before(its, v, e), act_param(its, v, e));
      }
    });
  }
};

// y: what to do with a pack (Map of batch_norm_map_kernel).
template <class Acc>
struct NormForward {
  static constexpr int kInputs = 3, kOutputs = 1;
  using Channel = NormChannel<Acc>;
  NormParams<Acc> norm;

  __device__ __forceinline__ Channel channel(int64_t c) const { return norm.channel(c); }
  template <class Config>
  __device__ __forceinline__ void apply(const Channel (&channel)[Config::kChannels],
                                        const Acc (&v)[kInputs][Config::kPack],
                                        Acc (&out)[kOutputs][Config::kPack]) const {
    visit_activation(norm.act, [&](auto f) {
      using F = decltype(f);
#pragma unroll
      for (int e = 0; e < Config::kPack; ++e) {
        const Channel& its = channel[Config::kAlongPixels ? 0 : e];
        out[0][e] = F::template apply<Acc>(norm.before(its, v, e), norm.act_param(its, v, e));
      }
    });
  }
};

// sum(dz), sum(dz * (x - mean)).
template <class Acc_>
struct NormGradTerm {
  static constexpr int kInputs = 4;
  template <class Acc>
  using State = SumState<Acc, 2>;
  using Channel = NormChannel<Acc_>;
  NormParams<Acc_> norm;

  __device__ __forceinline__ Channel channel(int64_t c) const { return norm.channel(c); }
  template <class Config>
  __device__ __forceinline__ void add(SumState<Acc_, 2> (&state)[Config::kChannels],
                                      const Channel (&channel)[Config::kChannels],
                                      const Acc_ (&v)[kInputs][Config::kPack]) const {
    Acc_ dz[Config::kPack];
    norm.template backward<Config>(channel, v, dz);
#pragma unroll
    for (int e = 0; e < Config::kPack; ++e) {
      const int at = Config::kAlongPixels ? 0 : e;
      state[at].value[0] += dz[e];
      state[at].value[1] += dz[e] * (v[kNormX][e] - channel[at].mean);
    }
  }
};

template <class Acc>
struct StoreNormGrad {
  NormParams<Acc> norm;
  Acc* dweight;
  Acc* dbias;
  __device__ void operator()(int64_t c, const SumState<double, 2>& state) const {
    dbias[c] = static_cast<Acc>(state.value[0]);
    dweight[c] = static_cast<Acc>(state.value[1]) / norm.deviation(c);
  }
};

// dx, and dz for the residual.
template <class Acc>
struct NormBackward {
  static constexpr int kInputs = 4, kOutputs = 2;
  struct Channel {
    NormChannel<Acc> norm;
    Acc mean_dz, slope;  // xhat * mean(dz * xhat) = (x - mean) * slope
  };
  NormParams<Acc> norm;
  const Acc* dweight;
  const Acc* dbias;
  Acc share;  // 1 / (N * H * W), or 0 where the statistics are not x's own

  __device__ __forceinline__ Channel channel(int64_t c) const {
    return {norm.channel(c), dbias[c] * share, dweight[c] * share / norm.deviation(c)};
  }
  template <class Config>
  __device__ __forceinline__ void apply(const Channel (&channel)[Config::kChannels],
                                        const Acc (&v)[kInputs][Config::kPack],
                                        Acc (&out)[kOutputs][Config::kPack]) const {
    NormChannel<Acc> its[Config::kChannels];
#pragma unroll
    for (int e = 0; e < Config::kChannels; ++e) its[e] = channel[e].norm;
    norm.template backward<Config>(its, v, out[1]);
#pragma unroll
    for (int e = 0; e < Config::kPack; ++e) {
      const Channel& c = channel[Config::kAlongPixels ? 0 : e];
      out[0][e] = c.norm.scale * (out[1][e] - c.mean_dz - (v[kNormX][e] - c.norm.mean) * c.slope);
    }
  }
};

template <class T, int kOutputs>
struct ChannelOutputs {
  T* data[kOutputs];  // null: not wanted
};

template <class Config, class Map>
__global__ void __launch_bounds__(Config::kThreads)
    batch_norm_map_kernel(const ChannelWalk<Map::kInputs + Map::kOutputs> walk,
                          const ChannelInputs<typename Config::Element, Map::kInputs> inputs,
                          const ChannelOutputs<typename Config::Element, Map::kOutputs> outputs, const Map map) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  constexpr int kPack = Config::kPack, kInputs = Map::kInputs, kOutputs = Map::kOutputs;
  const ChannelShare<Config, ChannelWalk<kInputs + kOutputs>> share(walk);
  if (!share.inside) return;
  typename Map::Channel channel[Config::kChannels];
#pragma unroll
  for (int e = 0; e < Config::kChannels; ++e) channel[e] = map.channel(share.channel + e);
  walk_pixels(share, walk, inputs, [&](int64_t pixel, const Acc(&v)[kInputs][kPack]) {
    int64_t offset[kInputs + kOutputs];
    locate_pixel(share, walk, pixel, offset);
    Acc out[kOutputs][kPack];
    map.template apply<Config>(channel, v, out);
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
      if (!outputs.data[i]) continue;
      Pack<T, kPack> pack;
#pragma unroll
      for (int e = 0; e < kPack; ++e) pack.value[e] = from_accumulate<T>(out[i][e]);
      store_pack<kPack>(outputs.data[i] + offset[kInputs + i], pack);
    }
  });
}

// Operands: the map's inputs, then its outputs, in their order.
template <class T, class Map>
void map_channels(const char* name, const TensorView (&operands)[Map::kInputs + Map::kOutputs], const Map& map,
                  const LaunchConfig& base) {
  visit_channel_config<T>(operands, [&](auto config) {
    const auto walk = make_channel_walk(operands, config);
    ChannelInputs<T, Map::kInputs> inputs;
    ChannelOutputs<T, Map::kOutputs> outputs;
    for (int i = 0; i < Map::kInputs; ++i) inputs.data[i] = operands[i].template as<const T>();
    for (int i = 0; i < Map::kOutputs; ++i) outputs.data[i] = operands[Map::kInputs + i].template as<T>();
    launch(name, channel_launch(base, name, walk.blocks()), batch_norm_map_kernel<decltype(config), Map>, walk, inputs,
           outputs, map);
  });
}

template <class Acc>
NormParams<Acc> norm_params(const BatchNormCall& call) {
  NormParams<Acc> params;
  params.mean = static_cast<const Acc*>(call.mean), params.var = static_cast<const Acc*>(call.var);
  params.weight = static_cast<const Acc*>(call.weight), params.bias = static_cast<const Acc*>(call.bias);
  params.eps = static_cast<Acc>(call.eps);
  params.act = call.epilogue.act;
  params.param_kind = call.epilogue.param_kind;
  params.param = static_cast<Acc>(call.epilogue.param);
  params.channel_param = static_cast<const Acc*>(call.epilogue.channel_param);
  return params;
}

// What every kernel here reads.
inline LaunchConfig norm_launch(const BatchNormCall& call, const CallContext& context) {
  LaunchConfig config;
  config.stream = context.stream;
  const size_t bytes = static_cast<size_t>(call.x.size[1]) * dtype_size(accumulate_dtype(call.dtype));
  config.footprint.reads("x", call.x).reads("mean", call.mean, bytes).reads("var", call.var, bytes);
  config.footprint.reads("weight", call.weight, bytes).reads("bias", call.bias, bytes);
  config.footprint.reads(call.epilogue, call.dtype, call.x.size[1]);
  return config;
}

}  // namespace fastconv::cuda
