// Scratch memory for kernels, from torch's allocator, and what the largest call has taken. Small pieces for the CPU's
// kernels lie in the object itself: five tensors were half the time of a small convolution.
#pragma once

#include "tensor_utils.h"

namespace fastconv::ops {

class TorchWorkspace final : public Workspace {
 public:
  TorchWorkspace(const Tensor& like, bool for_cpu) : like_(like), near_left_(for_cpu ? kNearBytes : 0) {}
  ~TorchWorkspace();
  TorchWorkspace(const TorchWorkspace&) = delete;
  TorchWorkspace& operator=(const TorchWorkspace&) = delete;

  void* allocate(size_t bytes) override;

 private:
  static constexpr size_t kNearBytes = 16 << 10;

  const Tensor& like_;  // gives the device
  size_t near_left_;
  std::vector<Tensor> blocks_;
  size_t bytes_ = 0;
  alignas(64) char near_[kNearBytes];
};

}  // namespace fastconv::ops
