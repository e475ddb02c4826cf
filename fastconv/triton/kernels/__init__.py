"""The Triton kernels. Tensors are x, w, y; strides are in elements; ACC is the type that sums are taken in."""
