// conv2d from its definition: one vector of output channels times a few pixels, straight from x in whatever layout it
// has, products with padding skipped, and the scalar epilogue of common/epilogue.h. No tiles, bands or staging: what
// the engine is checked against, and quick where a problem is too small for them.
#pragma once

#include "conv_implicit_gemm.h"

namespace fastconv::cpu::FASTCONV_ISA {

// kPixels pixels from (n, p, q) on of one vector of group g's channels from k on.
template <class T, int kPixels>
void direct_pixels(const Conv2dCall& call, const accumulate_t<T>* panel, int64_t width, int64_t n, int64_t g, int64_t k,
                   int64_t p, int64_t q) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  const ConvProblem& c = call.problem;
  const int64_t C = c.channels_per_group(), K = c.filters_per_group();
  const TensorView& x = call.x;
  V acc[kPixels];
  for (int i = 0; i < kPixels; ++i) acc[i] = V(Acc(0));
  for (int64_t r = 0; r < c.R; ++r) {
    const int64_t h = p * c.stride_h - c.pad_top + r * c.dilation_h;
    if (h < 0 || h >= c.H) continue;
    for (int64_t s = 0; s < c.S; ++s) {
      const Acc* w = panel + (r * c.S + s) * C * width;
      const int64_t column = q * c.stride_w - c.pad_left + s * c.dilation_w;
      const T* src = x.as<const T>() + x.offset(n, g * C, h, column);
      bool inside[kPixels];
      for (int i = 0; i < kPixels; ++i) inside[i] = column + i * c.stride_w >= 0 && column + i * c.stride_w < c.W;
      for (int64_t ch = 0; ch < C; ++ch, w += width, src += x.stride[1]) {
        const V filter = V::load(w);
        for (int i = 0; i < kPixels; ++i)
          if (inside[i]) acc[i] = fma(V(to_accumulate(src[i * c.stride_w * x.stride[3]])), filter, acc[i]);
      }
    }
  }
  for (int i = 0; i < kPixels; ++i) {
    Acc lanes[V::kLanes];
    acc[i].store(lanes);
    for (int64_t j = 0; j < V::kLanes && k + j < K; ++j) {
      const int64_t channel = g * K + k + j;
      call.y.as<T>()[call.y.offset(n, channel, p, q + i)] =
          apply_epilogue<T>(call.epilogue, lanes[j], n, channel, p, q + i);
    }
  }
}

template <class T>
void direct_row(const Conv2dCall& call, const void* packed, int64_t n, int64_t g, int64_t k, int64_t p) {
  using Acc = accumulate_t<T>;
  const ConvProblem& c = call.problem;
  const int64_t K = c.filters_per_group(), panel = k / kPanelWidth<Acc>;
  const int64_t width = panel_vectors<Acc>(K, panel) * Vec<Acc>::kLanes;
  const Acc* filters = static_cast<const Acc*>(packed) + g * packed_elements<Acc>(K, c.gemm_k()) +
                       panel * kPanelWidth<Acc> * c.gemm_k() + (k - panel * kPanelWidth<Acc>);
  int64_t q = 0;
  for (; q + 4 <= c.Q; q += 4) direct_pixels<T, 4>(call, filters, width, n, g, k, p, q);
  for (; q < c.Q; ++q) direct_pixels<T, 1>(call, filters, width, n, g, k, p, q);
}

inline void conv2d_direct(const Conv2dCall& call, const CallContext& context) {
  const ConvProblem& c = call.problem;
  if (c.N * c.K * c.P * c.Q == 0) return;
  const void* packed = conv2d_panels(call, context);
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int64_t kLanes = Vec<accumulate_t<T>>::kLanes;
    const int64_t K = c.filters_per_group(), vectors = ceil_div(K, kLanes);
    const int64_t grain = kThreadWork / (c.Q * kLanes * larger(c.gemm_k(), 1)) + 1;
    parallel_for(c.N * c.P * c.groups * vectors, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i / (c.groups * vectors), rest = i % (c.groups * vectors);
        direct_row<T>(call, packed, row / c.P, rest / vectors, rest % vectors * kLanes, row % c.P);
      }
    });
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
