// im2col and col2im in torch's unfold and fold layouts; nearest upsampling by whole factors and its transpose.
#include "conv_geometry.h"
#include "ops.h"
#include "tables.h"

namespace fastconv::ops {

namespace {

// A one-channel filter has the geometry of the windows.
ConvProblem make_windows(const Ints& image, const Ints& kernel_size, const Ints& stride, const Ints& padding,
                         const Ints& dilation, const char* op) {
  require_ints(kernel_size, 2, 1, op, "kernel_size");
  require_ints(padding, 2, 0, op, "padding");
  require(image.size() == 4, op, ": expected the image to have 4 dimensions, but got ", image.size());
  require(image[1] > 0, op, ": expected the image to have channels");
  const Ints sides{padding[0], padding[0], padding[1], padding[1]};
  const ConvProblem p =
      make_problem(image, {1, image[1], kernel_size[0], kernel_size[1]}, {stride, sides, dilation, 1}, op);
  // Each extent fits, their product need not: wrapped around, a matrix of any size could come of it.
  const double elements = static_cast<double>(p.N > 0 ? p.N : 1) * static_cast<double>(p.C * p.R) *
                          static_cast<double>(p.S) * static_cast<double>(p.P) * static_cast<double>(p.Q);
  require(elements < 0x1p59, op, ": expected a matrix that fits in memory, but got ", p.P, "x", p.Q, " windows of ",
          p.C, "x", p.R, "x", p.S);
  return p;
}

}  // namespace

Tensor im2col(Tensor x, Ints kernel_size, Ints stride, Ints padding, Ints dilation, Text backend_name) {
  const char* op = "im2col";
  const Backend backend = backend_of(x, backend_name, op);
  Im2colCall call;
  call.dtype = dtype_of(x, op);
  call.problem = make_windows(sizes_of(x), kernel_size, stride, padding, dilation, op);
  const ConvProblem& p = call.problem;
  Tensor columns = empty({p.N, p.C * p.R * p.S, p.P * p.Q}, call.dtype, MemoryFormat::kContiguous, x);
  if (columns.numel() == 0) return columns;
  x = walkable(x);
  call.image = view_of(x, call.dtype);
  call.columns = data_of(columns);
  run_kernel(&OpKernels::im2col, call, backend, op, x);
  return columns;
}

Tensor col2im(Tensor x, Ints output_size, Ints kernel_size, Ints stride, Ints padding, Ints dilation,
              Text backend_name) {
  const char* op = "col2im";
  const Backend backend = backend_of(x, backend_name, op);
  Im2colCall call;
  call.dtype = dtype_of(x, op);
  require(x.dim() == 3, op, ": expected the columns to have 3 dimensions, but got ", x.dim());
  require_ints(output_size, 2, 1, op, "output_size");
  require_ints(kernel_size, 2, 1, op, "kernel_size");
  const int64_t taps = kernel_size[0] * kernel_size[1];
  require(x.size(1) % taps == 0, op, ": expected a multiple of ", taps, " rows, but got ", x.size(1));
  const Ints image{x.size(0), x.size(1) / taps, output_size[0], output_size[1]};
  call.problem = make_windows(image, kernel_size, stride, padding, dilation, op);
  const ConvProblem& p = call.problem;
  require(x.size(2) == p.P * p.Q, op, ": expected ", p.P * p.Q, " columns, but got ", x.size(2));
  Tensor y = empty(image, call.dtype, MemoryFormat::kContiguous, x);
  if (y.numel() == 0) return y;
  if (!x.is_contiguous()) {
    Tensor copy = empty(sizes_of(x), call.dtype, MemoryFormat::kContiguous, x);
    TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(copy.get(), x.get(), 0));
    x = copy;
  }
  call.image = view_of(y, call.dtype);
  call.columns = data_of(x);
  run_kernel(&OpKernels::col2im, call, backend, op, x);
  return y;
}

Tensor upsample_nearest2d(Tensor x, Ints scale_factor, Text backend_name) {
  const char* op = "upsample_nearest2d";
  const Backend backend = backend_of(x, backend_name, op);
  UpsampleCall call;
  call.dtype = dtype_of(x, op);
  require(x.dim() == 4, op, ": expected the input to have 4 dimensions, but got ", x.dim());
  require_ints(scale_factor, 2, 1, op, "scale_factor");
  call.scale_h = scale_factor[0], call.scale_w = scale_factor[1];
  Tensor y =
      empty({x.size(0), x.size(1), x.size(2) * call.scale_h, x.size(3) * call.scale_w}, call.dtype, format_of(x), x);
  if (y.numel() == 0) return y;
  x = walkable(x);
  call.small = view_of(x, call.dtype);
  call.large = view_of(y, call.dtype);
  run_kernel(&OpKernels::upsample_nearest2d, call, backend, op, x);
  return y;
}

Tensor upsample_nearest2d_backward(Tensor dy, Ints scale_factor, Text backend_name) {
  const char* op = "upsample_nearest2d_backward";
  const Backend backend = backend_of(dy, backend_name, op);
  UpsampleCall call;
  call.dtype = dtype_of(dy, op);
  require(dy.dim() == 4, op, ": expected dy to have 4 dimensions, but got ", dy.dim());
  require_ints(scale_factor, 2, 1, op, "scale_factor");
  call.scale_h = scale_factor[0], call.scale_w = scale_factor[1];
  require(dy.size(2) % call.scale_h == 0 && dy.size(3) % call.scale_w == 0, op,
          ": expected an image of whole blocks, but got ", shape_text(dy));
  Tensor dx = empty({dy.size(0), dy.size(1), dy.size(2) / call.scale_h, dy.size(3) / call.scale_w}, call.dtype,
                    format_of(dy), dy);
  if (dx.numel() == 0) return dx;
  dy = walkable(dy);
  call.small = view_of(dx, call.dtype);
  call.large = view_of(dy, call.dtype);
  run_kernel(&OpKernels::upsample_nearest2d_backward, call, backend, op, dy);
  return dx;
}

}  // namespace fastconv::ops
