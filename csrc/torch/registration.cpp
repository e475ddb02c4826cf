// Every schema of the package, and the implementations behind them. Shapes are checked here and in
// fastconv/functional; fakes, derivatives and autocast are in fastconv/ops. To add an operation: its schema and its
// `impl` line here, its function in ops.h, then what docs/adding.md lists for Python.
//
// padding of the convolutions has four values: top, bottom, left, right. algo "" lets the table choose; backend "" goes
// by the tensor's device.
#include <torch/csrc/stable/library.h>

#include "ops.h"

STABLE_TORCH_LIBRARY(fastconv, m) {
  m.def(
      "conv2d(Tensor x, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
      "SymInt groups, Tensor? scale, Tensor? shift, Tensor? residual, str act, float act_param, Tensor? alpha, "
      "str algo, str backend, Tensor? packed) -> Tensor");
  m.def(
      "upsample_conv2d(Tensor x, Tensor weight, Tensor? bias, SymInt[] scale_factor, SymInt[] stride, "
      "SymInt[] padding, SymInt[] dilation, SymInt groups, Tensor? scale, Tensor? shift, Tensor? residual, str act, "
      "float act_param, Tensor? alpha, str algo, str backend, Tensor? packed) -> Tensor");
  m.def(
      "conv_transpose2d(Tensor x, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, "
      "SymInt[] output_padding, SymInt groups, SymInt[] dilation, str algo, str backend, Tensor? packed) -> Tensor");
  m.def(
      "conv2d_stats(Tensor x, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
      "SymInt groups, str algo, str backend) -> (Tensor, Tensor, Tensor)");
  m.def(
      "conv2d_input_grad(Tensor dy, Tensor weight, SymInt[] input_size, SymInt[] stride, SymInt[] padding, "
      "SymInt[] dilation, SymInt groups, str algo, str backend) -> Tensor");
  m.def(
      "conv2d_weight_grad(Tensor dy, Tensor x, SymInt[] weight_size, SymInt[] stride, SymInt[] padding, "
      "SymInt[] dilation, SymInt groups, str algo, str backend) -> Tensor");
  m.def(
      "gemm(Tensor a, Tensor b, Tensor? bias, bool transpose_a, bool transpose_b, Tensor? residual, str act, "
      "float act_param, Tensor? alpha, str algo, str backend, Tensor? packed) -> Tensor");

  m.def(
      "inverted_residual(Tensor x, Tensor expand_weight, Tensor? expand_bias, str expand_act, float expand_param, "
      "Tensor? expand_alpha, Tensor depthwise_weight, Tensor? depthwise_bias, SymInt[] stride, SymInt[] padding, "
      "SymInt[] dilation, str depthwise_act, float depthwise_param, Tensor? depthwise_alpha, Tensor project_weight, "
      "Tensor? project_bias, Tensor? residual, str act, float act_param, Tensor? alpha, str algo, str backend, "
      "Tensor? expand_packed, Tensor? depthwise_packed, Tensor? project_packed) -> Tensor");
  m.def(
      "depthwise_pointwise(Tensor x, Tensor depthwise_weight, Tensor? depthwise_bias, SymInt[] stride, "
      "SymInt[] padding, SymInt[] dilation, str depthwise_act, float depthwise_param, Tensor? depthwise_alpha, "
      "Tensor weight, Tensor? bias, Tensor? residual, str act, float act_param, Tensor? alpha, str algo, str backend, "
      "Tensor? depthwise_packed, Tensor? packed) -> Tensor");
  m.def(
      "conv_max_pool(Tensor x, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
      "SymInt groups, str act, float act_param, Tensor? alpha, SymInt[] kernel_size, SymInt[] pool_stride, "
      "SymInt[] pool_padding, SymInt[] pool_dilation, bool ceil_mode, str algo, str backend, Tensor? packed) "
      "-> Tensor");

  m.def("pack_conv2d_weight(Tensor weight, SymInt groups, str algo='') -> Tensor");
  m.def(
      "pack_upsample_weight(Tensor weight, SymInt[] scale_factor, SymInt[] stride, SymInt[] padding, "
      "SymInt[] dilation, SymInt groups) -> Tensor");
  m.def(
      "pack_transpose_weight(Tensor weight, SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups) "
      "-> Tensor");
  m.def("pack_gemm_b(Tensor b, bool transpose_b) -> Tensor");

  m.def(
      "max_pool2d(Tensor x, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
      "bool ceil_mode, bool return_indices, str backend) -> (Tensor, Tensor)");
  m.def(
      "max_pool2d_backward(Tensor dy, Tensor indices, SymInt[] input_size, SymInt[] kernel_size, SymInt[] stride, "
      "SymInt[] padding, SymInt[] dilation, bool ceil_mode, str backend) -> Tensor");
  m.def(
      "avg_pool2d(Tensor x, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, bool ceil_mode, "
      "bool count_include_pad, SymInt divisor_override, str backend) -> Tensor");
  m.def(
      "avg_pool2d_backward(Tensor dy, SymInt[] input_size, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, "
      "bool ceil_mode, bool count_include_pad, SymInt divisor_override, str backend) -> Tensor");
  m.def("adaptive_avg_pool2d(Tensor x, SymInt[] output_size, str backend) -> Tensor");
  m.def("adaptive_avg_pool2d_backward(Tensor dy, SymInt[] input_size, str backend) -> Tensor");
  m.def("adaptive_max_pool2d(Tensor x, SymInt[] output_size, bool return_indices, str backend) -> (Tensor, Tensor)");
  m.def("adaptive_max_pool2d_backward(Tensor dy, Tensor indices, SymInt[] input_size, str backend) -> Tensor");

  m.def("activation(Tensor x, str act, float act_param, Tensor? alpha, str backend) -> Tensor");
  m.def("activation_(Tensor(a!) x, str act, float act_param, Tensor? alpha, str backend) -> ()");
  m.def(
      "activation_backward(Tensor dy, Tensor x, str act, float act_param, Tensor? alpha, int order, str backend) "
      "-> Tensor");
  m.def("prelu_alpha_grad(Tensor dy, Tensor x, SymInt[] alpha_size, str backend) -> Tensor");
  m.def("softmax(Tensor x, int dim, str backend) -> Tensor");
  m.def("softmax_backward(Tensor dy, Tensor y, int dim, str backend) -> Tensor");
  m.def("channel_sum(Tensor dy, str backend) -> Tensor");

  m.def("batch_norm_stats(Tensor x, str backend) -> (Tensor, Tensor)");
  m.def(
      "batch_norm_act(Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, bool training, float eps, "
      "Tensor? residual, str act, float act_param, Tensor? alpha, str backend) -> Tensor");
  m.def(
      "batch_norm_act_backward(Tensor dy, Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, "
      "bool training, float eps, Tensor? residual, str act, float act_param, Tensor? alpha, str backend) "
      "-> (Tensor, Tensor, Tensor, Tensor)");

  m.def(
      "im2col(Tensor x, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, str backend) "
      "-> Tensor");
  m.def(
      "col2im(Tensor x, SymInt[] output_size, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, "
      "SymInt[] dilation, str backend) -> Tensor");
  m.def("upsample_nearest2d(Tensor x, SymInt[] scale_factor, str backend) -> Tensor");
  m.def("upsample_nearest2d_backward(Tensor dy, SymInt[] scale_factor, str backend) -> Tensor");
}

namespace fastconv::ops {

// `op` as the dispatcher calls it, with NotServed translated.
template <auto op>
void boxed(StableIValue* stack, uint64_t inputs, uint64_t outputs) {
  try {
    TORCH_BOX(op)(stack, inputs, outputs);
  } catch (const NotServed& error) {
    throw std::runtime_error(std::string(kNotServedMark) + error.what());
  }
}

// One function serves every device: backend_of sends it to the right kernels.
template <class Library>
void implement_all(Library& m) {
  m.impl("conv2d", &boxed<&conv2d>);
  m.impl("upsample_conv2d", &boxed<&upsample_conv2d>);
  m.impl("conv_transpose2d", &boxed<&conv_transpose2d>);
  m.impl("conv2d_stats", &boxed<&conv2d_stats>);
  m.impl("conv2d_input_grad", &boxed<&conv2d_input_grad>);
  m.impl("conv2d_weight_grad", &boxed<&conv2d_weight_grad>);
  m.impl("gemm", &boxed<&gemm>);
  m.impl("inverted_residual", &boxed<&inverted_residual>);
  m.impl("depthwise_pointwise", &boxed<&depthwise_pointwise>);
  m.impl("conv_max_pool", &boxed<&conv_max_pool>);
  m.impl("pack_conv2d_weight", &boxed<&pack_conv2d_weight>);
  m.impl("pack_upsample_weight", &boxed<&pack_upsample_weight>);
  m.impl("pack_transpose_weight", &boxed<&pack_transpose_weight>);
  m.impl("pack_gemm_b", &boxed<&pack_gemm_b>);
  m.impl("max_pool2d", &boxed<&max_pool2d>);
  m.impl("max_pool2d_backward", &boxed<&max_pool2d_backward>);
  m.impl("avg_pool2d", &boxed<&avg_pool2d>);
  m.impl("avg_pool2d_backward", &boxed<&avg_pool2d_backward>);
  m.impl("adaptive_avg_pool2d", &boxed<&adaptive_avg_pool2d>);
  m.impl("adaptive_avg_pool2d_backward", &boxed<&adaptive_avg_pool2d_backward>);
  m.impl("adaptive_max_pool2d", &boxed<&adaptive_max_pool2d>);
  m.impl("adaptive_max_pool2d_backward", &boxed<&adaptive_max_pool2d_backward>);
  m.impl("activation", &boxed<&activation>);
  m.impl("activation_", &boxed<&activation_>);
  m.impl("activation_backward", &boxed<&activation_backward>);
  m.impl("prelu_alpha_grad", &boxed<&prelu_alpha_grad>);
  m.impl("softmax", &boxed<&softmax>);
  m.impl("softmax_backward", &boxed<&softmax_backward>);
  m.impl("channel_sum", &boxed<&channel_sum>);
  m.impl("batch_norm_stats", &boxed<&batch_norm_stats>);
  m.impl("batch_norm_act", &boxed<&batch_norm_act>);
  m.impl("batch_norm_act_backward", &boxed<&batch_norm_act_backward>);
  m.impl("im2col", &boxed<&im2col>);
  m.impl("col2im", &boxed<&col2im>);
  m.impl("upsample_nearest2d", &boxed<&upsample_nearest2d>);
  m.impl("upsample_nearest2d_backward", &boxed<&upsample_nearest2d_backward>);
}

}  // namespace fastconv::ops

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) { fastconv::ops::implement_all(m); }
#if defined(FASTCONV_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(fastconv, CUDA, m) { fastconv::ops::implement_all(m); }
#endif
