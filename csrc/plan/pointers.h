// What a plan has to know of a Call: which of its pointers are tensors that a kernel reads and writes, and which are
// weights and vectors that stay. One specialisation a Call; a Call without one is run outside of plans.
//
// visitor.tensor(view, writes)        four-dimensional, strides free: may be moved to another place with other strides
// visitor.rigid(view, writes)         the same, but only its address may change
// visitor.address(pointer, writes)    a tensor whose strides the call keeps in its own fields
// visitor.weight(pointer)             read only, owned by the caller for as long as the plan lives; null: absent
// visitor.spare(pointer, packed)      a weight that is read only where there is no packed one: forgotten otherwise
// visitor.vector(pointer, elements)   a short vector of the accumulate type, copied into the plan, on a device kept
//                                     alive by Recorder::keep; null: absent
#pragma once

#include "../common/calls.h"

namespace fastconv::plan {

template <class Call>
struct PointersOf {
  static constexpr bool kKnown = false;
};

template <class V>
void visit_epilogue(EpilogueArgs& e, int64_t channels, bool movable, V& visitor) {
  visitor.vector(e.bias, channels);
  visitor.vector(e.scale, channels);
  visitor.vector(e.shift, channels);
  visitor.vector(e.channel_param, channels);
  movable ? visitor.tensor(e.residual, false) : visitor.rigid(e.residual, false);
  visitor.weight(e.full_param.data);
}

template <>
struct PointersOf<Conv2dCall> {
  static constexpr bool kKnown = true;
  template <class V>
  static void visit(Conv2dCall& call, V& visitor) {
    visitor.tensor(call.x, false);
    visitor.tensor(call.y, true);
    visitor.weight(call.packed_w);
    visitor.spare(call.w.data, call.packed_w);
    visit_epilogue(call.epilogue, call.problem.K, true, visitor);
  }
};

template <class V>
void visit_stage(ConvStage& stage, V& visitor) {
  visitor.weight(stage.packed_w);
  visitor.spare(stage.w.data, stage.packed_w);
  visit_epilogue(stage.epilogue, stage.problem.K, true, visitor);
}

template <>
struct PointersOf<InvertedResidualCall> {
  static constexpr bool kKnown = true;
  template <class V>
  static void visit(InvertedResidualCall& call, V& visitor) {
    visitor.tensor(call.x, false);
    visitor.tensor(call.y, true);
    for (ConvStage* stage : {&call.expand, &call.depthwise, &call.project}) visit_stage(*stage, visitor);
  }
};

template <>
struct PointersOf<DepthwisePointwiseCall> {
  static constexpr bool kKnown = true;
  template <class V>
  static void visit(DepthwisePointwiseCall& call, V& visitor) {
    visitor.tensor(call.x, false);
    visitor.tensor(call.y, true);
    for (ConvStage* stage : {&call.depthwise, &call.pointwise}) visit_stage(*stage, visitor);
  }
};

template <>
struct PointersOf<ConvMaxPoolCall> {
  static constexpr bool kKnown = true;
  template <class V>
  static void visit(ConvMaxPoolCall& call, V& visitor) {
    visitor.tensor(call.x, false);
    visitor.tensor(call.y, true);
    visit_stage(call.conv, visitor);
  }
};

template <>
struct PointersOf<Conv2dInputGradCall> {  // transposed convolution
  static constexpr bool kKnown = true;
  template <class V>
  static void visit(Conv2dInputGradCall& call, V& visitor) {
    visitor.rigid(call.dy, false);
    visitor.tensor(call.dx, true);
    visitor.weight(call.packed_w);
    visitor.spare(call.w.data, call.packed_w);
    visit_epilogue(call.epilogue, call.problem.C, false, visitor);
  }
};

template <>
struct PointersOf<GemmCall> {
  static constexpr bool kKnown = true;
  template <class V>
  static void visit(GemmCall& call, V& visitor) {
    visitor.address(call.a, false);
    visitor.address(call.d, true);
    visitor.weight(call.packed_b);
    visitor.spare(call.b, call.packed_b);
    visit_epilogue(call.epilogue, call.N, false, visitor);
  }
};

template <>
struct PointersOf<PoolCall> {
  static constexpr bool kKnown = true;
  template <class V>
  static void visit(PoolCall& call, V& visitor) {
    visitor.tensor(call.x, false);
    visitor.tensor(call.y, true);
    visitor.rigid(call.indices, true);
  }
};

template <>
struct PointersOf<ActivationCall> {
  static constexpr bool kKnown = true;
  template <class V>
  static void visit(ActivationCall& call, V& visitor) {
    visitor.tensor(call.x, false);
    visitor.tensor(call.y, true);
    visitor.rigid(call.dy, false);
    visitor.vector(call.channel_param, call.x.size[1]);
    visitor.weight(call.full_param.data);
  }
};

template <>
struct PointersOf<SoftmaxCall> {
  static constexpr bool kKnown = true;
  template <class V>
  static void visit(SoftmaxCall& call, V& visitor) {
    visitor.address(call.x, false);
    visitor.address(call.dy, false);
    visitor.address(call.y, true);
  }
};

template <>
struct PointersOf<UpsampleCall> {
  static constexpr bool kKnown = true;
  template <class V>
  static void visit(UpsampleCall& call, V& visitor) {
    visitor.tensor(call.small, false);
    visitor.tensor(call.large, true);
  }
};

template <>
struct PointersOf<BatchNormCall> {
  static constexpr bool kKnown = true;
  template <class V>
  static void visit(BatchNormCall& call, V& visitor) {
    visitor.tensor(call.x, false);
    visitor.tensor(call.y, true);
    for (const void** vector : {&call.mean, &call.var, &call.weight, &call.bias}) {
      visitor.vector(*vector, call.x.size[1]);
    }
    visit_epilogue(call.epilogue, call.x.size[1], true, visitor);
  }
};

template <>
struct PointersOf<CombineCall> {
  static constexpr bool kKnown = true;
  template <class V>
  static void visit(CombineCall& call, V& visitor) {
    visitor.tensor(call.a, false);
    visitor.tensor(call.b, false);
    visitor.tensor(call.y, true);
  }
};

}  // namespace fastconv::plan
