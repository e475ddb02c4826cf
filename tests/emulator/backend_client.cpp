// Calls the kernels through the exported table, from C types that ctypes can fill. Like fastconv's own extension, this
// library does not contain the kernels: it is handed the table of a library that was opened at run time.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../../csrc/common/block_parts.h"
#include "../../csrc/cuda/backend.h"
#include "guarded.h"

using namespace fastconv;

// A tensor of up to four dimensions, strides in elements.
struct ClientTensor {
  void* data;
  int64_t size[4], stride[4];
};

struct ClientEpilogue {
  const void *bias, *scale, *shift;
  ClientTensor residual;
  int64_t act, param_kind;
  double param;
  const void* channel_param;
  ClientTensor full_param;
};

namespace {

TensorView view(const ClientTensor& t, DType dtype) {
  TensorView v;
  v.data = t.data;
  v.dtype = dtype;
  memcpy(v.size, t.size, sizeof v.size);
  memcpy(v.stride, t.stride, sizeof v.stride);
  return v;
}

EpilogueArgs epilogue(const ClientEpilogue& e, DType dtype) {
  EpilogueArgs args;
  args.bias = e.bias;
  args.scale = e.scale;
  args.shift = e.shift;
  args.residual = view(e.residual, dtype);
  args.act = static_cast<Activation>(e.act);
  args.param_kind = static_cast<ParamKind>(e.param_kind);
  args.param = e.param;
  args.channel_param = e.channel_param;
  args.full_param = view(e.full_param, dtype);
  return args;
}

// Filled with NaN bytes, so that what a kernel reads before anything wrote it shows in the result.
struct ClientWorkspace final : Workspace {
  std::vector<void*> blocks;
  void* allocate(size_t bytes) override {
    constexpr size_t kAlignment = 256;
    void* block = aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment + kAlignment);
    memset(block, 0xff, bytes);
    blocks.push_back(block);
    return block;
  }
  ~ClientWorkspace() {
    for (void* block : blocks) free(block);
  }
};

template <class Call>
int run(const AlgorithmTable<Call>& table, const Call& call, const char* op, const char* algorithm, char* error,
        size_t error_bytes) {
  return guarded(error, error_bytes, [&] {
    ClientWorkspace workspace;
    select_algorithm(table, call, op, algorithm).run(call, CallContext{&workspace, nullptr});
  });
}

}  // namespace

// a, b, d as (batch, rows, columns, 1).
FASTCONV_EXPORT int client_gemm(const cuda::Backend* backend, const char* algorithm, int dtype_index,
                                const ClientTensor* a, const ClientTensor* b, const ClientTensor* d,
                                const ClientEpilogue* e, char* error, size_t error_bytes) {
  const DType dtype = static_cast<DType>(dtype_index);
  GemmCall call;
  call.batch = d->size[0];
  call.M = d->size[1];
  call.N = d->size[2];
  call.K = a->size[2];
  call.dtype = dtype;
  call.a = a->data;
  call.a_stride_batch = a->stride[0];
  call.a_stride_m = a->stride[1];
  call.a_stride_k = a->stride[2];
  call.b = b->data;
  call.b_stride_batch = b->stride[0];
  call.b_stride_k = b->stride[1];
  call.b_stride_n = b->stride[2];
  call.d = d->data;
  call.d_stride_batch = d->stride[0];
  call.d_stride_m = d->stride[1];
  call.d_stride_n = d->stride[2];
  call.epilogue = epilogue(*e, dtype);
  return run(*backend->gemm, call, "gemm", algorithm, error, error_bytes);
}

// geometry: stride, padding (top, bottom, left, right), dilation, groups, scale.
namespace {
ConvProblem problem_of(const ClientTensor* x, const ClientTensor* w, const ClientTensor* y, const int64_t* geometry) {
  ConvProblem c;
  c.N = x->size[0], c.C = x->size[1], c.H = x->size[2], c.W = x->size[3];
  c.K = w->size[0], c.R = w->size[2], c.S = w->size[3];
  c.P = y->size[2], c.Q = y->size[3];
  c.stride_h = geometry[0], c.stride_w = geometry[1];
  c.pad_top = geometry[2], c.pad_bottom = geometry[3], c.pad_left = geometry[4], c.pad_right = geometry[5];
  c.dilation_h = geometry[6], c.dilation_w = geometry[7];
  c.groups = geometry[8];
  c.scale_h = geometry[9], c.scale_w = geometry[10];
  return c;
}
}  // namespace

// With a scale other than 1: upsample_conv2d.
FASTCONV_EXPORT int client_conv2d(const cuda::Backend* backend, const char* algorithm, int dtype_index,
                                  const ClientTensor* x, const ClientTensor* w, const ClientTensor* y,
                                  const int64_t* geometry, const ClientEpilogue* e, char* error, size_t error_bytes) {
  const DType dtype = static_cast<DType>(dtype_index);
  Conv2dCall call;
  call.problem = problem_of(x, w, y, geometry);
  call.dtype = dtype;
  call.x = view(*x, dtype);
  call.w = view(*w, dtype);
  call.y = view(*y, dtype);
  call.epilogue = epilogue(*e, dtype);
  const bool upsampled = call.problem.scale_h != 1 || call.problem.scale_w != 1;
  return run(upsampled ? *backend->upsample_conv2d : *backend->conv2d, call, upsampled ? "upsample_conv2d" : "conv2d",
             algorithm, error, error_bytes);
}

FASTCONV_EXPORT int client_conv2d_input_grad(const cuda::Backend* backend, const char* algorithm, int dtype_index,
                                             const ClientTensor* dy, const ClientTensor* w, const ClientTensor* dx,
                                             const int64_t* geometry, const ClientEpilogue* e, char* error,
                                             size_t error_bytes) {
  const DType dtype = static_cast<DType>(dtype_index);
  Conv2dInputGradCall call;
  call.problem = problem_of(dx, w, dy, geometry);
  call.dtype = dtype;
  call.dy = view(*dy, dtype);
  call.w = view(*w, dtype);
  call.dx = view(*dx, dtype);
  call.epilogue = epilogue(*e, dtype);
  return run(*backend->conv2d_input_grad, call, "conv2d_input_grad", algorithm, error, error_bytes);
}

FASTCONV_EXPORT int client_conv2d_weight_grad(const cuda::Backend* backend, const char* algorithm, int dtype_index,
                                              const ClientTensor* dy, const ClientTensor* x, const ClientTensor* dw,
                                              const int64_t* geometry, const ClientEpilogue*, char* error,
                                              size_t error_bytes) {
  const DType dtype = static_cast<DType>(dtype_index);
  Conv2dWeightGradCall call;
  call.problem = problem_of(x, dw, dy, geometry);
  call.dtype = dtype;
  call.dy = view(*dy, dtype);
  call.x = view(*x, dtype);
  call.dw = view(*dw, dtype);
  return run(*backend->conv2d_weight_grad, call, "conv2d_weight_grad", algorithm, error, error_bytes);
}

// How many of a block's parts are told that tf32 is allowed, or -1 where another number of them is run.
namespace {
template <class Call>
int parts_in_tf32(const Call& call, int stages) {
  ClientWorkspace workspace;
  int told = 0, seen = 0;
  run_parts(
      call, [&](const Conv2dCall& part, const CallContext&) { told += part.allow_tf32, ++seen; }, 0,
      CallContext{&workspace, nullptr});
  return seen == stages ? told : -1;
}
}  // namespace
FASTCONV_EXPORT int client_parts_in_tf32(int expands, int allowed) {
  InvertedResidualCall residual;
  DepthwisePointwiseCall separable;
  residual.allow_tf32 = separable.allow_tf32 = allowed != 0;
  return expands ? parts_in_tf32(residual, 3) : parts_in_tf32(separable, 2);
}

FASTCONV_EXPORT int client_same_build(const cuda::Backend* backend) { return backend->abi == cuda::kBackendAbi; }
