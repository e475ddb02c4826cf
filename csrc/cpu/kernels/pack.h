// Packed filters, the one format of the convolution engine and of GEMM's B:
//
//   group | panel of kPanelWidth output channels | reduction row (tap, c) | channel in the panel
//
// in the accumulate type, 64-byte rows; the last panel of a group is one vector wide if that suffices, and filled with
// zeros. A panel is read front to back by the microkernel.
#pragma once

#include "microkernel.h"

namespace fastconv::cpu::FASTCONV_ISA {

// Filters in any layout: element (k, c, r, s) at data + k * stride_k + c * stride_c + r * stride_r + s * stride_s, in
// elements; strides may be negative (flipped filters) or skip taps (phases).
struct FilterView {
  const void* data = nullptr;
  int64_t stride_k = 0, stride_c = 0;
  int64_t R = 1, S = 1;
  int64_t stride_r = 0, stride_s = 0;
  int64_t stride_group = 0;
};

template <class Acc>
FC_INLINE int64_t panel_count(int64_t K) {
  return (K + kPanelWidth<Acc> - 1) / kPanelWidth<Acc>;
}
// Vectors in panel `panel` of K channels.
template <class Acc>
FC_INLINE int panel_vectors(int64_t K, int64_t panel) {
  return K - panel * kPanelWidth<Acc> > Vec<Acc>::kLanes ? 2 : 1;
}
// Elements of one group's packed filters.
template <class Acc>
FC_INLINE int64_t packed_elements(int64_t K, int64_t reduction) {
  constexpr int64_t kLanes = Vec<Acc>::kLanes;
  return (K + kLanes - 1) / kLanes * kLanes * reduction;
}

// Where a view's taps go among the packed ones: (r, s) -> r * step_r + s * step_s + first.
struct PackedTaps {
  int64_t count = 0;  // of packed taps
  int64_t first = 0, step_r = 0, step_s = 1;
  bool add = false;  // onto what is there: filters that fall on the same tap are summed (upsampling by phases)
};

// Packs one panel of a group of K filters with C channels; `out` is the group's start.
template <class T>
void pack_panel(const FilterView& w, int64_t K, int64_t C, int64_t panel, const PackedTaps& taps,
                accumulate_t<T>* out) {
  using Acc = accumulate_t<T>;
  constexpr int64_t kWidth = kPanelWidth<Acc>, kRows = 32;
  alignas(64) Acc piece[kRows * kWidth];
  const int64_t width = panel_vectors<Acc>(K, panel) * Vec<Acc>::kLanes;
  const int64_t lanes = K - panel * kWidth < width ? K - panel * kWidth : width;
  for (int64_t tap = 0; tap < w.R * w.S; ++tap) {
    const int64_t r = tap / w.S, s = tap % w.S;
    const T* src = static_cast<const T*>(w.data) + panel * kWidth * w.stride_k + r * w.stride_r + s * w.stride_s;
    Acc* dst = out + panel * kWidth * taps.count * C + (taps.first + r * taps.step_r + s * taps.step_s) * C * width;
    for (int64_t c = 0; c < C; c += kRows, dst += kRows * width) {
      const int64_t rows = C - c < kRows ? C - c : kRows;
      Acc* to = taps.add ? piece : dst;
      load_pixels(src + c * w.stride_c, w.stride_c, w.stride_k, rows, lanes, to, width);
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t k = lanes; k < width; ++k) to[i * width + k] = 0;
        for (int64_t k = 0; taps.add && k < width; ++k) dst[i * width + k] += piece[i * width + k];
      }
    }
  }
}

// All groups of filters, in parallel, with reduction order (r, s, c).
template <class T>
void pack_filter(const FilterView& w, int64_t groups, int64_t K, int64_t C, void* packed) {
  using Acc = accumulate_t<T>;
  const int64_t panels = panel_count<Acc>(K), reduction = w.R * w.S * C;
  // About 64 KiB a task: less is not worth another thread.
  const int64_t grain = 16384 / (reduction * kPanelWidth<Acc> + 1) + 1;
  parallel_for(groups * panels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t g = i / panels;
      FilterView group = w;
      group.data = static_cast<const T*>(w.data) + g * w.stride_group;
      pack_panel<T>(group, K, C, i % panels, {w.R * w.S, 0, w.S, 1, false},
                    static_cast<Acc*>(packed) + g * packed_elements<Acc>(K, reduction));
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
