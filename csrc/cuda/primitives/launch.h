// Launching a kernel: on the GPU through cudaLaunchKernelEx, under the emulator as a run of fibers. Never <<<>>>,
// which the host compiler cannot parse, and which drops errors.
#pragma once

#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "../../common/epilogue.h"
#include "cuda.h"
#if defined(FASTCONV_EMULATED)
#include "../../emulator/runtime.h"
#endif

namespace fastconv::cuda {

// The memory a kernel may touch: what the emulator holds it to, and nothing at all on a GPU. A strided view counts from
// its lowest to its highest element, gaps included.
class Footprint {
 public:
#if defined(FASTCONV_EMULATED)
  Footprint& reads(const char* name, const void* data, size_t bytes) { return add(name, data, bytes, false); }
  Footprint& writes(const char* name, const void* data, size_t bytes) { return add(name, data, bytes, true); }
  // Memory to be written whose content means nothing before this launch: the first launch that uses a workspace says
  // so, and reading what no kernel has written is reported, here and in the launches that follow.
  Footprint& scratch(const char* name, const void* data, size_t bytes) {
    if (data && bytes) ranges_.push_back({data, bytes, name, true, true});
    return *this;
  }
  Footprint& reads(const char* name, const TensorView& view) { return add(name, view, false); }
  Footprint& writes(const char* name, const TensorView& view) { return add(name, view, true); }
  const std::vector<emulator::MemoryRange>& ranges() const { return ranges_; }

 private:
  Footprint& add(const char* name, const void* data, size_t bytes, bool writable) {
    if (data && bytes) ranges_.push_back({data, bytes, name, writable});
    return *this;
  }
  Footprint& add(const char* name, const TensorView& view, bool writable) {
    if (!view.present() || view.numel() == 0) return *this;
    int64_t low = 0, high = 0;
    for (int i = 0; i < 4; ++i) {
      const int64_t last = (view.size[i] - 1) * view.stride[i];
      (last < 0 ? low : high) += last;
    }
    const int64_t element = static_cast<int64_t>(dtype_size(view.dtype));
    return add(name, static_cast<const char*>(view.data) + low * element,
               static_cast<size_t>((high - low + 1) * element), writable);
  }
  std::vector<emulator::MemoryRange> ranges_;
#else
  Footprint& reads(const char*, const void*, size_t) { return *this; }
  Footprint& writes(const char*, const void*, size_t) { return *this; }
  Footprint& scratch(const char*, const void*, size_t) { return *this; }
  Footprint& reads(const char*, const TensorView&) { return *this; }
  Footprint& writes(const char*, const TensorView&) { return *this; }
#endif

 public:
  // The epilogue's vectors (`channels` elements each) and tensors.
  Footprint& reads(const EpilogueArgs& e, DType dtype, int64_t channels) {
    const size_t bytes = static_cast<size_t>(channels) * dtype_size(accumulate_dtype(dtype));
    reads("bias", e.bias, bytes).reads("scale", e.scale, bytes).reads("shift", e.shift, bytes);
    return reads("act_param", e.channel_param, bytes).reads("residual", e.residual).reads("act_param", e.full_param);
  }
};

struct LaunchConfig {
  dim3 grid, block;
  dim3 cluster;  // blocks that run together, from sm_90 on; divides the grid
  size_t dynamic_shared_bytes = 0;
  void* stream = nullptr;  // cudaStream_t
  Footprint footprint;
};

inline std::string describe(const LaunchConfig& c) {
  const auto extent = [](const dim3& d) {
    return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
  };
  const bool clusters = c.cluster.x * c.cluster.y * c.cluster.z > 1;
  return "grid " + extent(c.grid) + (clusters ? " in clusters of " + extent(c.cluster) : "") + ", block " +
         extent(c.block) + ", " + std::to_string(c.dynamic_shared_bytes) + " bytes of dynamic shared memory";
}

// Start of the block's dynamic shared memory: the one place that spells it.
__device__ __forceinline__ unsigned char* dynamic_shared_memory() {
#if defined(FASTCONV_EMULATED)
  return emulator::dynamic_shared_memory();
#else
  extern __shared__ __align__(1024) unsigned char fastconv_dynamic_shared_memory[];
  return fastconv_dynamic_shared_memory;
#endif
}

#if defined(FASTCONV_EMULATED)

template <class... Params, class... Args>
void launch(const std::string& name, const LaunchConfig& config, void (*kernel)(Params...), Args... args) {
  auto body = [=] { kernel(args...); };
  const emulator::LaunchShape shape{reinterpret_cast<const void*>(kernel),
                                    config.grid,
                                    config.block,
                                    config.cluster,
                                    config.dynamic_shared_bytes,
                                    config.footprint.ranges()};
  const auto reports =
      emulator::run(name.c_str(), shape, [](void* f) { (*static_cast<decltype(body)*>(f))(); }, &body, sizeof body);
  if (!reports.empty()) {
    throw emulator::EmulationError(emulator::join(reports) + "\n  launched with " + describe(config));
  }
}

#else

inline void check(cudaError_t status, const std::string& name, const LaunchConfig& config) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();  // else torch's next launch would report it as its own
  throw std::runtime_error(name + ": " + cudaGetErrorName(status) + ": " + cudaGetErrorString(status) + " (" +
                           describe(config) + ")");
}

template <class... Params, class... Args>
void launch(const std::string& name, const LaunchConfig& config, void (*kernel)(Params...), Args... args) {
  // More than 48 KiB must be asked for, kernel by kernel; static shared memory, which the host does not see, counts
  // too.
  if (config.dynamic_shared_bytes > (32u << 10)) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(config.dynamic_shared_bytes)),
          name, config);
  }
  cudaLaunchConfig_t launch_config = {};
  launch_config.gridDim = config.grid;
  launch_config.blockDim = config.block;
  launch_config.dynamicSmemBytes = config.dynamic_shared_bytes;
  launch_config.stream = static_cast<cudaStream_t>(config.stream);
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {config.cluster.x, config.cluster.y, config.cluster.z};
  if (config.cluster.x * config.cluster.y * config.cluster.z > 1) {
    launch_config.attrs = &cluster;
    launch_config.numAttrs = 1;
  }
  check(cudaLaunchKernelEx(&launch_config, kernel, static_cast<Params>(args)...), name, config);
}

#endif

}  // namespace fastconv::cuda
