// The conv2d rows that call the GEMM: "im2col", with the windows written out in the workspace, and "pointwise", where
// there is nothing to write out.
#include "algorithms.h"
#include "conv2d_gemm.h"
#include "gemm_rows.h"
#include "kernels/im2col.cuh"

namespace fastconv::cuda {
namespace {

void run_gemm(const GemmCall& gemm, const CallContext& context) {
  select_algorithm(gemm_algorithms(), gemm, "gemm", "").run(gemm, context);
}

std::string pair_text(int64_t h, int64_t w) { return std::to_string(h) + "x" + std::to_string(w); }

// Reasons that hold for both rows.
Reasons common_reasons(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  Reasons reasons;
  if (p.scale_h != 1 || p.scale_w != 1) reasons.push_back("upsamples its input by " + pair_text(p.scale_h, p.scale_w));
  refuse_uneven_pixels(reasons, "y", call.y);
  refuse_uneven_pixels(reasons, "residual", call.epilogue.residual);
  refuse_uneven_pixels(reasons, "act_param", call.epilogue.full_param);
  return reasons;
}

bool outputs_are_even(const Conv2dCall& call) {
  const int64_t N = call.problem.N;
  return images_are_even(call.y, N) && images_are_even(call.epilogue.residual, N) &&
         images_are_even(call.epilogue.full_param, N);
}

// ---- im2col ----
constexpr int64_t kMaxColumnsBytes = int64_t{64} << 20;

int64_t row_bytes(const Conv2dCall& call) {
  return call.problem.Q * call.problem.gemm_k() * static_cast<int64_t>(dtype_size(call.dtype));
}

Reasons im2col_reasons(const Conv2dCall& call) {
  Reasons reasons = common_reasons(call);
  if (!call.w.is_nchw() && !call.w.is_nhwc()) {
    reasons.push_back("w is dense neither as KCRS nor as KRSC, but has strides " + std::to_string(call.w.stride[0]) +
                      ", " + std::to_string(call.w.stride[1]) + ", " + std::to_string(call.w.stride[2]) + ", " +
                      std::to_string(call.w.stride[3]));
  }
  if (row_bytes(call) > kMaxColumnsBytes) {
    reasons.push_back("the windows of one row of pixels take " + std::to_string(row_bytes(call) >> 20) +
                      " MiB, more than " + std::to_string(kMaxColumnsBytes >> 20));
  }
  return reasons;
}

// The parts that fill the workspace: whole images, or rows of one.
struct Im2colParts {
  int64_t images, rows;
};

Im2colParts im2col_parts(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  const int64_t rows = kMaxColumnsBytes / std::max<int64_t>(row_bytes(call), 1);
  return rows >= p.P ? Im2colParts{std::min(rows / p.P, p.N), p.P} : Im2colParts{1, rows};
}

template <class T>
void run_im2col_of(const Conv2dCall& call, const CallContext& context) {
  const ConvProblem& p = call.problem;
  const int64_t depth = p.gemm_k(), Kg = p.filters_per_group(), Cg = p.channels_per_group();
  const Im2colParts parts = im2col_parts(call);
  const int64_t elements = parts.images * parts.rows * p.Q * depth;
  T* columns = static_cast<T*>(context.workspace->allocate(static_cast<size_t>(elements) * sizeof(T)));
  // The matrix follows x: a row of it is a pixel's window in NHWC, one tap of all pixels in NCHW. The order within a
  // window follows w, which is read as it lies.
  const bool pixel_rows = call.x.stride[1] == 1 && call.x.stride[3] != 1;
  for (int64_t n = 0; n < p.N; n += parts.images) {
    const int64_t images = std::min(parts.images, p.N - n);
    for (int64_t row = 0; row < p.P; row += parts.rows) {
      const int64_t rows = std::min(parts.rows, p.P - row), pixels = rows * p.Q;
      const Im2colLayout layout{pixels * depth, pixel_rows ? 1 : pixels, pixel_rows ? depth : 1, call.w.is_nchw()};
      const bool merged = pixel_rows && rows == p.P && outputs_are_even(call);
      for (int64_t group = 0; group < p.groups; ++group) {
        ConvProblem windows = p;
        windows.N = images, windows.C = Cg, windows.P = rows;
        const TensorView x = part_of(call.x, {n, images, group * Cg, Cg, 0, p.H});
        LaunchConfig config;
        config.stream = context.stream;
        config.footprint.reads("x", x).scratch("columns", columns,
                                               static_cast<size_t>(images * pixels * depth) * sizeof(T));
        launch_im2col<T>(windows, row, x, layout, columns, config);

        GemmCall gemm = gemm_into(call, {n, images, group * Kg, Kg, row, rows}, merged);
        gemm.K = depth;
        gemm.a = columns;
        gemm.a_stride_batch = layout.stride_image, gemm.a_stride_m = layout.stride_pixel;
        gemm.a_stride_k = layout.stride_row;
        gemm.b = call.w.as<const T>() + group * Kg * call.w.stride[0];
        gemm.b_stride_k = 1, gemm.b_stride_n = call.w.stride[0];
        run_gemm(gemm, context);
      }
    }
  }
}

void run_im2col(const Conv2dCall& call, const CallContext& context) {
  const ConvProblem& p = call.problem;
  if (p.N == 0 || p.K == 0 || p.P == 0 || p.Q == 0) return;
  visit_element_size(call.dtype, [&](auto tag) { run_im2col_of<typename decltype(tag)::type>(call, context); });
}

bool never(const Conv2dCall&) { return false; }

// ---- pointwise ----
bool merges_images(const Conv2dCall& call) { return images_are_even(call.x, call.problem.N) && outputs_are_even(call); }

GemmCall pointwise_gemm(const Conv2dCall& call, int64_t group) {
  const ConvProblem& p = call.problem;
  const int64_t Kg = p.filters_per_group(), Cg = p.channels_per_group();
  const int64_t element = static_cast<int64_t>(dtype_size(call.dtype));
  const bool merged = merges_images(call);
  GemmCall gemm = gemm_into(call, {0, p.N, group * Kg, Kg, 0, p.P}, merged);
  const TensorView x = matrix_of(part_of(call.x, {0, p.N, group * Cg, Cg, 0, p.H}), merged);
  gemm.K = Cg;
  gemm.a = x.data, gemm.a_stride_batch = x.stride[0], gemm.a_stride_m = x.stride[2], gemm.a_stride_k = x.stride[1];
  gemm.b = static_cast<const char*>(call.w.data) + group * Kg * call.w.stride[0] * element;
  gemm.b_stride_k = call.w.stride[1], gemm.b_stride_n = call.w.stride[0];
  return gemm;
}

Reasons pointwise_reasons(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  Reasons reasons = common_reasons(call);
  refuse_uneven_pixels(reasons, "x", call.x);
  if (p.R != 1 || p.S != 1) reasons.push_back("the filter is " + pair_text(p.R, p.S) + ", not 1x1");
  if (p.stride_h != 1 || p.stride_w != 1) reasons.push_back("stride is " + pair_text(p.stride_h, p.stride_w));
  if (p.has_padding()) {
    reasons.push_back("padding is " + pair_text(p.pad_top, p.pad_bottom) + " and " +
                      pair_text(p.pad_left, p.pad_right));
  }
  if (!reasons.empty()) return reasons;
  for (const std::string& reason : gemm_extent_reasons(pointwise_gemm(call, 0)))
    reasons.push_back("as GEMM, " + reason);
  return reasons;
}

// As the row of the GEMM's table that will serve it, for every group.
Prediction predict_pointwise(const Conv2dCall& call) {
  const GemmCall gemm = pointwise_gemm(call, 0);
  const Algorithm<GemmCall>* row = choose_algorithm(gemm_algorithms(), gemm);
  if (!row || !row->predict) return {};
  Prediction p = row->predict(gemm);
  p.seconds *= static_cast<double>(call.problem.groups);
  return p;
}

// In NHWC; the GEMM does not write channel planes coalesced, which the implicit GEMM does.
bool pointwise_preferred(const Conv2dCall& call) {
  return call.problem.groups == 1 && call.x.is_nhwc() && call.y.is_nhwc();
}

void run_pointwise(const Conv2dCall& call, const CallContext& context) {
  const ConvProblem& p = call.problem;
  if (p.N == 0 || p.K == 0 || p.P == 0 || p.Q == 0) return;
  for (int64_t group = 0; group < p.groups; ++group) run_gemm(pointwise_gemm(call, group), context);
}

}  // namespace

const Algorithm<Conv2dCall> kConv2dIm2col = {
    "im2col", "windows written out in at most 64 MiB of workspace, then GEMM; for comparison", im2col_reasons, never,
    run_im2col};

const Algorithm<Conv2dCall> kConv2dPointwise = {
    "pointwise",       "1x1 filter: a GEMM over the pixels of x where they lie",
    pointwise_reasons, pointwise_preferred,
    run_pointwise,     seconds_of<Conv2dCall, predict_pointwise>,
    predict_pointwise};

}  // namespace fastconv::cuda
