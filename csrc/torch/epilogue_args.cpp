#include "epilogue_args.h"

#include "../plan/recorder.h"

namespace fastconv::ops {

Activation activation_named(const std::string& name, const char* op) {
  std::string names;
  for (int8_t i = 0; i < kActivationCount; ++i) {
    const char* candidate = activation_name(static_cast<Activation>(i));
    if (name == candidate) return static_cast<Activation>(i);
  }
  for (int8_t i = 0; i < kActivationCount; ++i) {
    names += (i ? ", " : "") + std::string(activation_name(static_cast<Activation>(i)));
  }
  throw std::invalid_argument(concat(op, ": expected act to be one of ", names, ", but got '", name, "'"));
}

double scalar_value(const Tensor& t, const char* op) {
  const void* data = t.const_data_ptr();
  return visit_dtype(dtype_of(t, op), [data](auto tag) {
    return static_cast<double>(to_accumulate(*static_cast<const typename decltype(tag)::type*>(data)));
  });
}

namespace {

// A view of y's shape with y's trailing axes: alpha may lack the leading one, or have extent 1 there.
void fill_full_param(EpilogueHolder& holder, const Tensor& alpha, const Tensor& y, DType dtype,
                     TensorView (*as_view)(const Tensor&, DType), const char* op) {
  const auto a = alpha.sizes(), full = y.sizes();
  const size_t lead = full.size() - a.size();
  bool fits = lead <= 1;
  for (size_t d = 0; fits && d < a.size(); ++d) fits = a[d] == full[d + lead] || (lead == 0 && d == 0 && a[0] == 1);
  require(fits, op, ": expected alpha to have one value, one for each channel, or the shape of the output ",
          shape_text(y), " with or without the batch, but got ", shape_text(alpha));
  // Broadcasting copy in y's dtype and strides when anything differs from what the kernels read; else no copy.
  const bool as_is = lead == 0 && a[0] == full[0] && dtype_of(alpha, op) == dtype;
  if (as_is) {
    holder.alpha = alpha;
    holder.args.full_param = as_view(alpha, dtype);
    return;
  }
  // One sample is enough: the batch's stride is 0.
  Ints size(full.begin(), full.end());
  const bool shared = size.size() > 2 && (lead == 1 || a[0] == 1);
  if (shared) size[0] = 1;
  Tensor copy =
      size.size() == 4 ? empty(size, dtype, format_of(y), y) : empty(size, dtype, MemoryFormat::kContiguous, y);
  TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(copy.get(), alpha.get(), 0));
  holder.alpha = copy;
  holder.args.full_param = as_view(copy, dtype);
  if (shared) holder.args.full_param.stride[0] = 0;
}

}  // namespace

void fill_epilogue(EpilogueHolder& holder, const EpilogueTensors& tensors, const Tensor& y, int channel_dim,
                   DType dtype, TensorView (*as_view)(const Tensor&, DType), const char* op) {
  const int64_t channels = y.size(channel_dim);
  EpilogueArgs& args = holder.args;
  holder.bias = accumulate_vector(tensors.bias, dtype, channels, y, op, "bias");
  holder.scale = accumulate_vector(tensors.scale, dtype, channels, y, op, "scale");
  holder.shift = accumulate_vector(tensors.shift, dtype, channels, y, op, "shift");
  args.bias = data_or_null(holder.bias);
  args.scale = data_or_null(holder.scale);
  args.shift = data_or_null(holder.shift);
  if (tensors.residual) {
    require_same_device(*tensors.residual, y, op);
    require(same_sizes(*tensors.residual, y), op, ": expected residual to have the shape of the output, ",
            shape_text(y), ", but got ", shape_text(*tensors.residual));
    require(dtype_of(*tensors.residual, op) == dtype, op, ": expected residual to have the dtype of the input");
    args.residual = as_view(*tensors.residual, dtype);
  }
  args.act = activation_named(tensors.act, op);
  args.param = tensors.act_param;
  if (args.act != Activation::kPrelu) return;
  require(tensors.alpha.has_value(), op, ": expected alpha to be given with act='prelu', but got None");
  const Tensor& alpha = *tensors.alpha;
  require_same_device(alpha, y, op);
  if (alpha.numel() == 1 && alpha.is_cpu()) {
    args.param = scalar_value(alpha, op);
  } else if (alpha.numel() == 1) {  // on a GPU: not worth a synchronisation
    args.param_kind = ParamKind::kPerChannel;
    holder.alpha = empty({channels}, accumulate_dtype(dtype), MemoryFormat::kContiguous, y);
    TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(holder.alpha->get(), alpha.get(), 0));
    args.channel_param = data_or_null(holder.alpha);
    if (plan::Recorder* recorder = plan::Recorder::current()) recorder->keep(*holder.alpha);
  } else if (alpha.dim() == 1 && alpha.numel() == channels) {
    args.param_kind = ParamKind::kPerChannel;
    holder.alpha = accumulate_vector(alpha, dtype, channels, y, op, "alpha");
    args.channel_param = data_or_null(holder.alpha);
  } else {
    args.param_kind = ParamKind::kFull;
    fill_full_param(holder, alpha, y, dtype, as_view, op);
  }
}

}  // namespace fastconv::ops
