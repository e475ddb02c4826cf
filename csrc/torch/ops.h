// The operators, as registration.cpp gives them to torch. Arguments are in the order of their schemas.
#pragma once

#include <string>
#include <tuple>

#include "tensor_utils.h"
#include "text.h"

namespace fastconv::ops {

// conv_ops.cpp
Tensor conv2d(Tensor x, Tensor weight, OptionalTensor bias, Ints stride, Ints padding, Ints dilation, int64_t groups,
              OptionalTensor scale, OptionalTensor shift, OptionalTensor residual, Text act, double act_param,
              OptionalTensor alpha, Text algo, Text backend, OptionalTensor packed);
Tensor upsample_conv2d(Tensor x, Tensor weight, OptionalTensor bias, Ints scale_factor, Ints stride, Ints padding,
                       Ints dilation, int64_t groups, OptionalTensor scale, OptionalTensor shift,
                       OptionalTensor residual, Text act, double act_param, OptionalTensor alpha, Text algo,
                       Text backend, OptionalTensor packed);
Tensor conv_transpose2d(Tensor x, Tensor weight, OptionalTensor bias, Ints stride, Ints padding, Ints output_padding,
                        int64_t groups, Ints dilation, Text algo, Text backend, OptionalTensor packed);
std::tuple<Tensor, Tensor, Tensor> conv2d_stats(Tensor x, Tensor weight, OptionalTensor bias, Ints stride, Ints padding,
                                                Ints dilation, int64_t groups, Text algo, Text backend);
Tensor conv2d_input_grad(Tensor dy, Tensor weight, Ints input_size, Ints stride, Ints padding, Ints dilation,
                         int64_t groups, Text algo, Text backend);
Tensor conv2d_weight_grad(Tensor dy, Tensor x, Ints weight_size, Ints stride, Ints padding, Ints dilation,
                          int64_t groups, Text algo, Text backend);

// gemm_ops.cpp
Tensor gemm(Tensor a, Tensor b, OptionalTensor bias, bool transpose_a, bool transpose_b, OptionalTensor residual,
            Text act, double act_param, OptionalTensor alpha, Text algo, Text backend, OptionalTensor packed);

// block_ops.cpp
Tensor inverted_residual(Tensor x, Tensor expand_weight, OptionalTensor expand_bias, Text expand_act,
                         double expand_param, OptionalTensor expand_alpha, Tensor depthwise_weight,
                         OptionalTensor depthwise_bias, Ints stride, Ints padding, Ints dilation, Text depthwise_act,
                         double depthwise_param, OptionalTensor depthwise_alpha, Tensor project_weight,
                         OptionalTensor project_bias, OptionalTensor residual, Text act, double act_param,
                         OptionalTensor alpha, Text algo, Text backend, OptionalTensor expand_packed,
                         OptionalTensor depthwise_packed, OptionalTensor project_packed);
Tensor depthwise_pointwise(Tensor x, Tensor depthwise_weight, OptionalTensor depthwise_bias, Ints stride, Ints padding,
                           Ints dilation, Text depthwise_act, double depthwise_param, OptionalTensor depthwise_alpha,
                           Tensor weight, OptionalTensor bias, OptionalTensor residual, Text act, double act_param,
                           OptionalTensor alpha, Text algo, Text backend, OptionalTensor depthwise_packed,
                           OptionalTensor packed);
Tensor conv_max_pool(Tensor x, Tensor weight, OptionalTensor bias, Ints stride, Ints padding, Ints dilation,
                     int64_t groups, Text act, double act_param, OptionalTensor alpha, Ints kernel_size,
                     Ints pool_stride, Ints pool_padding, Ints pool_dilation, bool ceil_mode, Text algo, Text backend,
                     OptionalTensor packed);

// packed.cpp
Tensor pack_conv2d_weight(Tensor weight, int64_t groups, Text algo);
Tensor pack_upsample_weight(Tensor weight, Ints scale_factor, Ints stride, Ints padding, Ints dilation, int64_t groups);
Tensor pack_transpose_weight(Tensor weight, Ints stride, Ints padding, Ints dilation, int64_t groups);
Tensor pack_gemm_b(Tensor b, bool transpose_b);

// pooling_ops.cpp
std::tuple<Tensor, Tensor> max_pool2d(Tensor x, Ints kernel_size, Ints stride, Ints padding, Ints dilation,
                                      bool ceil_mode, bool return_indices, Text backend);
Tensor max_pool2d_backward(Tensor dy, Tensor indices, Ints input_size, Ints kernel_size, Ints stride, Ints padding,
                           Ints dilation, bool ceil_mode, Text backend);
Tensor avg_pool2d(Tensor x, Ints kernel_size, Ints stride, Ints padding, bool ceil_mode, bool count_include_pad,
                  int64_t divisor_override, Text backend);
Tensor avg_pool2d_backward(Tensor dy, Ints input_size, Ints kernel_size, Ints stride, Ints padding, bool ceil_mode,
                           bool count_include_pad, int64_t divisor_override, Text backend);
Tensor adaptive_avg_pool2d(Tensor x, Ints output_size, Text backend);
Tensor adaptive_avg_pool2d_backward(Tensor dy, Ints input_size, Text backend);
std::tuple<Tensor, Tensor> adaptive_max_pool2d(Tensor x, Ints output_size, bool return_indices, Text backend);
Tensor adaptive_max_pool2d_backward(Tensor dy, Tensor indices, Ints input_size, Text backend);

// activation_ops.cpp
Tensor activation(Tensor x, Text act, double act_param, OptionalTensor alpha, Text backend);
void activation_(Tensor x, Text act, double act_param, OptionalTensor alpha, Text backend);
Tensor activation_backward(Tensor dy, Tensor x, Text act, double act_param, OptionalTensor alpha, int64_t order,
                           Text backend);
Tensor prelu_alpha_grad(Tensor dy, Tensor x, Ints alpha_size, Text backend);
Tensor softmax(Tensor x, int64_t dim, Text backend);
Tensor softmax_backward(Tensor dy, Tensor y, int64_t dim, Text backend);
Tensor channel_sum(Tensor dy, Text backend);

// batch_norm_ops.cpp
std::tuple<Tensor, Tensor> batch_norm_stats(Tensor x, Text backend);
Tensor batch_norm_act(Tensor x, Tensor mean, Tensor var, OptionalTensor weight, OptionalTensor bias, bool training,
                      double eps, OptionalTensor residual, Text act, double act_param, OptionalTensor alpha,
                      Text backend);
std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_act_backward(Tensor dy, Tensor x, Tensor mean, Tensor var,
                                                                   OptionalTensor weight, OptionalTensor bias,
                                                                   bool training, double eps, OptionalTensor residual,
                                                                   Text act, double act_param, OptionalTensor alpha,
                                                                   Text backend);

// resample_ops.cpp
Tensor im2col(Tensor x, Ints kernel_size, Ints stride, Ints padding, Ints dilation, Text backend);
Tensor col2im(Tensor x, Ints output_size, Ints kernel_size, Ints stride, Ints padding, Ints dilation, Text backend);
Tensor upsample_nearest2d(Tensor x, Ints scale_factor, Text backend);
Tensor upsample_nearest2d_backward(Tensor dy, Ints scale_factor, Text backend);

}  // namespace fastconv::ops
