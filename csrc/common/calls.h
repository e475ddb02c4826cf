// One struct per operation: everything a launcher needs, and nothing of torch. The torch layer fills it (shapes
// checked, output allocated, vectors converted to the accumulate type), an algorithm table picks a row, the row runs
// it.
#pragma once

#include "conv_problem.h"
#include "epilogue.h"
#include "tensor_view.h"

namespace fastconv {

// Temporary memory, from the framework's allocator, released when the call returns (on a GPU: in stream order).
class Workspace {
 public:
  virtual void* allocate(size_t bytes) = 0;  // 64-byte aligned (256 on a GPU)

 protected:
  ~Workspace() = default;
};

struct CallContext {
  Workspace* workspace = nullptr;
  void* stream = nullptr;  // cudaStream_t on a GPU
};

// What `packed_w` of a convolution, or `packed_b` of a product, holds.
enum class PackedFormat : int8_t {
  kPanels,       // the filters themselves: what pack_conv2d_weight gives unasked
  kWinograd2x2,  // transformed for F(2x2, 3x3)
  kWinograd4x4,
  kPhases,     // of upsample_conv2d: summed for each phase of its output
  kBf16Pairs,  // for the instructions that multiply bfloat16
  kUndecided,  // a question, not a call: whatever the chosen algorithm reads will be packed beforehand
};

// d[b] = epilogue(op(a[b]) * op(b[b])), M x N with reduction K. Strides in elements; `a` is op(a)'s view: element (m,
// k) lies at a + batch * a_stride_batch + m * a_stride_m + k * a_stride_k, so a transposition is a swap of strides.
struct GemmCall {
  int64_t batch = 1, M = 0, N = 0, K = 0;
  DType dtype = DType::kFloat32;
  const void* a = nullptr;
  int64_t a_stride_batch = 0, a_stride_m = 0, a_stride_k = 1;
  const void* b = nullptr;
  int64_t b_stride_batch = 0, b_stride_k = 0, b_stride_n = 1;
  void* d = nullptr;
  int64_t d_stride_batch = 0, d_stride_m = 0, d_stride_n = 1;
  const void* packed_b = nullptr;  // from gemm_pack_b, when the caller has it (batch == 1)
  bool allow_tf32 = false;         // float32 on tensor cores with ten bits of mantissa may be chosen unasked
  PackedFormat packed_format = PackedFormat::kPanels;
  // Column n is the epilogue's channel; residual and full_param are views with size (batch, N, M, 1).
  EpilogueArgs epilogue;
};

// y = epilogue(conv(x, w)). With scale_h, scale_w > 1 in the problem: upsample_conv2d.
struct Conv2dCall {
  ConvProblem problem;
  DType dtype = DType::kFloat32;
  TensorView x;                    // (N, C, H, W)
  TensorView w;                    // (K, C / groups, R, S)
  TensorView y;                    // (N, K, P, Q)
  const void* packed_w = nullptr;  // from the matching pack function, when the caller has it
  PackedFormat packed_format = PackedFormat::kPanels;
  bool allow_tf32 = false;
  EpilogueArgs epilogue;
};

// dx of y = conv(x, w): also transposed convolution, whose forward it is (then with a bias in the epilogue).
struct Conv2dInputGradCall {
  ConvProblem problem;  // of the forward convolution
  DType dtype = DType::kFloat32;
  TensorView dy;  // (N, K, P, Q)
  TensorView w;   // (K, C / groups, R, S)
  TensorView dx;  // (N, C, H, W)
  const void* packed_w = nullptr;
  bool allow_tf32 = false;
  EpilogueArgs epilogue;  // its channel is dx's channel c
};

struct Conv2dWeightGradCall {
  ConvProblem problem;
  DType dtype = DType::kFloat32;
  TensorView dy;  // (N, K, P, Q)
  TensorView x;   // (N, C, H, W)
  TensorView dw;  // (K, C / groups, R, S)
  bool allow_tf32 = false;
};

// Windows of max and average pooling. Bottom and right padding are implied by P and Q (ceil_mode).
struct PoolProblem {
  int64_t N = 0, C = 0, H = 0, W = 0, P = 0, Q = 0;
  int64_t window_h = 1, window_w = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_top = 0, pad_left = 0;
  int64_t dilation_h = 1, dilation_w = 1;
  bool adaptive = false;          // windows [floor(i * H / P), ceil((i + 1) * H / P)) instead
  bool count_include_pad = true;  // average
  bool ceil_mode = false;
  int64_t divisor_override = 0;  // average; 0: none
};

struct PoolCall {
  PoolProblem problem;
  DType dtype = DType::kFloat32;
  TensorView x;  // forward: input (N, C, H, W). backward: dy (N, C, P, Q)
  TensorView y;  // forward: output (N, C, P, Q). backward: dx (N, C, H, W)
  // int64 flat indices into H * W, of the output's extents; `dtype` of the view is not used. Absent when not asked for.
  TensorView indices;
};

// Elementwise, over tensors of the same extents and any strides.
struct ActivationCall {
  DType dtype = DType::kFloat32;
  Activation act = Activation::kIdentity;
  TensorView x, y;  // up to four dimensions (torch layer folds others); y = act(x)
  TensorView dy;    // backward: y receives dx = dy * act'(x)
  ParamKind param_kind = ParamKind::kScalar;
  double param = 0.0;
  const void* channel_param = nullptr;  // accumulate type, one per size[1]
  TensorView full_param;                // x's dtype
  int order = 0;                        // 0: y = act(x); 1: y = dy * act'(x); 2: y = dy * act''(x)
};

// dalpha = sum of dy * min(x, 0)-side contributions, reduced to one value, to C values, or to the (C, H, W) of one
// sample.
struct PreluParamGradCall {
  DType dtype = DType::kFloat32;
  TensorView x, dy;  // (N, C, H, W)
  ParamKind param_kind = ParamKind::kScalar;
  TensorView dparam;  // 1, C or (1, C, H, W) elements of x's dtype
};

// Over the middle axis of (outer, axis, inner), element (o, a, i) at (o * axis + a) * inner + i.
struct SoftmaxCall {
  DType dtype = DType::kFloat32;
  int64_t outer = 1, axis = 1, inner = 1;
  const void* x = nullptr;   // backward: y of the forward
  const void* dy = nullptr;  // backward only
  void* y = nullptr;         // backward: dx
};

// torch's unfold and fold. `image` is (N, C, H, W); `columns` is (N, C * R * S, P * Q), dense.
struct Im2colCall {
  ConvProblem problem;  // K is not used
  DType dtype = DType::kFloat32;
  TensorView image;
  void* columns = nullptr;
};

// Nearest upsampling by whole factors and its transpose (sums of blocks).
struct UpsampleCall {
  DType dtype = DType::kFloat32;
  int64_t scale_h = 1, scale_w = 1;
  TensorView small, large;
};

// Sum over every axis but the channel's: the gradient of a bias.
struct ChannelSumCall {
  DType dtype = DType::kFloat32;
  TensorView dy;        // (N, K, P, Q)
  void* sum = nullptr;  // K elements of dtype
};

// Over N, H and W, for every channel: the mean, and the variance with divisor N * H * W.
struct BatchNormStatsCall {
  DType dtype = DType::kFloat32;
  TensorView x;          // (N, C, H, W)
  void* mean = nullptr;  // C elements of the accumulate type
  void* var = nullptr;
};

// y = act((x - mean) / sqrt(var + eps) * weight + bias + residual). Vectors have C elements of the accumulate type.
struct BatchNormCall {
  DType dtype = DType::kFloat32;
  TensorView x, y;  // (N, C, H, W)
  const void *mean = nullptr, *var = nullptr;
  const void *weight = nullptr, *bias = nullptr;  // null: 1 and 0
  double eps = 0.0;
  EpilogueArgs epilogue;  // residual, activation and its parameter
};

// Its gradients. The pre-activation is computed anew from x.
struct BatchNormGradCall {
  BatchNormCall forward;         // y is not used
  bool batch_statistics = true;  // mean and var are x's own, and pass on their part of the gradient
  TensorView dy, dx;
  TensorView dresidual;                       // absent when not wanted
  void *dweight = nullptr, *dbias = nullptr;  // C elements of the accumulate type
};

// ---- Blocks: chains of the above, computed band by band of rows, so that the tensors between them never exist ----

// One convolution of a block. `packed_w` is what pack_conv2d_weight gives (cpu: conv2d_pack), or null; residual and
// full_param of the epilogue only where the stage is the block's last.
struct ConvStage {
  ConvProblem problem;
  TensorView w;  // (K, C / groups, R, S)
  const void* packed_w = nullptr;
  EpilogueArgs epilogue;
};

// y = project(depthwise(expand(x))), 1x1 -> one filter per channel -> 1x1, each with its epilogue. The output's extents
// of one stage are the input's of the next. The residual is project's.
struct InvertedResidualCall {
  DType dtype = DType::kFloat32;
  TensorView x, y;  // (N, expand.C, H, W), (N, project.K, P, Q)
  ConvStage expand, depthwise, project;
  bool allow_tf32 = false;  // of all stages
};

// y = pointwise(depthwise(x)).
struct DepthwisePointwiseCall {
  DType dtype = DType::kFloat32;
  TensorView x, y;
  ConvStage depthwise, pointwise;
  bool allow_tf32 = false;
};

// y = max_pool(conv(x)). `pool` is over the convolution's output; windows are neither adaptive nor give indices.
struct ConvMaxPoolCall {
  DType dtype = DType::kFloat32;
  TensorView x, y;
  ConvStage conv;
  PoolProblem pool;
};

// y = a, a + b or a * b over tensors of the same extents and any strides (0 repeats an operand along an axis). A copy
// converts between element types; sums and products are of one type. What a network plan needs beside the layers.
enum class Combine : int8_t { kCopy, kAdd, kMultiply };

struct CombineCall {
  Combine what = Combine::kCopy;
  TensorView a, b, y;  // b: sums and products; y may be a
};

}  // namespace fastconv
