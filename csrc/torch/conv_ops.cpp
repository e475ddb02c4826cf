// conv2d, upsample_conv2d, conv_transpose2d, the gradients of conv2d, and conv2d with batch statistics.
#include <cmath>

#include "conv_geometry.h"
#include "epilogue_args.h"
#include "ops.h"
#include "packed.h"
#include "tables.h"
#include "tf32.h"

namespace fastconv::ops {

namespace {

// torch's rule for convolutions: channels_last out if input or weight is.
MemoryFormat output_format(const Tensor& x, const Tensor& w) {
  const bool channels_last = is_channels_last(x) || is_channels_last(w);
  return channels_last ? MemoryFormat::kChannelsLast : MemoryFormat::kContiguous;
}

DType common_dtype(const Tensor& a, const Tensor& b, const char* op) {
  const DType dtype = dtype_of(a, op);
  require_same_device(a, b, op);
  require(dtype_of(b, op) == dtype, op, ": expected both tensors to have one dtype, but got ", dtype_name(dtype),
          " and ", dtype_name(dtype_of(b, op)));
  return dtype;
}

void zero(const Tensor& t) { TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(t.get())); }

void require_dy(const Tensor& dy, const ConvProblem& p, const char* op) {
  require(sizes_of(dy) == Ints({p.N, p.C == 0 ? 0 : p.K, p.P, p.Q}), op, ": expected dy to have shape [", p.N, ", ",
          p.K, ", ", p.P, ", ", p.Q, "], but got ", shape_text(dy));
}

Tensor run_conv2d(const char* op, Tensor x, Tensor w, const Ints* scale_factor, const ConvGeometry& geometry,
                  const EpilogueTensors& epilogue, const std::string& algo, const std::string& backend_name,
                  const OptionalTensor& packed) {
  Conv2dCall call;
  const Backend backend = backend_of(x, backend_name, op);
  call.dtype = common_dtype(x, w, op);
  if (scale_factor) require_ints(*scale_factor, 2, 1, op, "scale_factor");
  const int64_t scale_h = scale_factor ? (*scale_factor)[0] : 1, scale_w = scale_factor ? (*scale_factor)[1] : 1;
  call.problem = make_problem(sizes_of(x), sizes_of(w), geometry, op, scale_h, scale_w);
  const ConvProblem& p = call.problem;
  // Without input channels torch returns no output channels either.
  if (p.C == 0) return empty({p.N, 0, p.P, p.Q}, call.dtype, output_format(x, w), x);
  Tensor y = empty({p.N, p.K, p.P, p.Q}, call.dtype, output_format(x, w), x);
  EpilogueHolder holder;
  fill_epilogue(holder, epilogue, y, 1, call.dtype, view_of, op);
  if (y.numel() == 0) return y;
  x = walkable(x);
  w = walkable(w);
  call.x = view_of(x, call.dtype);
  call.w = view_of(w, call.dtype);
  call.y = view_of(y, call.dtype);
  call.epilogue = holder.args;
  if (packed && scale_factor) {
    fill_packed_upsample(call, *packed, op);
  } else if (packed) {
    fill_packed(call, *packed, op);
  }
  fill_tf32(call, backend == Backend::kCuda, Fp32Use::kConv);
  run_algorithm(scale_factor ? upsample_algorithms(backend) : algorithms<Conv2dCall>(backend), call, backend, algo, op,
                x);
  return y;
}

}  // namespace

Tensor conv2d(Tensor x, Tensor weight, OptionalTensor bias, Ints stride, Ints padding, Ints dilation, int64_t groups,
              OptionalTensor scale, OptionalTensor shift, OptionalTensor residual, Text act, double act_param,
              OptionalTensor alpha, Text algo, Text backend, OptionalTensor packed) {
  return run_conv2d("conv2d", x, weight, nullptr, {stride, padding, dilation, groups},
                    {bias, scale, shift, residual, act, act_param, alpha}, algo, backend, packed);
}

Tensor upsample_conv2d(Tensor x, Tensor weight, OptionalTensor bias, Ints scale_factor, Ints stride, Ints padding,
                       Ints dilation, int64_t groups, OptionalTensor scale, OptionalTensor shift,
                       OptionalTensor residual, Text act, double act_param, OptionalTensor alpha, Text algo,
                       Text backend, OptionalTensor packed) {
  return run_conv2d("upsample_conv2d", x, weight, &scale_factor, {stride, padding, dilation, groups},
                    {bias, scale, shift, residual, act, act_param, alpha}, algo, backend, packed);
}

Tensor conv_transpose2d(Tensor x, Tensor weight, OptionalTensor bias, Ints stride, Ints padding, Ints output_padding,
                        int64_t groups, Ints dilation, Text algo, Text backend_name, OptionalTensor packed) {
  const char* op = "conv_transpose2d";
  const Backend backend = backend_of(x, backend_name, op);
  Conv2dInputGradCall call;
  call.dtype = common_dtype(x, weight, op);
  require(x.dim() == 4 && weight.dim() == 4, op, ": expected input and weight to have 4 dimensions, but got ", x.dim(),
          " and ", weight.dim());
  require_ints(sizes_of(x), 4, 0, op, "input size");
  require_ints(sizes_of(weight), 4, 0, op, "weight size");
  require_ints(stride, 2, 1, op, "stride");
  require_ints(padding, 2, 0, op, "padding");
  require_ints(output_padding, 2, 0, op, "output_padding");
  require_ints(dilation, 2, 1, op, "dilation");
  require_ints({groups}, 1, 1, op, "groups");
  // The convolution whose input gradient this is: it reads (N, C, H, W) = our output and writes our input.
  ConvProblem& p = call.problem;
  p.N = x.size(0), p.K = x.size(1), p.P = x.size(2), p.Q = x.size(3);
  p.C = weight.size(1) * groups, p.R = weight.size(2), p.S = weight.size(3);
  p.groups = groups;
  p.stride_h = stride[0], p.stride_w = stride[1];
  p.dilation_h = dilation[0], p.dilation_w = dilation[1];
  p.pad_top = p.pad_bottom = padding[0], p.pad_left = p.pad_right = padding[1];
  for (int i : {0, 1}) {
    require(output_padding[i] < stride[i] || output_padding[i] < dilation[i], op,
            ": expected output_padding to be smaller than stride or dilation, but got ", output_padding[i]);
  }
  require(weight.size(0) == p.K && p.K >= groups && p.K % groups == 0, op, ": expected a weight for ", p.K,
          " input channels in ", groups, " groups, but got ", shape_text(weight));
  require(p.P > 0 && p.Q > 0 && p.R > 0 && p.S > 0, op, ": expected a non-empty image and filter, but got ",
          shape_text(x), " and ", shape_text(weight));
  p.H = (p.P - 1) * p.stride_h - 2 * padding[0] + p.dilation_h * (p.R - 1) + output_padding[0] + 1;
  p.W = (p.Q - 1) * p.stride_w - 2 * padding[1] + p.dilation_w * (p.S - 1) + output_padding[1] + 1;
  require(p.H > 0 && p.W > 0, op, ": expected the output to have positive extents, but got ", p.H, "x", p.W);
  Tensor y = empty({p.N, p.C, p.H, p.W}, call.dtype, output_format(x, weight), x);
  EpilogueHolder holder;
  const OptionalTensor none;
  fill_epilogue(holder, {bias, none, none, none, "identity", 0.0, none}, y, 1, call.dtype, view_of, op);
  if (y.numel() == 0) return y;
  x = walkable(x);
  weight = walkable(weight);
  call.dy = view_of(x, call.dtype);
  call.w = view_of(weight, call.dtype);
  call.dx = view_of(y, call.dtype);
  call.epilogue = holder.args;
  if (packed) call.packed_w = packed_data(*packed, PackedKind::kTranspose, p, call.dtype, op);
  fill_tf32(call, backend == Backend::kCuda, Fp32Use::kConv);
  run_algorithm(algorithms<Conv2dInputGradCall>(backend), call, backend, algo, op, x);
  return y;
}

// (y, mean, var), the statistics as batch_norm_stats(y) gives them.
std::tuple<Tensor, Tensor, Tensor> conv2d_stats(Tensor x, Tensor weight, OptionalTensor bias, Ints stride, Ints padding,
                                                Ints dilation, int64_t groups, Text algo, Text backend_name) {
  const char* op = "conv2d_stats";
  const Backend backend = backend_of(x, backend_name, op);
  Conv2dStatsCall call;
  Conv2dCall& conv = call.conv;
  conv.dtype = common_dtype(x, weight, op);
  conv.problem = make_problem(sizes_of(x), sizes_of(weight), {stride, padding, dilation, groups}, op);
  const ConvProblem& p = conv.problem;
  const int64_t channels = p.C == 0 ? 0 : p.K;
  Tensor y = empty({p.N, channels, p.P, p.Q}, conv.dtype, output_format(x, weight), x);
  Tensor mean = empty({channels}, accumulate_dtype(conv.dtype), MemoryFormat::kContiguous, x);
  Tensor var = empty({channels}, accumulate_dtype(conv.dtype), MemoryFormat::kContiguous, x);
  if (channels == 0) return {y, mean, var};
  EpilogueHolder holder;
  const OptionalTensor none;
  fill_epilogue(holder, {bias, none, none, none, "identity", 0.0, none}, y, 1, conv.dtype, view_of, op);
  if (y.numel() == 0) {  // the mean of nothing
    TORCH_ERROR_CODE_CHECK(aoti_torch_aten_fill__Scalar(mean.get(), std::nan("")));
    TORCH_ERROR_CODE_CHECK(aoti_torch_aten_fill__Scalar(var.get(), std::nan("")));
    return {y, mean, var};
  }
  x = walkable(x);
  weight = walkable(weight);
  conv.x = view_of(x, conv.dtype);
  conv.w = view_of(weight, conv.dtype);
  conv.y = view_of(y, conv.dtype);
  conv.epilogue = holder.args;
  call.mean = data_of(mean), call.var = data_of(var);
  fill_tf32(conv, backend == Backend::kCuda, Fp32Use::kConv);
  run_algorithm(algorithms<Conv2dStatsCall>(backend), call, backend, algo, op, x);
  return {y, mean, var};
}

Tensor conv2d_input_grad(Tensor dy, Tensor weight, Ints input_size, Ints stride, Ints padding, Ints dilation,
                         int64_t groups, Text algo, Text backend_name) {
  const char* op = "conv2d_input_grad";
  const Backend backend = backend_of(dy, backend_name, op);
  Conv2dInputGradCall call;
  call.dtype = common_dtype(dy, weight, op);
  call.problem = make_problem(input_size, sizes_of(weight), {stride, padding, dilation, groups}, op);
  const ConvProblem& p = call.problem;
  require_dy(dy, p, op);
  Tensor dx = empty(input_size, call.dtype, output_format(dy, weight), dy);
  if (dx.numel() == 0) return dx;
  dy = walkable(dy);
  weight = walkable(weight);
  call.dy = view_of(dy, call.dtype);
  call.w = view_of(weight, call.dtype);
  call.dx = view_of(dx, call.dtype);
  fill_tf32(call, backend == Backend::kCuda, Fp32Use::kConv);
  run_algorithm(algorithms<Conv2dInputGradCall>(backend), call, backend, algo, op, dy);
  return dx;
}

Tensor conv2d_weight_grad(Tensor dy, Tensor x, Ints weight_size, Ints stride, Ints padding, Ints dilation,
                          int64_t groups, Text algo, Text backend_name) {
  const char* op = "conv2d_weight_grad";
  const Backend backend = backend_of(dy, backend_name, op);
  Conv2dWeightGradCall call;
  call.dtype = common_dtype(dy, x, op);
  call.problem = make_problem(sizes_of(x), weight_size, {stride, padding, dilation, groups}, op);
  const ConvProblem& p = call.problem;
  require_dy(dy, p, op);
  Tensor dw = empty(weight_size, call.dtype, output_format(dy, x), dy);
  if (dw.numel() == 0) return dw;
  if (p.N == 0) {
    zero(dw);
    return dw;
  }
  dy = walkable(dy);
  x = walkable(x);
  call.dy = view_of(dy, call.dtype);
  call.x = view_of(x, call.dtype);
  call.dw = view_of(dw, call.dtype);
  fill_tf32(call, backend == Backend::kCuda, Fp32Use::kConv);
  run_algorithm(algorithms<Conv2dWeightGradCall>(backend), call, backend, algo, op, dy);
  return dw;
}

}  // namespace fastconv::ops
