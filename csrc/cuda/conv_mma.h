// Convolution-like problems for the tensor-core kernel (kernels/conv_mma.cuh), whatever operator they come from: what
// the rows of conv2d, upsample_conv2d and conv2d_input_grad share.
#pragma once

#include <functional>

#include "model.h"
#include "phases.h"

namespace fastconv::cuda {

// Of one axis. The kernel keeps a bit for each, and one that is never set for the end of the reduction.
constexpr int kConvMmaMaxTaps = 31;

// How filters are read along one axis. Without sums, tap t of phase f is filter row first[f] + t * step. With sums
// (scale > 0) it is the sum of the rows r that meet in one stored row: first[f] + r * dilation lies in
// [t * scale, (t + 1) * scale).
struct WeightAxis {
  int phases = 1, step = 1;  // one phase: all phases of the convolution read the same weights
  int scale = 0, dilation = 1, filter = 0;
  int taps[kMaxPhases] = {}, first[kMaxPhases] = {};

  FC_HOST_DEVICE int begin(int phase, int tap) const {
    if (scale == 0) return first[phase] + tap * step;
    const int distance = tap * scale - first[phase];
    return distance <= 0 ? 0 : (distance + dilation - 1) / dilation;
  }
  FC_HOST_DEVICE int end(int phase, int tap) const {
    if (scale == 0) return first[phase] + tap * step + 1;
    const int last = ((tap + 1) * scale - 1 - first[phase]) / dilation;
    return (last < filter ? last : filter - 1) + 1;
  }
};

// `conv.w_stride_*` say where the *caller's* weights lie; conv.h and conv.w speak of stored rows: output row i of a
// phase reads row i * in_step + floor((in_base + tap * in_tap_step) / scale).
struct ConvMmaProblem {
  PhasedConv conv;
  TensorView weights;  // the caller's
  WeightAxis weights_h, weights_w;

  // Whether a tap's weights are sums of the caller's.
  bool sums() const { return weights_h.scale > 0 || weights_w.scale > 0; }
};

ConvMmaProblem forward_mma(const Conv2dCall& call);
ConvMmaProblem input_grad_mma(const Conv2dInputGradCall& call);
ConvMmaProblem upsample_gather_mma(const Conv2dCall& call);
ConvMmaProblem upsample_phase_mma(const Conv2dCall& call);

// Adds what stands against half_t and bfloat16_t (`tf32`: float) on tensor cores, on the current device.
void add_mma_reasons(Reasons& reasons, DType dtype, bool tf32);
// What stands against conv2d there, whichever kernel does it.
Reasons forward_mma_reasons(const Conv2dCall& call, bool tf32);
// Adds what stands against a grid of `tiles` by `slabs` blocks that each keep the image's pixels under a tile in shared
// memory. bytes(), which that takes, is asked where nothing else does: the extents then fit.
void add_patch_reasons(Reasons& reasons, const ConvProblem& p, int64_t tiles, int64_t slabs,
                       const std::function<int64_t()>& bytes);
// Adds what stands against the problem; it must fit the tables of phases.h.
void add_conv_mma_reasons(Reasons& reasons, const ConvMmaProblem& problem);
// Adds that filters, packed in tiles of 32 by 32 channels, have too many of them.
void refuse_many_filter_tiles(Reasons& reasons, const ConvMmaProblem& problem);
// Whether tensor cores are worth it: enough channels on both sides to fill their tiles.
bool conv_mma_preferred(const ConvMmaProblem& problem);

// Whether the weights are, where they lie, what the kernels read: one dense matrix with `channels` innermost.
bool weights_in_place(const ConvMmaProblem& problem, int64_t channels);

// The largest of its phases, all of them as a batch, as the model sees it: taps of `K` channels in whole chunks, and
// what packing takes, of weights too where `packs_weights`.
TileProblem tile_problem(const ConvMmaProblem& problem, bool packs_weights);

// The tile, by its place among those of launch_conv_mma(), and the parts of the reduction.
TilePlan plan_conv_mma(const ConvMmaProblem& problem);

void run_conv_mma(const ConvMmaProblem& problem, const CallContext& context);

// The same for one element type; half_t, bfloat16_t and float (rounded to tf32), each in a file of its own.
template <class T>
void launch_conv_mma(const ConvMmaProblem& problem, const CallContext& context);
extern template void launch_conv_mma<half_t>(const ConvMmaProblem&, const CallContext&);
extern template void launch_conv_mma<bfloat16_t>(const ConvMmaProblem&, const CallContext&);
extern template void launch_conv_mma<float>(const ConvMmaProblem&, const CallContext&);

}  // namespace fastconv::cuda
