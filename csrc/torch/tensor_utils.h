// Between torch's stable tensors and the views that kernels take: types, memory formats, allocation.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "../common/calls.h"
#include "errors.h"

namespace fastconv::ops {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Ints = std::vector<int64_t>;

// The element type; throws NotServed for those that no kernel has.
DType dtype_of(const Tensor& t, const char* op);
int32_t torch_dtype(DType dtype);

// Throws std::invalid_argument unless both are on one device.
void require_same_device(const Tensor& a, const Tensor& b, const char* op);

// "[1, 3, 224, 224]" in messages, put together only when one is printed.
struct ShapeText {
  const Tensor& tensor;
};
std::ostream& operator<<(std::ostream& out, const ShapeText& shape);
inline ShapeText shape_text(const Tensor& t) { return {t}; }

// torch's suggest_memory_format() == channels_last, for four dimensions: extents of 1 and 0 make no format.
bool is_channels_last(const Tensor& t);

enum class MemoryFormat { kContiguous, kChannelsLast };
inline MemoryFormat format_of(const Tensor& t) {
  return is_channels_last(t) ? MemoryFormat::kChannelsLast : MemoryFormat::kContiguous;
}

// Uninitialised, on `like`'s device.
Tensor empty(const Ints& size, int32_t torch_dtype, MemoryFormat format, const Tensor& like);
Tensor empty_strided(const Ints& size, const Ints& stride, int32_t torch_dtype, const Tensor& like);
inline Tensor empty(const Ints& size, DType dtype, MemoryFormat format, const Tensor& like) {
  return empty(size, torch_dtype(dtype), format, like);
}

// No gaps and no overlaps: some order of the dimensions is contiguous.
bool is_dense(const Tensor& t);
bool same_strides(const Tensor& a, const Tensor& b);
bool same_sizes(const Tensor& a, const Tensor& b);
// `t` itself when its strides are those of `like`, a copy that has them otherwise. The sizes are equal.
Tensor with_strides_of(const Tensor& t, const Tensor& like);

inline void* data_of(const Tensor& t) { return const_cast<void*>(t.const_data_ptr()); }

// A four-dimensional tensor as kernels see it.
TensorView view_of(const Tensor& t, DType dtype);

// A vector in the accumulate type and contiguous: itself when it is that already. Null when absent. The result, kept
// by the caller for the duration of the call, owns the memory.
OptionalTensor accumulate_vector(const OptionalTensor& t, DType dtype, int64_t size, const Tensor& like, const char* op,
                                 const char* name);

inline const void* data_or_null(const OptionalTensor& t) { return t ? t->const_data_ptr() : nullptr; }

}  // namespace fastconv::ops
