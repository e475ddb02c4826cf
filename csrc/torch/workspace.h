// Scratch memory for kernels, from torch's allocator, and what the largest call has taken.
#pragma once

#include "tensor_utils.h"

namespace fastconv::ops {

class TorchWorkspace final : public Workspace {
 public:
  explicit TorchWorkspace(const Tensor& like) : like_(like) {}
  ~TorchWorkspace();
  TorchWorkspace(const TorchWorkspace&) = delete;
  TorchWorkspace& operator=(const TorchWorkspace&) = delete;

  void* allocate(size_t bytes) override;

 private:
  const Tensor& like_;  // gives the device
  std::vector<Tensor> blocks_;
  size_t bytes_ = 0;
};

}  // namespace fastconv::ops
