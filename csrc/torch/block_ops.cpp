// Blocks: chains of convolutions, and of convolution and max pooling, as one operator each.
#include "conv_geometry.h"
#include "epilogue_args.h"
#include "ops.h"
#include "packed.h"
#include "pool_geometry.h"
#include "tables.h"
#include "tf32.h"

namespace fastconv::ops {

namespace {

// channels_last out if input or any weight is: what the stages one by one would give.
MemoryFormat output_format(std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* t : tensors) {
    if (is_channels_last(*t)) return MemoryFormat::kChannelsLast;
  }
  return MemoryFormat::kContiguous;
}

// One stage of a block: owns what its ConvStage points to.
class StageHolder {
 public:
  ConvStage stage;

  StageHolder(const Tensor& weight, const ConvGeometry& geometry, const Tensor& x, const char* op)
      : op_(op), dtype_(dtype_of(x, op)) {
    require_same_device(x, weight, op);
    require(dtype_of(weight, op) == dtype_, op, ": expected all tensors to have one dtype, but got ",
            dtype_name(dtype_), " and ", dtype_name(dtype_of(weight, op)));
    weight_ = weight;
    geometry_ = &geometry;
  }

  void shape(const Ints& input) {
    stage.problem = make_problem(input, sizes_of(*weight_), *geometry_, op_);
    require(stage.problem.C > 0, op_, ": expected at least one channel, but got ", stage.problem.C);
  }
  Ints output() const {
    const ConvProblem& p = stage.problem;
    return {p.N, p.K, p.P, p.Q};
  }

  // An inner stage's epilogue: its tensors have one value, or one for each channel.
  void finish_inner(const OptionalTensor& bias, const std::string& act, double param, const OptionalTensor& alpha) {
    require(!alpha || alpha->numel() == 1 || alpha->dim() == 1, op_,
            ": expected the alpha of an inner stage to have one value, or one for each channel, but got ",
            alpha ? alpha->dim() : 0, " dimensions");
    // Only its channels, dtype and device are asked for.
    const ConvProblem& p = stage.problem;
    finish(empty({0, p.K, p.P, p.Q}, dtype_, MemoryFormat::kContiguous, *weight_), bias, none_, act, param, alpha);
  }
  void finish(const Tensor& y, const OptionalTensor& bias, const OptionalTensor& residual, const std::string& act,
              double param, const OptionalTensor& alpha) {
    fill_epilogue(epilogue_, {bias, none_, none_, residual, act, param, alpha}, y, 1, dtype_, view_of, op_);
    stage.epilogue = epilogue_.args;
  }

  void place(const OptionalTensor& packed) {
    weight_ = walkable(*weight_);
    stage.w = view_of(*weight_, dtype_);
    if (packed) stage.packed_w = packed_data(*packed, PackedKind::kConv2d, stage.problem, dtype_, op_);
  }

 private:
  const char* op_;
  DType dtype_;
  OptionalTensor weight_, none_;
  const ConvGeometry* geometry_;
  EpilogueHolder epilogue_;
};

const Ints kOne{1, 1}, kNothing{0, 0, 0, 0};

template <class Call>
void run_block(Call& call, Tensor& x, const Tensor& y, Backend backend, const std::string& algo, const char* op) {
  if (y.numel() == 0) return;
  x = walkable(x);
  call.dtype = dtype_of(x, op);
  call.x = view_of(x, call.dtype);
  call.y = view_of(y, call.dtype);
  if constexpr (!std::is_same_v<Call, ConvMaxPoolCall>) fill_tf32(call, backend == Backend::kCuda, Fp32Use::kConv);
  run_algorithm(algorithms<Call>(backend), call, backend, algo, op, x);
}

}  // namespace

Tensor inverted_residual(Tensor x, Tensor expand_weight, OptionalTensor expand_bias, Text expand_act,
                         double expand_param, OptionalTensor expand_alpha, Tensor depthwise_weight,
                         OptionalTensor depthwise_bias, Ints stride, Ints padding, Ints dilation, Text depthwise_act,
                         double depthwise_param, OptionalTensor depthwise_alpha, Tensor project_weight,
                         OptionalTensor project_bias, OptionalTensor residual, Text act, double act_param,
                         OptionalTensor alpha, Text algo, Text backend_name, OptionalTensor expand_packed,
                         OptionalTensor depthwise_packed, OptionalTensor project_packed) {
  const char* op = "inverted_residual";
  const Backend backend = backend_of(x, backend_name, op);
  require(depthwise_weight.dim() == 4 && depthwise_weight.size(0) > 0, op,
          ": expected depthwise_weight to have 4 dimensions and channels, but got ", shape_text(depthwise_weight));
  const ConvGeometry plain{kOne, kNothing, kOne, 1}, window{stride, padding, dilation, depthwise_weight.size(0)};
  StageHolder expand(expand_weight, plain, x, op), depthwise(depthwise_weight, window, x, op);
  StageHolder project(project_weight, plain, x, op);
  expand.shape(sizes_of(x));
  depthwise.shape(expand.output());
  project.shape(depthwise.output());
  const MemoryFormat format = output_format({&x, &expand_weight, &depthwise_weight, &project_weight});
  Tensor y = empty(project.output(), dtype_of(x, op), format, x);
  expand.finish_inner(expand_bias, expand_act, expand_param, expand_alpha);
  depthwise.finish_inner(depthwise_bias, depthwise_act, depthwise_param, depthwise_alpha);
  project.finish(y, project_bias, residual, act, act_param, alpha);
  expand.place(expand_packed);
  depthwise.place(depthwise_packed);
  project.place(project_packed);
  InvertedResidualCall call;
  call.expand = expand.stage;
  call.depthwise = depthwise.stage;
  call.project = project.stage;
  run_block(call, x, y, backend, algo, op);
  return y;
}

Tensor depthwise_pointwise(Tensor x, Tensor depthwise_weight, OptionalTensor depthwise_bias, Ints stride, Ints padding,
                           Ints dilation, Text depthwise_act, double depthwise_param, OptionalTensor depthwise_alpha,
                           Tensor weight, OptionalTensor bias, OptionalTensor residual, Text act, double act_param,
                           OptionalTensor alpha, Text algo, Text backend_name, OptionalTensor depthwise_packed,
                           OptionalTensor packed) {
  const char* op = "depthwise_pointwise";
  const Backend backend = backend_of(x, backend_name, op);
  require(x.dim() == 4 && x.size(1) > 0, op, ": expected the input to have 4 dimensions and channels, but got ",
          shape_text(x));
  const ConvGeometry plain{kOne, kNothing, kOne, 1}, window{stride, padding, dilation, x.size(1)};
  StageHolder depthwise(depthwise_weight, window, x, op), pointwise(weight, plain, x, op);
  depthwise.shape(sizes_of(x));
  pointwise.shape(depthwise.output());
  Tensor y = empty(pointwise.output(), dtype_of(x, op), output_format({&x, &depthwise_weight, &weight}), x);
  depthwise.finish_inner(depthwise_bias, depthwise_act, depthwise_param, depthwise_alpha);
  pointwise.finish(y, bias, residual, act, act_param, alpha);
  depthwise.place(depthwise_packed);
  pointwise.place(packed);
  DepthwisePointwiseCall call;
  call.depthwise = depthwise.stage;
  call.pointwise = pointwise.stage;
  run_block(call, x, y, backend, algo, op);
  return y;
}

Tensor conv_max_pool(Tensor x, Tensor weight, OptionalTensor bias, Ints stride, Ints padding, Ints dilation,
                     int64_t groups, Text act, double act_param, OptionalTensor alpha, Ints kernel_size,
                     Ints pool_stride, Ints pool_padding, Ints pool_dilation, bool ceil_mode, Text algo,
                     Text backend_name, OptionalTensor packed) {
  const char* op = "conv_max_pool";
  const Backend backend = backend_of(x, backend_name, op);
  const ConvGeometry geometry{stride, padding, dilation, groups};
  StageHolder conv(weight, geometry, x, op);
  conv.shape(sizes_of(x));
  ConvMaxPoolCall call;
  call.pool = make_pool(conv.output(), {kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode}, op);
  const PoolProblem& p = call.pool;
  Tensor y = empty({p.N, p.C, p.P, p.Q}, dtype_of(x, op), output_format({&x, &weight}), x);
  conv.finish_inner(bias, act, act_param, alpha);
  conv.place(packed);
  call.conv = conv.stage;
  run_block(call, x, y, backend, algo, op);
  return y;
}

}  // namespace fastconv::ops
