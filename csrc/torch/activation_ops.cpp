// Activations with their derivatives, PReLU's parameter gradient, softmax, and the bias gradient.
#include "conv_geometry.h"
#include "epilogue_args.h"
#include "ops.h"
#include "tables.h"

namespace fastconv::ops {

namespace {

// Any number of dimensions as four, axis 1 staying axis 1: (N, C, rest...). Five and more must be contiguous.
TensorView folded_view(const Tensor& t, DType dtype) {
  TensorView view;
  view.data = data_of(t);
  view.dtype = dtype;
  const auto size = t.sizes(), stride = t.strides();
  const size_t dims = size.size();
  for (size_t d = 0; d < 4; ++d) {
    view.size[d] = d < dims ? size[d] : 1;
    view.stride[d] = d < dims ? stride[d] : 0;
  }
  for (size_t d = 4; d < dims; ++d) view.size[3] *= size[d];
  if (dims > 4) view.stride[3] = 1;
  return view;
}

Tensor contiguous(const Tensor& t, DType dtype) {
  if (t.is_contiguous()) return t;
  Tensor copy = empty(sizes_of(t), dtype, MemoryFormat::kContiguous, t);
  TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(copy.get(), t.get(), 0));
  return copy;
}

// torch's elementwise result: x's strides when x is dense, else their order without the gaps.
Tensor empty_like(const Tensor& x, DType dtype) {
  if (!is_dense(x)) return torch::stable::empty_like(x);
  const auto stride = x.strides();
  return empty_strided(sizes_of(x), Ints(stride.begin(), stride.end()), torch_dtype(dtype), x);
}

// Fills the parameter of `call`; the result owns a converted alpha.
OptionalTensor fill_param(ActivationCall& call, const Tensor& x, const std::string& act, double act_param,
                          const OptionalTensor& alpha, const char* op) {
  EpilogueHolder holder;
  const OptionalTensor none;
  call.act = activation_named(act, op);
  call.param = act_param;
  if (call.act != Activation::kPrelu) return std::nullopt;
  require(alpha.has_value(), op, ": expected alpha to be given with act='prelu', but got None");
  require_same_device(*alpha, x, op);
  if (alpha->numel() == 1 && alpha->is_cpu()) {
    call.param = scalar_value(*alpha, op);
    return std::nullopt;
  }
  require(x.dim() >= 2, op, ": expected one value of alpha for an input of ", x.dim(), " dimensions, but got ",
          shape_text(*alpha));
  fill_epilogue(holder, {none, none, none, none, act, act_param, alpha}, x, 1, call.dtype, folded_view, op);
  call.param_kind = holder.args.param_kind;
  call.channel_param = holder.args.channel_param;
  call.full_param = holder.args.full_param;
  return holder.alpha;
}

void run_activation(Tensor x, const Tensor& y, const OptionalTensor& dy, const std::string& act, double act_param,
                    const OptionalTensor& alpha, int64_t order, const std::string& backend_name, const char* op) {
  const Backend backend = backend_of(x, backend_name, op);
  ActivationCall call;
  call.dtype = dtype_of(x, op);
  call.order = static_cast<int>(order);
  const OptionalTensor held = fill_param(call, x, act, act_param, alpha, op);
  if (x.numel() == 0) return;
  if (call.param_kind == ParamKind::kScalar && is_dense(x) && same_strides(x, y) && (!dy || same_strides(*dy, x))) {
    // One flat run, whatever the dimensions.
    const auto flat = [&](const Tensor& t) {
      TensorView view;
      view.data = data_of(t);
      view.dtype = call.dtype;
      for (int d = 0; d < 3; ++d) view.size[d] = 1;
      view.size[3] = t.numel(), view.stride[3] = 1;
      return view;
    };
    call.x = flat(x), call.y = flat(y);
    if (dy) call.dy = flat(*dy);
    run_kernel(&OpKernels::activation, call, backend, op, x);
    return;
  }
  call.x = folded_view(x, call.dtype), call.y = folded_view(y, call.dtype);
  if (dy) call.dy = folded_view(*dy, call.dtype);
  run_kernel(&OpKernels::activation, call, backend, op, x);
}

}  // namespace

Tensor activation(Tensor x, Text act, double act_param, OptionalTensor alpha, Text backend) {
  const char* op = "activation";
  const DType dtype = dtype_of(x, op);
  Tensor y = empty_like(x, dtype);
  if (x.dim() > 4 && !x.is_contiguous() && !(is_dense(x) && (!alpha || alpha->numel() == 1))) {
    x = contiguous(x, dtype);
    y = empty_like(x, dtype);
  }
  run_activation(x, y, std::nullopt, act, act_param, alpha, 0, backend, op);
  return y;
}

void activation_(Tensor x, Text act, double act_param, OptionalTensor alpha, Text backend) {
  const char* op = "activation_";
  if (x.dim() > 4 && !(is_dense(x) && (!alpha || alpha->numel() == 1)) && !x.is_contiguous()) {
    Tensor y = activation(x, act, act_param, alpha, backend);
    TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(x.get(), y.get(), 0));
    return;
  }
  run_activation(x, x, std::nullopt, act, act_param, alpha, 0, backend, op);
}

Tensor activation_backward(Tensor dy, Tensor x, Text act, double act_param, OptionalTensor alpha, int64_t order,
                           Text backend) {
  const char* op = "activation_backward";
  const DType dtype = dtype_of(x, op);
  require(order == 1 || order == 2, op, ": expected order to be 1 or 2, but got ", order);
  require_same_device(dy, x, op);
  require(same_sizes(dy, x) && dtype_of(dy, op) == dtype, op, ": expected dy to have x's shape ", shape_text(x),
          " and dtype, but got ", shape_text(dy));
  if (x.dim() > 4) {
    x = contiguous(x, dtype);
    dy = contiguous(dy, dtype);
  }
  Tensor dx = empty_like(x, dtype);
  run_activation(x, dx, dy, act, act_param, alpha, order, backend, op);
  return dx;
}

Tensor prelu_alpha_grad(Tensor dy, Tensor x, Ints alpha_size, Text backend_name) {
  const char* op = "prelu_alpha_grad";
  const Backend backend = backend_of(x, backend_name, op);
  PreluParamGradCall call;
  call.dtype = dtype_of(x, op);
  require_same_device(dy, x, op);
  require(same_sizes(dy, x) && dtype_of(dy, op) == call.dtype, op, ": expected dy to have x's shape ", shape_text(x),
          " and dtype, but got ", shape_text(dy));
  if (x.dim() > 4) {
    x = contiguous(x, call.dtype);
    dy = contiguous(dy, call.dtype);
  }
  require_ints(alpha_size, alpha_size.size(), 0, op, "alpha_size");
  int64_t count = 1;
  for (const int64_t extent : alpha_size) count *= extent;
  Tensor dalpha = empty(alpha_size, call.dtype, MemoryFormat::kContiguous, x);
  if (count == 0) return dalpha;
  call.x = folded_view(x, call.dtype);
  call.dy = folded_view(dy, call.dtype);
  call.dparam.data = data_of(dalpha);
  call.dparam.dtype = call.dtype;
  for (int d = 0; d < 4; ++d) call.dparam.size[d] = 1;
  const TensorView& view = call.x;
  if (count == 1) {
    call.param_kind = ParamKind::kScalar;
  } else if (alpha_size.size() == 1) {
    require(x.dim() >= 2 && count == view.size[1], op, ": expected one or ", view.size[1], " values of alpha, but got ",
            count);
    call.param_kind = ParamKind::kPerChannel;
    call.dparam.size[1] = count, call.dparam.stride[1] = 1;
  } else {
    require(count == view.size[1] * view.size[2] * view.size[3], op, ": expected alpha to have one value for each of ",
            view.size[1] * view.size[2] * view.size[3], " positions, but got ", count);
    call.param_kind = ParamKind::kFull;
    for (int d = 3, running = 1; d >= 1; --d) {
      call.dparam.size[d] = view.size[d];
      call.dparam.stride[d] = running;
      running *= static_cast<int>(view.size[d]);
    }
    call.dparam.stride[0] = count;
  }
  run_kernel(&OpKernels::prelu_param_grad, call, backend, op, x);
  return dalpha;
}

namespace {

// (outer, axis, inner) of a contiguous tensor.
SoftmaxCall make_softmax(const Tensor& x, int64_t dim, DType dtype, const char* op) {
  const int64_t dims = x.dim();
  require(dims == 0 ? (dim == 0 || dim == -1) : (dim >= -dims && dim < dims), op, ": expected dim to lie in [", -dims,
          ", ", dims - 1, "], but got ", dim);
  if (dim < 0) dim += dims;
  SoftmaxCall call;
  call.dtype = dtype;
  for (int64_t d = 0; d < dims; ++d) (d < dim ? call.outer : d == dim ? call.axis : call.inner) *= x.size(d);
  return call;
}

}  // namespace

Tensor softmax(Tensor x, int64_t dim, Text backend_name) {
  const char* op = "softmax";
  const Backend backend = backend_of(x, backend_name, op);
  const DType dtype = dtype_of(x, op);
  x = contiguous(x, dtype);
  SoftmaxCall call = make_softmax(x, dim, dtype, op);
  Tensor y = empty(sizes_of(x), dtype, MemoryFormat::kContiguous, x);
  if (y.numel() == 0) return y;
  call.x = data_of(x), call.y = data_of(y);
  run_kernel(&OpKernels::softmax, call, backend, op, x);
  return y;
}

Tensor softmax_backward(Tensor dy, Tensor y, int64_t dim, Text backend_name) {
  const char* op = "softmax_backward";
  const Backend backend = backend_of(y, backend_name, op);
  const DType dtype = dtype_of(y, op);
  require_same_device(dy, y, op);
  require(same_sizes(dy, y) && dtype_of(dy, op) == dtype, op, ": expected dy to have y's shape ", shape_text(y),
          " and dtype, but got ", shape_text(dy));
  y = contiguous(y, dtype);
  dy = contiguous(dy, dtype);
  SoftmaxCall call = make_softmax(y, dim, dtype, op);
  Tensor dx = empty(sizes_of(y), dtype, MemoryFormat::kContiguous, y);
  if (dx.numel() == 0) return dx;
  call.x = data_of(y), call.dy = data_of(dy), call.y = data_of(dx);
  run_kernel(&OpKernels::softmax_backward, call, backend, op, y);
  return dx;
}

Tensor channel_sum(Tensor dy, Text backend_name) {
  const char* op = "channel_sum";
  const Backend backend = backend_of(dy, backend_name, op);
  require(dy.dim() == 4, op, ": expected dy to have 4 dimensions, but got ", dy.dim());
  ChannelSumCall call;
  call.dtype = dtype_of(dy, op);
  Tensor sum = empty({dy.size(1)}, call.dtype, MemoryFormat::kContiguous, dy);
  if (sum.numel() == 0) return sum;
  if (dy.numel() == 0) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(sum.get()));
    return sum;
  }
  dy = walkable(dy);
  call.dy = view_of(dy, call.dtype);
  call.sum = data_of(sum);
  run_kernel(&OpKernels::channel_sum, call, backend, op, dy);
  return sum;
}

}  // namespace fastconv::ops
