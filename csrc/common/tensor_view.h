// A four-dimensional tensor as kernels see it: a pointer, and extents and strides in torch's order N, C, H, W, whatever
// the memory format is. Strides are in elements. A null `data` means that the tensor is absent.
#pragma once

#include "dtypes.h"

namespace fastconv {

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t size[4] = {0, 0, 0, 0};
  int64_t stride[4] = {0, 0, 0, 0};

  FC_HOST_DEVICE int64_t offset(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return n * stride[0] + c * stride[1] + h * stride[2] + w * stride[3];
  }
  template <class T>
  FC_HOST_DEVICE T* as() const {
    return static_cast<T*>(data);
  }
  FC_HOST_DEVICE int64_t numel() const { return size[0] * size[1] * size[2] * size[3]; }
  FC_HOST_DEVICE bool present() const { return data != nullptr; }
  // Dense in the NHWC order (extents of 1 have no say).
  FC_HOST_DEVICE bool is_nhwc() const {
    return (size[1] == 1 || stride[1] == 1) && (size[3] == 1 || stride[3] == size[1]) &&
           (size[2] == 1 || stride[2] == size[1] * size[3]) &&
           (size[0] == 1 || stride[0] == size[1] * size[2] * size[3]);
  }
  // Dense in the NCHW order.
  FC_HOST_DEVICE bool is_nchw() const {
    return (size[3] == 1 || stride[3] == 1) && (size[2] == 1 || stride[2] == size[3]) &&
           (size[1] == 1 || stride[1] == size[2] * size[3]) &&
           (size[0] == 1 || stride[0] == size[1] * size[2] * size[3]);
  }
};

}  // namespace fastconv
