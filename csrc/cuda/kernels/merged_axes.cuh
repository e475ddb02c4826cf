// Elementwise loops over operands of any strides: axes that lie behind one another in every operand are merged, so that
// dense tensors of one layout become a single run, whatever that layout is.
#pragma once

#include "image_index.cuh"

namespace fastconv::cuda {

template <int kOperands>
struct MergedAxes {
  static constexpr int kMaxAxes = 4;
  struct Axis {
    int64_t size;
    int64_t stride[kOperands];  // in elements; operand 0 decides the order
  };
  int count = 0;
  Axis axis[kMaxAxes];  // innermost first

  // An axis of the loop, of any size but 0. Add all, then merge().
  void add(const Axis& added) {
    if (added.size == 1) return;
    int at = count++;
    for (; at > 0 && axis[at - 1].stride[0] > added.stride[0]; --at) axis[at] = axis[at - 1];
    axis[at] = added;
  }
  void merge() {
    if (count == 0) {
      axis[count++] = {1, {}};
      for (int64_t& stride : axis[0].stride) stride = 1;
    }
    int last = 0;
    for (int d = 1; d < count; ++d) {
      bool continues = true;
      for (int i = 0; i < kOperands; ++i) {
        continues = continues && axis[d].stride[i] == axis[last].stride[i] * axis[last].size;
      }
      if (continues) {
        axis[last].size *= axis[d].size;
      } else {
        axis[++last] = axis[d];
      }
    }
    count = last + 1;
  }
  int64_t numel() const {
    int64_t product = 1;
    for (int d = 0; d < count; ++d) product *= axis[d].size;
    return product;
  }
  // Whether `operand` can be moved in packs along the innermost axis; `data` is its first element.
  bool in_packs(int operand, const void* data, int pack, int pack_bytes) const {
    if (axis[0].stride[operand] != 1 || axis[0].size % pack != 0) return false;
    for (int d = 1; d < count; ++d) {
      if (axis[d].stride[operand] % pack != 0) return false;
    }
    return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(pack_bytes) == 0;
  }
  // Whether `operand` has one value for all elements of a pack.
  bool constant_along_packs(int operand) const { return axis[0].stride[operand] == 0; }
};

// Numbers the packs of the merged axes and finds their offsets.
template <int kOperands>
struct AxisIndex {
  static constexpr int kMaxAxes = MergedAxes<kOperands>::kMaxAxes;
  int64_t count = 0;  // packs
  int axes = 1;
  Divider size[kMaxAxes - 1];
  int64_t stride[kMaxAxes][kOperands] = {};

  AxisIndex() = default;
  AxisIndex(const MergedAxes<kOperands>& merged, int pack) : count(merged.numel() / pack), axes(merged.count) {
    for (int d = 0; d < axes; ++d) {
      if (d < kMaxAxes - 1) size[d] = Divider(d == 0 ? merged.axis[0].size / pack : merged.axis[d].size, count);
      for (int i = 0; i < kOperands; ++i) stride[d][i] = merged.axis[d].stride[i] * (d == 0 ? pack : 1);
    }
  }
  __device__ __forceinline__ void locate(int64_t item, int64_t (&offset)[kOperands]) const {
    int64_t index[kMaxAxes] = {item};
#pragma unroll
    for (int d = 0; d + 1 < kMaxAxes; ++d) {
      if (d + 1 < axes) index[d + 1] = size[d].divide(index[d], index[d]);
    }
#pragma unroll
    for (int i = 0; i < kOperands; ++i) {
      offset[i] = index[0] * stride[0][i];
#pragma unroll
      for (int d = 1; d < kMaxAxes; ++d) {
        if (d < axes) offset[i] += index[d] * stride[d][i];
      }
    }
  }
};

}  // namespace fastconv::cuda
