#include "device.h"

#include "primitives/cuda.h"

#if defined(FASTCONV_EMULATED)
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#else
#include <mutex>
#endif

namespace fastconv::cuda {

#if defined(FASTCONV_EMULATED)

namespace {

const DeviceInfo& wanted_device() {
  static const DeviceInfo turing{75, 68, 64 << 10}, ampere{80, 108, 163 << 10}, hopper{90, 132, 227 << 10}, none;
  const char* wanted = std::getenv("FASTCONV_EMULATED_ARCH");
  if (!wanted || !*wanted || !std::strcmp(wanted, "90")) return hopper;
  if (!std::strcmp(wanted, "80")) return ampere;
  if (!std::strcmp(wanted, "75")) return turing;
  if (!std::strcmp(wanted, "0")) return none;
  throw std::invalid_argument(std::string("FASTCONV_EMULATED_ARCH: expected one of 0, 75, 80, 90, but got '") + wanted +
                              "'");
}

}  // namespace

const DeviceInfo& current_device() {
  const DeviceInfo& device = wanted_device();
  const char* wanted = std::getenv("FASTCONV_EMULATED_MULTIPROCESSORS");
  if (!wanted || !*wanted) return device;
  const int count = std::atoi(wanted);
  if (count < 1) {
    throw std::invalid_argument(
        std::string("FASTCONV_EMULATED_MULTIPROCESSORS: expected a number from 1 on, but got '") + wanted + "'");
  }
  static std::mutex mutex;
  static auto* changed = new std::map<std::pair<int, int>, DeviceInfo>;  // references to elements stay valid
  const std::lock_guard<std::mutex> lock(mutex);
  const DeviceInfo copy{device.architecture, count, device.shared_bytes};
  return changed->try_emplace({device.architecture, count}, copy).first->second;
}

#else

const DeviceInfo& current_device() {
  constexpr int kMaxDevices = 64;
  static DeviceInfo devices[kMaxDevices];
  static std::once_flag asked[kMaxDevices];
  static const DeviceInfo none;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= kMaxDevices) {
    (void)cudaGetLastError();
    return none;
  }
  std::call_once(asked[device], [device] {
    const auto attribute = [device](cudaDeviceAttr which) {
      int value = 0;
      return cudaDeviceGetAttribute(&value, which, device) == cudaSuccess ? value : 0;
    };
    devices[device] = {attribute(cudaDevAttrComputeCapabilityMajor) * 10 + attribute(cudaDevAttrComputeCapabilityMinor),
                       attribute(cudaDevAttrMultiProcessorCount), attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
  });
  return devices[device];
}

#endif

}  // namespace fastconv::cuda
