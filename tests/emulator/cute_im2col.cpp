// CUTLASS's and CuTe's own corners, coordinates and offsets of im2col loads, for test_hopper_layouts.py. Compiled by
// the host compiler against the headers of the nvidia-cutlass package; shares no code with this project.
#include <cuda_runtime.h>

#include <cute/tensor.hpp>
// After tensor.hpp, which they need.
#include <cutlass/half.h>
#include <cute/atom/copy_traits_sm90_im2col.hpp>
#include <cutlass/conv/collective/detail.hpp>
#include <cutlass/conv/convnd_problem_shape.hpp>

using namespace cute;

// A forward convolution: N, H, W, C, K, R, S, then stride, padding before, padding after, dilation, height first.
// Corners: lower, upper, width first. Loads: for each (output pixel, tap) w, h, n, offset_w, offset_h.
// Returns the number of output pixels.
extern "C" int cutlass_im2col(const int* g, int* corners, int* loads) {
  namespace conv = cutlass::conv;
  using Shape = conv::ConvProblemShape<conv::Operator::kFprop, 2>;
  const int n = g[0], h = g[1], w = g[2], c = g[3], k = g[4], r = g[5], s = g[6];
  const Shape problem(conv::Mode::kCrossCorrelation, {n, h, w, c}, {k, r, s, c}, {g[9], g[10]}, {g[11], g[12]},
                      {g[7], g[8]}, {g[13], g[14]}, 1);
  const auto lower = conv::collective::detail::compute_lower_corner_whd(problem);
  const auto upper = conv::collective::detail::compute_upper_corner_whd(problem);
  const auto lower_srt = conv::collective::detail::compute_lower_srt(problem);
  for (int d = 0; d < 2; ++d) corners[d] = lower[d], corners[2 + d] = upper[d];

  const auto tensor = make_tensor(make_gmem_ptr(static_cast<cutlass::half_t*>(nullptr)), make_shape(c, w, h, n),
                                  make_stride(_1{}, int64_t(c), int64_t(c) * w, int64_t(c) * w * h));
  const auto tile =
      make_layout(make_shape(make_shape(_64{}, _128{}), _1{}), make_stride(make_stride(E<1>{}, E<0>{}), _0{}));
  const auto made = detail::make_im2col_tma_copy_desc(
      tensor, 64u, 128u, Swizzle<3, 4, 3>{}, tile, make_shape(lower[0], lower[1]), make_shape(upper[0], upper[1]),
      make_shape(g[10], g[9]), make_shape(g[12], g[11]), make_shape(g[8], g[7]), make_shape(lower_srt[0], lower_srt[1]),
      make_shape(g[14], g[13]));
  const auto coordinates = get<1>(made);
  for (int m = 0; m < size<0>(coordinates); ++m) {
    for (int tap = 0; tap < r * s; ++tap) {
      const auto at = coordinates(m, make_coord(0, tap % s, tap / s));
      const auto base = get<1>(at);
      const auto offset = get<3>(at);
      for (const int value :
           {int(get<0>(base)), int(get<1>(base)), int(get<2>(at)), int(get<0>(offset)), int(get<1>(offset))}) {
        *loads++ = value;
      }
    }
  }
  return size<0>(coordinates);
}
