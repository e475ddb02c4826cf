// The operations im2col and col2im (torch's unfold and fold).
#include "algorithms.h"
#include "kernels/im2col.cuh"

namespace fastconv::cuda {
namespace {

// torch's columns: (N, C * R * S, P * Q), dense.
Im2colLayout torch_layout(const ConvProblem& p) {
  const int64_t pixels = p.P * p.Q;
  return {p.C * p.R * p.S * pixels, pixels, 1, true};
}

size_t columns_bytes(const Im2colCall& call) {
  return static_cast<size_t>(call.problem.N * torch_layout(call.problem).stride_image) * dtype_size(call.dtype);
}

}  // namespace

void im2col(const Im2colCall& call, const CallContext& context) {
  LaunchConfig config;
  config.stream = context.stream;
  config.footprint.reads("image", call.image).writes("columns", call.columns, columns_bytes(call));
  visit_element_size(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_im2col<T>(call.problem, 0, call.image, torch_layout(call.problem), static_cast<T*>(call.columns), config);
  });
}

void col2im(const Im2colCall& call, const CallContext& context) {
  LaunchConfig config;
  config.stream = context.stream;
  config.footprint.reads("columns", call.columns, columns_bytes(call)).writes("image", call.image);
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_col2im<T>(call.problem, call.image, torch_layout(call.problem), static_cast<const T*>(call.columns), config);
  });
}

}  // namespace fastconv::cuda
