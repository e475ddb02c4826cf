// Small kernels that break one rule of the checker each, and their clean twins. A line that ends in `// breaks: NAME`
// is where test_emulator_rules.py expects the report of case NAME to point; kBroken = false gives the twin.
#include "../../csrc/cuda/primitives/launch.h"

#include <cstring>
#include <functional>
#include <map>

using namespace fastconv;
using cuda::Footprint;
using cuda::LaunchConfig;

namespace {

// ---- shared-race ---------------------------------------------------------------------------------------------------
template <bool kBroken>
__global__ void missing_barrier(float* out) {
  __shared__ float values[64];
  values[threadIdx.x] = 1.0f;
  if (!kBroken) __syncthreads();
  out[threadIdx.x] = values[63 - threadIdx.x];  // breaks: missing_barrier
}

template <bool kBroken>
__global__ void overwritten_too_early(float* out) {
  __shared__ float values[64];
  values[threadIdx.x] = 1.0f;
  __syncthreads();
  const float neighbour = values[(threadIdx.x + 1) % 64];
  if (!kBroken) __syncthreads();
  values[threadIdx.x] = neighbour;  // breaks: overwritten_too_early
  out[threadIdx.x] = neighbour;
}

template <bool kBroken>
__global__ void missing_syncwarp(float* out) {
  __shared__ float values[64];
  values[threadIdx.x] = 1.0f;
  if (!kBroken) __syncwarp();
  out[threadIdx.x] = values[threadIdx.x ^ 1];  // breaks: missing_syncwarp
}

// __syncwarp orders a warp, not the block.
template <bool kBroken>
__global__ void syncwarp_between_warps(float* out) {
  __shared__ float values[64];
  values[threadIdx.x] = 1.0f;
  __syncwarp();
  out[threadIdx.x] = values[kBroken ? threadIdx.x ^ 32 : threadIdx.x ^ 1];  // breaks: syncwarp_between_warps
}

template <bool kBroken>
__global__ void shuffle_is_no_fence(float* out) {
  __shared__ float values[64];
  values[threadIdx.x] = 1.0f;
  __shfl_sync(0xffffffffu, 0, 0);
  if (!kBroken) __syncwarp();
  out[threadIdx.x] = values[threadIdx.x ^ 1];  // breaks: shuffle_is_no_fence
}

template <bool kBroken>
__global__ void unordered_increment(float* out) {
  __shared__ int counter;
  if (threadIdx.x == 0) counter = 0;
  __syncthreads();
  if (kBroken) {
    counter += 1;  // breaks: unordered_increment
  } else {
    atomicAdd(&counter, 1);
  }
  __syncthreads();
  out[threadIdx.x] = static_cast<float>(counter);
}

// ---- memory --------------------------------------------------------------------------------------------------------
template <bool kBroken>
__global__ void read_past_the_end(const float* in, float* out) {
  out[threadIdx.x] = in[threadIdx.x + (kBroken ? 1 : 0)];  // breaks: read_past_the_end
}

template <bool kBroken>
__global__ void write_before_the_start(float* out) {
  out[static_cast<int>(threadIdx.x) - (kBroken ? 1 : 0)] = 1.0f;  // breaks: write_before_the_start
}

template <bool kBroken>
__global__ void write_to_input(const float* in, float* out) {
  float* target = kBroken ? const_cast<float*>(in) : out;
  target[threadIdx.x] = 1.0f;  // breaks: write_to_input
}

template <bool kBroken>
__global__ void atomic_past_the_end(float* out) {
  atomicAdd(out + (kBroken ? 64 : 0), 1.0f);  // breaks: atomic_past_the_end
}

template <bool kBroken>
__global__ void shared_pointer_overrun(float* out, int stride) {
  __shared__ float values[64];
  float* p = values;
  p[threadIdx.x * (kBroken ? stride : 1)] = 1.0f;  // breaks: shared_pointer_overrun
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

template <bool kBroken>
__global__ void dynamic_shared_overrun(float* out) {
  float* values = reinterpret_cast<float*>(cuda::dynamic_shared_memory());
  values[threadIdx.x + (kBroken ? 1 : 0)] = 1.0f;  // breaks: dynamic_shared_overrun
  out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void array_index(float* out, int shift) {
  __shared__ float values[64];
  values[threadIdx.x + (kBroken ? shift : 0)] = 1.0f;  // breaks: array_index
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

template <bool kBroken>
__global__ void register_array_index(float* out, int shift) {
  float values[4] = {1, 2, 3, 4};
  out[threadIdx.x] = values[threadIdx.x % 4 + (kBroken ? shift : 0)];  // breaks: register_array_index
}

template <bool kBroken>
__global__ void uninitialised(float* out) {
  __shared__ float values[64];
  if (!kBroken || threadIdx.x != 17) values[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];  // breaks: uninitialised
}

// Shared memory does not survive from one block to the next.
template <bool kBroken>
__global__ void left_by_another_block(float* out) {
  __shared__ float values[64];
  if (!kBroken || blockIdx.x == 0) values[threadIdx.x] = 1.0f;
  out[threadIdx.x] = values[threadIdx.x];  // breaks: left_by_another_block
}

template <bool kBroken>
__global__ void misaligned_shared(float* out, int shift) {
  __shared__ __align__(16) float values[64];
  values[threadIdx.x] = 1.0f;
  __syncthreads();
  const unsigned at = threadIdx.x / 8 * 4 + (kBroken ? shift : 0);
  const float4 v = *reinterpret_cast<float4*>(&values[at]);  // breaks: misaligned_shared
  out[threadIdx.x] = v.x + v.w;
}

template <bool kBroken>
__global__ void misaligned_global(const float* in, float* out, int shift) {
  if (threadIdx.x > 7) return;
  const unsigned at = threadIdx.x * 4 + (kBroken ? shift : 0);
  const float4 v = *reinterpret_cast<const float4*>(in + at);  // breaks: misaligned_global
  out[threadIdx.x] = v.x + v.w;
}

template <bool kBroken>
__global__ void foreign_local_memory(float* out) {
  __shared__ float* shared_pointer;
  volatile float mine = 1.0f;
  if (threadIdx.x == 0) shared_pointer = const_cast<float*>(&mine);
  __syncthreads();
  const float* p = kBroken ? shared_pointer : const_cast<float*>(&mine);
  out[threadIdx.x] = *p;  // breaks: foreign_local_memory
  __syncthreads();
}

// g++ does not instrument a call of memcpy; the checker notices that something changed, though not where.
template <bool kBroken>
__global__ void unseen_store(const float* in, float* out, int bytes) {
  __shared__ float values[64];
  values[threadIdx.x] = 1.0f;
  __shared__ float copy[64];
  if (threadIdx.x == 0) copy[0] = 1.0f;
  if (kBroken && threadIdx.x == 1) memcpy(&copy[1], &in[1], static_cast<size_t>(bytes));
  out[threadIdx.x] = values[threadIdx.x];
}

// ---- barriers and warps --------------------------------------------------------------------------------------------
template <bool kBroken>
__global__ void two_barriers(float* out) {
  if (kBroken && threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();  // breaks: two_barriers
  }
  out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void early_return(float* out) {
  if (kBroken && threadIdx.x >= 40) return;
  __syncthreads();  // breaks: early_return
  out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void waits_forever(float* out) {
  if (kBroken && threadIdx.x % 32 < 16) {
    __syncwarp();  // breaks: waits_forever
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void mask_without_caller(float* out) {
  out[threadIdx.x] = __shfl_sync(kBroken ? 0x0000ffffu : 0xffffffffu, 1.0f, 0);  // breaks: mask_without_caller
}

template <bool kBroken>
__global__ void mask_with_exited_lanes(float* out) {
  if (threadIdx.x % 32 >= 16) return;
  out[threadIdx.x] = __shfl_sync(kBroken ? 0xffffffffu : 0x0000ffffu, 1.0f, 0);  // breaks: mask_with_exited_lanes
}

template <bool kBroken>
__global__ void shuffle_from_outside(float* out) {
  if (threadIdx.x % 32 < 16) {
    out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1.0f, kBroken ? 20 : 3);  // breaks: shuffle_from_outside
  }
}

template <bool kBroken>
__global__ void divergent_warp(float* out) {
  if (kBroken && threadIdx.x % 2) {
    out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
  } else {
    out[threadIdx.x] = __shfl_down_sync(0xffffffffu, 1.0f, 1);  // breaks: divergent_warp
  }
}

__global__ void nothing(float*) {}

struct Buffers {
  emulator::DeviceBuffer in{64 * sizeof(float)}, out{64 * sizeof(float)};
};

using Case = std::function<void(bool broken, Buffers&, LaunchConfig&)>;

// A case whose kernel takes (arguments...) after the choice of twin.
#define FASTCONV_CASE(name, ...)                                             \
  {#name, [](bool broken, Buffers& b, LaunchConfig& c) {                     \
     const float* in = b.in.as<float>();                                     \
     float* out = b.out.as<float>();                                         \
     (void)in;                                                               \
     cuda::launch(#name, c, broken ? name<true> : name<false>, __VA_ARGS__); \
   }}

const std::map<std::string, Case>& cases() {
  static const std::map<std::string, Case> table = {
      FASTCONV_CASE(missing_barrier, out),
      FASTCONV_CASE(overwritten_too_early, out),
      FASTCONV_CASE(missing_syncwarp, out),
      FASTCONV_CASE(syncwarp_between_warps, out),
      FASTCONV_CASE(shuffle_is_no_fence, out),
      FASTCONV_CASE(unordered_increment, out),
      FASTCONV_CASE(read_past_the_end, in, out),
      FASTCONV_CASE(write_before_the_start, out),
      FASTCONV_CASE(write_to_input, in, out),
      FASTCONV_CASE(atomic_past_the_end, out),
      FASTCONV_CASE(shared_pointer_overrun, out, 2),
      {"dynamic_shared_overrun",
       [](bool broken, Buffers& b, LaunchConfig& c) {
         c.dynamic_shared_bytes = 64 * sizeof(float);
         cuda::launch("dynamic_shared_overrun", c,
                      broken ? dynamic_shared_overrun<true> : dynamic_shared_overrun<false>, b.out.as<float>());
       }},
      FASTCONV_CASE(array_index, out, 1),
      FASTCONV_CASE(register_array_index, out, 1),
      FASTCONV_CASE(uninitialised, out),
      {"left_by_another_block",
       [](bool broken, Buffers& b, LaunchConfig& c) {
         c.grid = dim3(2);
         cuda::launch("left_by_another_block", c, broken ? left_by_another_block<true> : left_by_another_block<false>,
                      b.out.as<float>());
       }},
      FASTCONV_CASE(misaligned_shared, out, 1),
      FASTCONV_CASE(misaligned_global, in, out, 1),
      FASTCONV_CASE(foreign_local_memory, out),
      FASTCONV_CASE(unseen_store, in, out, 8),
      FASTCONV_CASE(two_barriers, out),
      FASTCONV_CASE(early_return, out),
      FASTCONV_CASE(waits_forever, out),
      FASTCONV_CASE(mask_without_caller, out),
      FASTCONV_CASE(mask_with_exited_lanes, out),
      FASTCONV_CASE(shuffle_from_outside, out),
      FASTCONV_CASE(divergent_warp, out),
      {"too_many_threads",
       [](bool broken, Buffers& b, LaunchConfig& c) {
         c.block = dim3(broken ? 1025 : 1024);
         cuda::launch("too_many_threads", c, nothing, b.out.as<float>());
       }},
  };
  return table;
}

}  // namespace

#define FASTCONV_EXPORT extern "C" __attribute__((visibility("default")))

// Runs a case with 64 threads; writes the exception's text, or nothing, to `text`. Returns 0 for an unknown name.
FASTCONV_EXPORT int rules_run(const char* name, int broken, char* text, size_t text_bytes) {
  const auto found = cases().find(name);
  if (found == cases().end()) return 0;
  text[0] = 0;
  Buffers buffers;
  memset(buffers.in.as<char>(), 0, 64 * sizeof(float));
  LaunchConfig config;
  config.grid = dim3(1);
  config.block = dim3(64);
  config.footprint.reads("in", buffers.in.as<float>(), 64 * sizeof(float));
  config.footprint.writes("out", buffers.out.as<float>(), 64 * sizeof(float));
  try {
    found->second(broken != 0, buffers, config);
  } catch (const std::exception& error) {
    snprintf(text, text_bytes, "%s", error.what());
  }
  if (!buffers.in.intact() || !buffers.out.intact()) snprintf(text, text_bytes, "red zone overwritten");
  return 1;
}

// All names, one a line.
FASTCONV_EXPORT const char* rules_names() {
  static const std::string names = [] {
    std::string text;
    for (const auto& [name, run] : cases()) text += name + "\n";
    return text;
  }();
  return names.c_str();
}
