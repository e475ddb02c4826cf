// Max, average and adaptive pooling, and their gradients.
#include <atomic>
#include <cmath>

#include "conv_geometry.h"
#include "ops.h"
#include "pool_geometry.h"
#include "tables.h"

namespace fastconv::ops {

namespace {

// Windows along one axis; ceil_mode counts one that hangs over the end, unless it starts in the padding behind.
int64_t pooled_extent(int64_t in, int64_t window, int64_t stride, int64_t pad, int64_t dilation, bool ceil_mode) {
  const int64_t room = in + 2 * pad - dilation * (window - 1) - 1;
  if (room < 0 && !(ceil_mode && room > -stride)) return 0;
  int64_t out = room >= 0 ? room / stride : -1;
  if (ceil_mode && (room < 0 || room % stride != 0)) ++out;
  ++out;
  if (ceil_mode && (out - 1) * stride >= in + pad) --out;
  return out;
}

}  // namespace

PoolProblem make_pool(const Ints& input, const Windows& w, const char* op) {
  require(input.size() == 4, op, ": expected the input to have 4 dimensions, but got ", input.size());
  require_ints(input, 4, 0, op, "input size");
  require_ints(w.kernel, 2, 1, op, "kernel_size");
  require_ints(w.stride, 2, 1, op, "stride");
  require_ints(w.padding, 2, 0, op, "padding");
  require_ints(w.dilation, 2, 1, op, "dilation");
  PoolProblem p;
  p.N = input[0], p.C = input[1], p.H = input[2], p.W = input[3];
  require(p.C > 0 && p.H > 0 && p.W > 0, op, ": expected extents other than the batch to be positive, but got [", p.N,
          ", ", p.C, ", ", p.H, ", ", p.W, "]");
  p.window_h = w.kernel[0], p.window_w = w.kernel[1];
  p.stride_h = w.stride[0], p.stride_w = w.stride[1];
  p.pad_top = w.padding[0], p.pad_left = w.padding[1];
  p.dilation_h = w.dilation[0], p.dilation_w = w.dilation[1];
  p.ceil_mode = w.ceil_mode;
  require(p.pad_top <= p.window_h / 2 && p.pad_left <= p.window_w / 2, op,
          ": expected padding to be at most half of the kernel size, but got ", p.pad_top, ", ", p.pad_left);
  p.P = pooled_extent(p.H, p.window_h, p.stride_h, p.pad_top, p.dilation_h, p.ceil_mode);
  p.Q = pooled_extent(p.W, p.window_w, p.stride_w, p.pad_left, p.dilation_w, p.ceil_mode);
  require(p.P > 0 && p.Q > 0, op, ": expected at least one window, but the output is ", p.P, "x", p.Q);
  return p;
}

namespace {

PoolProblem make_adaptive(const Ints& input, const Ints& output, const char* op) {
  require(input.size() == 4, op, ": expected the input to have 4 dimensions, but got ", input.size());
  require_ints(input, 4, 0, op, "input size");
  require_ints(output, 2, 0, op, "output_size");
  PoolProblem p;
  p.N = input[0], p.C = input[1], p.H = input[2], p.W = input[3];
  p.P = output[0], p.Q = output[1];
  p.adaptive = true;
  return p;
}

void zero(const Tensor& t) { TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(t.get())); }

// In the order of memory: foreign indices are rare, so nothing stops early.
bool indices_in_range(const Tensor& given, int64_t pixels) {
  const Tensor indices = is_dense(given) ? given : torch::stable::contiguous(given);
  const int64_t* data = static_cast<const int64_t*>(indices.const_data_ptr());
  std::atomic<bool> found{false};
  cpu::parallel_for(indices.numel(), 1 << 15, [&](int64_t begin, int64_t end) {
    bool outside = false;
    for (int64_t i = begin; i < end; ++i) outside |= data[i] < -1 || data[i] >= pixels;  // -1: a window without a pixel
    if (outside) found = true;
  });
  return !found;
}

using Slot = OpKernels::Kernel<PoolCall> OpKernels::*;

std::tuple<Tensor, Tensor> pool_forward(const char* op, Slot slot, Tensor x, const PoolProblem& p, bool want_indices,
                                        const std::string& backend_name) {
  const Backend backend = backend_of(x, backend_name, op);
  PoolCall call;
  call.problem = p;
  call.dtype = dtype_of(x, op);
  const MemoryFormat format = format_of(x);
  const int32_t int64 = aoti_torch_dtype_int64();
  Tensor y = empty({p.N, p.C, p.P, p.Q}, call.dtype, format, x);
  Tensor indices =
      want_indices ? empty({p.N, p.C, p.P, p.Q}, int64, format, x) : empty({0}, int64, MemoryFormat::kContiguous, x);
  if (y.numel() == 0) return {y, indices};
  if (p.H == 0 || p.W == 0) {  // only adaptive windows get here: the mean of nothing
    TORCH_ERROR_CODE_CHECK(aoti_torch_aten_fill__Scalar(y.get(), std::nan("")));
    return {y, indices};
  }
  x = walkable(x);
  call.x = view_of(x, call.dtype);
  call.y = view_of(y, call.dtype);
  if (want_indices) call.indices = view_of(indices, call.dtype);
  run_kernel(slot, call, backend, op, x);
  return {y, indices};
}

Tensor pool_backward(const char* op, Slot slot, Tensor dy, const OptionalTensor& chosen, const PoolProblem& p,
                     const std::string& backend_name) {
  const Backend backend = backend_of(dy, backend_name, op);
  PoolCall call;
  call.problem = p;
  call.dtype = dtype_of(dy, op);
  require(sizes_of(dy) == Ints({p.N, p.C, p.P, p.Q}), op, ": expected dy to have shape [", p.N, ", ", p.C, ", ", p.P,
          ", ", p.Q, "], but got ", shape_text(dy));
  Tensor dx = empty({p.N, p.C, p.H, p.W}, call.dtype, format_of(dy), dy);
  if (dx.numel() == 0) return dx;
  if (dy.numel() == 0) {
    zero(dx);
    return dx;
  }
  dy = walkable(dy);
  call.x = view_of(dy, call.dtype);
  call.y = view_of(dx, call.dtype);
  OptionalTensor indices = chosen;
  if (indices) {
    require_same_device(*indices, dy, op);
    int32_t dtype;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(indices->get(), &dtype));
    require(dtype == aoti_torch_dtype_int64() && same_sizes(*indices, dy), op,
            ": expected indices to be int64 and to have dy's shape ", shape_text(dy), ", but got ",
            shape_text(*indices));
    indices = with_strides_of(*indices, dy);
    call.indices = view_of(*indices, call.dtype);
    // Foreign indices are told where the host can see them. On a GPU that would be a synchronisation, and the kernel,
    // which compares indices and follows none, gives such an output no gradient.
    require(backend == Backend::kCuda || indices_in_range(*indices, p.H * p.W), op,
            ": expected indices to lie in [-1, ", p.H * p.W, ")");
  }
  run_kernel(slot, call, backend, op, dy);
  return dx;
}

}  // namespace

std::tuple<Tensor, Tensor> max_pool2d(Tensor x, Ints kernel_size, Ints stride, Ints padding, Ints dilation,
                                      bool ceil_mode, bool return_indices, Text backend) {
  const char* op = "max_pool2d";
  const PoolProblem p = make_pool(sizes_of(x), {kernel_size, stride, padding, dilation, ceil_mode}, op);
  return pool_forward(op, &OpKernels::max_pool2d, x, p, return_indices, backend);
}

Tensor max_pool2d_backward(Tensor dy, Tensor indices, Ints input_size, Ints kernel_size, Ints stride, Ints padding,
                           Ints dilation, bool ceil_mode, Text backend) {
  const char* op = "max_pool2d_backward";
  const PoolProblem p = make_pool(input_size, {kernel_size, stride, padding, dilation, ceil_mode}, op);
  return pool_backward(op, &OpKernels::max_pool2d_backward, dy, indices, p, backend);
}

namespace {

PoolProblem make_average(const Ints& input, const Ints& kernel_size, const Ints& stride, const Ints& padding,
                         bool ceil_mode, bool count_include_pad, int64_t divisor_override, const char* op) {
  PoolProblem p = make_pool(input, {kernel_size, stride, padding, {1, 1}, ceil_mode}, op);
  p.count_include_pad = count_include_pad;
  p.divisor_override = divisor_override;
  return p;
}

}  // namespace

Tensor avg_pool2d(Tensor x, Ints kernel_size, Ints stride, Ints padding, bool ceil_mode, bool count_include_pad,
                  int64_t divisor_override, Text backend) {
  const char* op = "avg_pool2d";
  const PoolProblem p =
      make_average(sizes_of(x), kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, op);
  return std::get<0>(pool_forward(op, &OpKernels::avg_pool2d, x, p, false, backend));
}

Tensor avg_pool2d_backward(Tensor dy, Ints input_size, Ints kernel_size, Ints stride, Ints padding, bool ceil_mode,
                           bool count_include_pad, int64_t divisor_override, Text backend) {
  const char* op = "avg_pool2d_backward";
  const PoolProblem p =
      make_average(input_size, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, op);
  return pool_backward(op, &OpKernels::avg_pool2d_backward, dy, std::nullopt, p, backend);
}

Tensor adaptive_avg_pool2d(Tensor x, Ints output_size, Text backend) {
  const char* op = "adaptive_avg_pool2d";
  const PoolProblem p = make_adaptive(sizes_of(x), output_size, op);
  require((p.H > 0 && p.W > 0) || (p.P == 1 && p.Q == 1), op, ": expected a non-empty image, but got ", shape_text(x));
  return std::get<0>(pool_forward(op, &OpKernels::avg_pool2d, x, p, false, backend));
}

Tensor adaptive_avg_pool2d_backward(Tensor dy, Ints input_size, Text backend) {
  const char* op = "adaptive_avg_pool2d_backward";
  require(dy.dim() == 4, op, ": expected dy to have 4 dimensions, but got ", dy.dim());
  const PoolProblem p = make_adaptive(input_size, {dy.size(2), dy.size(3)}, op);
  return pool_backward(op, &OpKernels::avg_pool2d_backward, dy, std::nullopt, p, backend);
}

std::tuple<Tensor, Tensor> adaptive_max_pool2d(Tensor x, Ints output_size, bool return_indices, Text backend) {
  const char* op = "adaptive_max_pool2d";
  const PoolProblem p = make_adaptive(sizes_of(x), output_size, op);
  require(p.C > 0 && p.H > 0 && p.W > 0, op, ": expected extents other than the batch to be positive, but got ",
          shape_text(x));
  return pool_forward(op, &OpKernels::max_pool2d, x, p, return_indices, backend);
}

Tensor adaptive_max_pool2d_backward(Tensor dy, Tensor indices, Ints input_size, Text backend) {
  const char* op = "adaptive_max_pool2d_backward";
  require(dy.dim() == 4, op, ": expected dy to have 4 dimensions, but got ", dy.dim());
  const PoolProblem p = make_adaptive(input_size, {dy.size(2), dy.size(3)}, op);
  return pool_backward(op, &OpKernels::max_pool2d_backward, dy, indices, p, backend);
}

}  // namespace fastconv::ops
