// Training-mode BatchNorm with residual and activation: batch statistics, the forward pass and its gradients.
#include <cmath>

#include "conv_geometry.h"
#include "epilogue_args.h"
#include "ops.h"
#include "tables.h"

namespace fastconv::ops {

namespace {

// Owns what the views of `call` point to.
struct NormHolder {
  BatchNormCall call;
  EpilogueHolder epilogue;
  OptionalTensor mean, var, weight, bias;
  Tensor x;
};

void require_image(const Tensor& x, const char* op) {
  require(x.dim() == 4, op, ": expected the input to have 4 dimensions, but got ", x.dim());
}

NormHolder make_norm(const Tensor& x, const Tensor& mean, const Tensor& var, const OptionalTensor& weight,
                     const OptionalTensor& bias, double eps, const OptionalTensor& residual, const std::string& act,
                     double act_param, const OptionalTensor& alpha, const char* op) {
  require_image(x, op);
  const DType dtype = dtype_of(x, op);
  const int64_t C = x.size(1);
  const OptionalTensor none;
  NormHolder h{{}, {}, {}, {}, {}, {}, walkable(x)};
  BatchNormCall& call = h.call;
  call.dtype = dtype;
  h.mean = accumulate_vector(mean, dtype, C, x, op, "mean");
  h.var = accumulate_vector(var, dtype, C, x, op, "var");
  h.weight = accumulate_vector(weight, dtype, C, x, op, "weight");
  h.bias = accumulate_vector(bias, dtype, C, x, op, "bias");
  call.mean = data_or_null(h.mean), call.var = data_or_null(h.var);
  call.weight = data_or_null(h.weight), call.bias = data_or_null(h.bias);
  call.eps = eps;
  call.x = view_of(h.x, dtype);
  fill_epilogue(h.epilogue, {none, none, none, residual, act, act_param, alpha}, x, 1, dtype, view_of, op);
  call.epilogue = h.epilogue.args;
  return h;
}

Tensor vector(const Tensor& x, DType dtype) {
  return empty({x.size(1)}, accumulate_dtype(dtype), MemoryFormat::kContiguous, x);
}

}  // namespace

std::tuple<Tensor, Tensor> batch_norm_stats(Tensor x, Text backend_name) {
  const char* op = "batch_norm_stats";
  const Backend backend = backend_of(x, backend_name, op);
  require_image(x, op);
  BatchNormStatsCall call;
  call.dtype = dtype_of(x, op);
  Tensor mean = vector(x, call.dtype), var = vector(x, call.dtype);
  if (mean.numel() == 0) return {mean, var};
  if (x.numel() == 0) {  // the mean of nothing
    TORCH_ERROR_CODE_CHECK(aoti_torch_aten_fill__Scalar(mean.get(), std::nan("")));
    TORCH_ERROR_CODE_CHECK(aoti_torch_aten_fill__Scalar(var.get(), std::nan("")));
    return {mean, var};
  }
  x = walkable(x);
  call.x = view_of(x, call.dtype);
  call.mean = data_of(mean), call.var = data_of(var);
  run_kernel(&OpKernels::batch_norm_stats, call, backend, op, x);
  return {mean, var};
}

// `training` says that mean and var are x's own, which the gradient takes into account; y does not depend on it.
Tensor batch_norm_act(Tensor x, Tensor mean, Tensor var, OptionalTensor weight, OptionalTensor bias, bool, double eps,
                      OptionalTensor residual, Text act, double act_param, OptionalTensor alpha, Text backend_name) {
  const char* op = "batch_norm_act";
  const Backend backend = backend_of(x, backend_name, op);
  NormHolder h = make_norm(x, mean, var, weight, bias, eps, residual, act, act_param, alpha, op);
  Tensor y = empty(sizes_of(x), h.call.dtype, format_of(x), x);
  if (y.numel() == 0) return y;
  h.call.y = view_of(y, h.call.dtype);
  run_kernel(&OpKernels::batch_norm_act, h.call, backend, op, x);
  return y;
}

// (dx, dweight, dbias, dresidual); the vectors in the accumulate type, dresidual empty without a residual.
std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_act_backward(Tensor dy, Tensor x, Tensor mean, Tensor var,
                                                                   OptionalTensor weight, OptionalTensor bias,
                                                                   bool training, double eps, OptionalTensor residual,
                                                                   Text act, double act_param, OptionalTensor alpha,
                                                                   Text backend_name) {
  const char* op = "batch_norm_act_backward";
  const Backend backend = backend_of(x, backend_name, op);
  NormHolder h = make_norm(x, mean, var, weight, bias, eps, residual, act, act_param, alpha, op);
  const DType dtype = h.call.dtype;
  require_same_device(dy, x, op);
  require(same_sizes(dy, x) && dtype_of(dy, op) == dtype, op, ": expected dy to have x's shape ", shape_text(x),
          " and dtype, but got ", shape_text(dy));
  Tensor dx = empty(sizes_of(x), dtype, format_of(x), x);
  Tensor dweight = vector(x, dtype), dbias = vector(x, dtype);
  Tensor dresidual =
      residual ? empty(sizes_of(x), dtype, format_of(x), x) : empty({0}, dtype, MemoryFormat::kContiguous, x);
  if (x.numel() == 0) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(dweight.get()));
    TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(dbias.get()));
    return {dx, dweight, dbias, dresidual};
  }
  dy = walkable(dy);
  BatchNormGradCall call;
  call.forward = h.call;
  call.batch_statistics = training;
  call.dy = view_of(dy, dtype);
  call.dx = view_of(dx, dtype);
  if (residual) call.dresidual = view_of(dresidual, dtype);
  call.dweight = data_of(dweight), call.dbias = data_of(dbias);
  run_kernel(&OpKernels::batch_norm_act_backward, call, backend, op, x);
  return {dx, dweight, dbias, dresidual};
}

}  // namespace fastconv::ops
