// gemm: plain, transposed and batched products with the shared epilogue.
#include "epilogue_args.h"
#include "ops.h"
#include "packed.h"
#include "tables.h"
#include "tf32.h"

namespace fastconv::ops {

namespace {

// (M, N) or (B, M, N) as the epilogue sees it: batch, channel n, row m.
TensorView matrix_view(const Tensor& t, DType dtype) {
  TensorView view;
  view.data = data_of(t);
  view.dtype = dtype;
  const int rows = static_cast<int>(t.dim()) - 2, columns = rows + 1;
  view.size[0] = rows ? t.size(0) : 1;
  view.stride[0] = rows ? t.stride(0) : 0;
  view.size[1] = t.size(columns), view.stride[1] = t.stride(columns);
  view.size[2] = t.size(rows), view.stride[2] = t.stride(rows);
  view.size[3] = 1, view.stride[3] = 0;
  return view;
}

}  // namespace

Tensor gemm(Tensor a, Tensor b, OptionalTensor bias, bool transpose_a, bool transpose_b, OptionalTensor residual,
            Text act, double act_param, OptionalTensor alpha, Text algo, Text backend_name, OptionalTensor packed) {
  const char* op = "gemm";
  const Backend backend = backend_of(a, backend_name, op);
  GemmCall call;
  call.dtype = dtype_of(a, op);
  require_same_device(a, b, op);
  require(dtype_of(b, op) == call.dtype, op, ": expected both matrices to have one dtype, but got ",
          dtype_name(call.dtype), " and ", dtype_name(dtype_of(b, op)));
  const int64_t dims = a.dim();
  require((dims == 2 || dims == 3) && b.dim() == dims, op,
          ": expected both operands to be matrices, or both batches of matrices, but got ", shape_text(a), " and ",
          shape_text(b));
  const int rows = static_cast<int>(dims) - 2, columns = rows + 1;
  const int m = transpose_a ? columns : rows, ka = transpose_a ? rows : columns;
  const int n = transpose_b ? rows : columns, kb = transpose_b ? columns : rows;
  call.batch = rows ? a.size(0) : 1;
  call.M = a.size(m), call.N = b.size(n), call.K = a.size(ka);
  require(b.size(kb) == call.K && (!rows || b.size(0) == call.batch), op, ": shapes ", shape_text(a), " and ",
          shape_text(b), " cannot be multiplied");
  Tensor d =
      empty(rows ? Ints{call.batch, call.M, call.N} : Ints{call.M, call.N}, call.dtype, MemoryFormat::kContiguous, a);
  EpilogueHolder holder;
  const OptionalTensor none;
  fill_epilogue(holder, {bias, none, none, residual, act, act_param, alpha}, d, columns, call.dtype, matrix_view, op);
  if (d.numel() == 0) return d;
  call.epilogue = holder.args;
  call.a = data_of(a), call.b = data_of(b), call.d = data_of(d);
  call.a_stride_m = a.stride(m), call.a_stride_k = a.stride(ka);
  call.b_stride_k = b.stride(kb), call.b_stride_n = b.stride(n);
  call.d_stride_m = call.N, call.d_stride_n = 1;
  if (rows) {
    call.a_stride_batch = a.stride(0), call.b_stride_batch = b.stride(0), call.d_stride_batch = call.M * call.N;
  }
  if (packed) {
    require(!rows, op, ": expected packed to be None for a batch of matrices");
    fill_packed(call, *packed, op);
  }
  fill_tf32(call, backend == Backend::kCuda, Fp32Use::kMatmul);
  run_algorithm(algorithms<GemmCall>(backend), call, backend, algo, op, a);
  return d;
}

}  // namespace fastconv::ops
