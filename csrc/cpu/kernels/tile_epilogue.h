// y = act(scale * (acc + bias) + shift + residual) for the tiles of the convolution engine. Two forms of it:
//
//   RegisterEpilogue  what the microkernel applies to its registers: per-channel vectors, residual and PReLU slopes in
//                     the accumulate type with adjacent channels, activations of a few instructions;
//   finish_run        everything else (transcendental activations, narrow or transposed residuals), over a run of
//                     pixels of one panel while it lies in L1, on its way from the staging tile to y.
#pragma once

#include "../../common/epilogue.h"
#include "pixel_runs.h"
#include "vector_math.h"

#if defined(__clang__)
#define FC_UNROLL _Pragma("unroll")
#else
#define FC_UNROLL _Pragma("GCC unroll 16")
#endif

namespace fastconv::cpu::FASTCONV_ISA {

template <class Acc>
struct RegisterEpilogue {
  const Acc* multiplier = nullptr;  // acc * multiplier[k] + addend[k]; null: neither
  const Acc* addend = nullptr;
  const Acc* channel_param = nullptr;
  Acc param = 0;
  Activation act = Activation::kIdentity;
};

// Worth unrolling over 28 registers; the others spill (their polynomials need a dozen constants).
constexpr bool fits_registers(Activation act) {
  return act == Activation::kIdentity || act == Activation::kRelu || act == Activation::kRelu6 ||
         act == Activation::kLeakyRelu || act == Activation::kPrelu;
}

// The per-channel vectors, padded so that whole vectors can be read from any channel on: scale and bias folded into one
// fused multiply-add, acc * scale + (bias * scale + shift).
template <class Acc>
RegisterEpilogue<Acc> make_register_epilogue(const EpilogueArgs& args, int64_t channels, Workspace& workspace) {
  RegisterEpilogue<Acc> e;
  e.act = args.act;
  e.param = static_cast<Acc>(args.param);
  const auto *bias = static_cast<const Acc*>(args.bias), *scale = static_cast<const Acc*>(args.scale);
  const auto *shift = static_cast<const Acc*>(args.shift), *param = static_cast<const Acc*>(args.channel_param);
  const bool affine = bias || scale || shift, per_channel = args.param_kind == ParamKind::kPerChannel;
  if (!affine && !per_channel) return e;
  const int64_t padded = channels + kPanelVectors * Vec<Acc>::kLanes;
  auto* vectors = static_cast<Acc*>(workspace.allocate(static_cast<size_t>(3 * padded) * sizeof(Acc)));
  if (affine) {
    for (int64_t k = 0; k < padded; ++k) {
      const bool inside = k < channels;
      const Acc s = inside && scale ? scale[k] : Acc(1);
      vectors[k] = s;
      vectors[padded + k] = (inside && bias ? bias[k] * s : Acc(0)) + (inside && shift ? shift[k] : Acc(0));
    }
    e.multiplier = vectors;
    e.addend = vectors + padded;
  }
  if (per_channel) {
    for (int64_t k = 0; k < padded; ++k) vectors[2 * padded + k] = k < channels ? param[k] : Acc(0);
    e.channel_param = vectors + 2 * padded;
  }
  return e;
}

// One run of pixels of one panel: `acc` is [pixels][pitch]; residual and param likewise (their own pitch), or null.
template <class Acc>
struct TileRun {
  Acc* acc;
  int64_t pitch;
  int64_t pixels, channels;
  int64_t channel;  // the run's first, among the epilogue's
  const Acc* residual;
  const Acc* param;
  int64_t operand_pitch;
};

template <class Acc, class Act>
void finish_run_with(const RegisterEpilogue<Acc>& e, const TileRun<Acc>& run) {
  using V = Vec<Acc>;
  for (int64_t k = 0; k < run.channels; k += V::kLanes) {
    const V multiplier = e.multiplier ? V::load(e.multiplier + run.channel + k) : V(Acc(1));
    const V addend = e.addend ? V::load(e.addend + run.channel + k) : V(Acc(0));
    const V slope = e.channel_param ? V::load(e.channel_param + run.channel + k) : V(e.param);
    for (int64_t i = 0; i < run.pixels; ++i) {
      Acc* p = run.acc + i * run.pitch + k;
      V v = fma(V::load(p), multiplier, addend);
      if (run.residual) v = v + V::load(run.residual + i * run.operand_pitch + k);
      Act::template apply<V>(v, run.param ? V::load(run.param + i * run.operand_pitch + k) : slope).store(p);
    }
  }
}

// In place, whole vectors: every row of the run has room for its channels rounded up to vectors.
template <class Acc>
void finish_run(const RegisterEpilogue<Acc>& e, const TileRun<Acc>& run) {
  visit_activation(e.act, [&](auto act) { finish_run_with<Acc, decltype(act)>(e, run); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
