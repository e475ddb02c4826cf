#include "tensor_utils.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <numeric>

#include "../plan/recorder.h"

namespace fastconv::ops {

namespace {

int32_t device_type_of(const Tensor& t) {
  int32_t type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &type));
  return type;
}

// Memory for a large tensor is fresh on every call, and the system hands it out page by page at the first touch: an
// eighth of the CPU time of MobileNetV2's training step with pages of 4 KiB. Where 2 MiB pages are left to programs
// that ask for them (`madvise`), this asks. Memory that is in use already stays as it is.
void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kPage = 2 << 20;
  constexpr size_t kLarge = 2 * kPage;
  if (bytes < kLarge) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // refused: nothing lost
#endif
}

Ints contiguous_strides(const Ints& size) {
  Ints stride(size.size());
  int64_t running = 1;
  for (int64_t d = static_cast<int64_t>(size.size()) - 1; d >= 0; --d) {
    stride[d] = running;
    running *= std::max<int64_t>(size[d], 1);
  }
  return stride;
}

// Dimensions by decreasing stride. Those of extent 1 or 0 have no say, and go where they stand.
std::vector<int> memory_order(const Tensor& t) {
  const auto size = t.sizes(), stride = t.strides();
  std::vector<int> order(size.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return stride[a] != stride[b] ? stride[a] > stride[b] : size[a] > size[b]; });
  return order;
}

}  // namespace

int32_t torch_dtype(DType dtype) {
  static const int32_t codes[] = {aoti_torch_dtype_float32(), aoti_torch_dtype_float64(), aoti_torch_dtype_float16(),
                                  aoti_torch_dtype_bfloat16()};
  return codes[static_cast<int>(dtype)];
}

DType dtype_of(const Tensor& t, const char* op) {
  int32_t code;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &code));
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    if (code == torch_dtype(dtype)) return dtype;
  }
  throw NotServed(concat(op, ": every algorithm needs dtype float32, float64, float16 or bfloat16"));
}

void require_same_device(const Tensor& a, const Tensor& b, const char* op) {
  require(device_type_of(a) == device_type_of(b) && a.get_device_index() == b.get_device_index(), op,
          ": expected all tensors to be on the same device");
}

std::ostream& operator<<(std::ostream& out, const ShapeText& shape) {
  const char* separator = "[";
  for (const int64_t extent : shape.tensor.sizes()) {
    out << separator << extent;
    separator = ", ";
  }
  return out << (shape.tensor.dim() == 0 ? "[]" : "]");
}

bool is_channels_last(const Tensor& t) {
  const auto size = t.sizes(), stride = t.strides();
  if (size.size() != 4 || stride[1] == 0) return false;
  int64_t least = 0;
  for (const int d : {1, 3, 2, 0}) {
    if (size[d] == 0 || stride[d] < least) return false;
    // (N, 1, 1, 1) with equal strides is either format: torch calls it contiguous.
    if (d == 0 && least == stride[1]) return false;
    least = stride[d] * std::max<int64_t>(size[d], 1);
  }
  return true;
}

Tensor empty_strided(const Ints& size, const Ints& stride, int32_t torch_dtype, const Tensor& like) {
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(size.size()), size.data(), stride.data(),
                                                  torch_dtype, device_type_of(like), like.get_device_index(), &handle));
  Tensor t(handle);
  if (t.is_cpu()) prefer_huge_pages(data_of(t), static_cast<size_t>(t.numel()) * static_cast<size_t>(t.element_size()));
  return t;
}

Tensor empty(const Ints& size, int32_t torch_dtype, MemoryFormat format, const Tensor& like) {
  if (format == MemoryFormat::kContiguous) return empty_strided(size, contiguous_strides(size), torch_dtype, like);
  const int64_t C = size[1], H = size[2], W = size[3];
  return empty_strided(size, {C * H * W, 1, C * W, C}, torch_dtype, like);
}

bool is_dense(const Tensor& t) {
  const auto size = t.sizes(), stride = t.strides();
  const std::vector<int> order = memory_order(t);
  int64_t running = 1;
  for (auto d = order.rbegin(); d != order.rend(); ++d) {
    if (size[*d] == 0) return true;
    if (size[*d] == 1) continue;
    if (stride[*d] != running) return false;
    running *= size[*d];
  }
  return true;
}

bool same_sizes(const Tensor& a, const Tensor& b) {
  const auto x = a.sizes(), y = b.sizes();
  return x.size() == y.size() && std::equal(x.begin(), x.end(), y.begin());
}

bool same_strides(const Tensor& a, const Tensor& b) {
  const auto size = a.sizes(), x = a.strides(), y = b.strides();
  for (size_t d = 0; d < size.size(); ++d) {
    if (size[d] > 1 && x[d] != y[d]) return false;
  }
  return true;
}

Tensor with_strides_of(const Tensor& t, const Tensor& like) {
  if (same_strides(t, like)) return t;
  const auto size = like.sizes(), stride = like.strides();
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &dtype));
  Tensor copy = empty_strided(Ints(size.begin(), size.end()), Ints(stride.begin(), stride.end()), dtype, like);
  TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(copy.get(), t.get(), 0));
  return copy;
}

TensorView view_of(const Tensor& t, DType dtype) {
  TensorView view;
  view.data = data_of(t);
  view.dtype = dtype;
  const auto size = t.sizes(), stride = t.strides();
  for (int d = 0; d < 4; ++d) {
    view.size[d] = size[d];
    view.stride[d] = stride[d];
  }
  return view;
}

OptionalTensor accumulate_vector(const OptionalTensor& t, DType dtype, int64_t size, const Tensor& like, const char* op,
                                 const char* name) {
  if (!t) return std::nullopt;
  require_same_device(*t, like, op);
  require(t->dim() == 1 && t->size(0) == size, op, ": expected ", name, " to have shape [", size, "], but got ",
          shape_text(*t));
  const DType wanted = accumulate_dtype(dtype);
  plan::Recorder* const recorder = plan::Recorder::current();
  const bool converted = dtype_of(*t, op) == wanted;
  if (converted && (size <= 1 || t->stride(0) == 1)) {
    if (recorder) recorder->keep(*t);
    return t;
  }
  Tensor vector = empty({size}, wanted, MemoryFormat::kContiguous, *t);
  TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(vector.get(), t->get(), 0));
  if (recorder) recorder->keep(vector);
  return vector;
}

}  // namespace fastconv::ops
