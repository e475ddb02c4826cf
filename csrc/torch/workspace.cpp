#include "workspace.h"

#include <atomic>

#include "introspection.h"

namespace fastconv::ops {

namespace {
std::atomic<size_t> peak{0};
}  // namespace

TorchWorkspace::~TorchWorkspace() {
  size_t seen = peak.load(std::memory_order_relaxed);
  while (bytes_ > seen && !peak.compare_exchange_weak(seen, bytes_, std::memory_order_relaxed)) {
  }
}

void* TorchWorkspace::allocate(size_t bytes) {
  static const int32_t byte_type = aoti_torch_dtype_uint8();
  bytes_ += bytes;
  const size_t whole = (bytes + 63) / 64 * 64;
  if (whole <= near_left_) {
    near_left_ -= whole;
    return near_ + near_left_;
  }
  // torch aligns to 64 bytes on the CPU and to 512 on a GPU.
  blocks_.push_back(empty({static_cast<int64_t>(bytes)}, byte_type, MemoryFormat::kContiguous, like_));
  return data_of(blocks_.back());
}

size_t peak_workspace_bytes() { return peak.load(std::memory_order_relaxed); }
void reset_peak_workspace_bytes() { peak.store(0, std::memory_order_relaxed); }

}  // namespace fastconv::ops
