// From a thread's flat number to its place in a tensor. An axis costs a multiplication, not a division: memory-bound
// kernels spend most of their instructions here.
#pragma once

#include "../../common/tensor_view.h"
#include "../primitives/launch.h"
#include "../primitives/pack.cuh"

namespace fastconv::cuda {

// Division by a run-time constant: a multiply-high and a shift (Granlund and Montgomery's round-up method), in 32 bits
// while dividends stay below 2^31, else in 64.
class Divider {
 public:
  Divider() = default;
  // For dividends below `dividends`.
  Divider(int64_t divisor, int64_t dividends)
      : divisor_(divisor < 1 ? 1 : divisor), narrow_(dividends <= kNarrow && divisor_ <= kNarrow) {
    while ((int64_t{1} << shift_) < divisor_) ++shift_;
    __extension__ using Wide = unsigned __int128;
    const Wide excess = static_cast<Wide>((int64_t{1} << shift_) - divisor_) << (narrow_ ? 32 : 64);
    multiplier_ = static_cast<uint64_t>(excess / static_cast<Wide>(divisor_)) + 1;
  }
  // The quotient; the remainder goes to `rest`.
  __device__ __forceinline__ int64_t divide(int64_t i, int64_t& rest) const {
    if (narrow_) {
      const unsigned n = static_cast<unsigned>(i);
      const unsigned quotient = (__umulhi(n, static_cast<unsigned>(multiplier_)) + n) >> shift_;
      rest = n - quotient * static_cast<unsigned>(divisor_);
      return quotient;
    }
    const uint64_t n = static_cast<uint64_t>(i);
    const uint64_t quotient = (__umul64hi(n, multiplier_) + n) >> shift_;
    rest = static_cast<int64_t>(n - quotient * static_cast<uint64_t>(divisor_));
    return static_cast<int64_t>(quotient);
  }

 private:
  static constexpr int64_t kNarrow = int64_t{1} << 31;
  int64_t divisor_ = 1;
  uint64_t multiplier_ = 1;
  int shift_ = 0;
  bool narrow_ = true;
};

struct ImagePlace {
  int64_t n, c;
  int h, w;
};

// Numbers the pixels of an (N, C, H, W) tensor, `pack` channels at once, so that consecutive numbers lie together in
// memory: channels first, or columns first.
struct ImageIndex {
  bool channels_innermost = false;
  int pack = 1;
  int64_t count = 0;
  Divider inner, middle, outer;

  ImageIndex() = default;
  ImageIndex(int64_t N, int64_t C, int64_t H, int64_t W, int pack_, bool channels_innermost_)
      : channels_innermost(channels_innermost_), pack(pack_), count(N * (C / pack_) * H * W) {
    const int64_t packs = C / pack;
    inner = Divider(channels_innermost ? packs : W, count);
    middle = Divider(channels_innermost ? W : H, count);
    outer = Divider(channels_innermost ? H : packs, count);
  }
  __device__ __forceinline__ ImagePlace operator()(int64_t i) const {
    int64_t a, b, c;
    const int64_t n = outer.divide(middle.divide(inner.divide(i, a), b), c);
    if (channels_innermost) return {n, a * pack, static_cast<int>(c), static_cast<int>(b)};
    return {n, c * pack, static_cast<int>(b), static_cast<int>(a)};
  }
};

// The widest pack of T that one instruction moves.
template <class T>
constexpr int kWidestPack = 16 / static_cast<int>(sizeof(T));

// Whether every run of `pack` elements along `axis` is one aligned access of `bytes` each.
inline bool runs_in_packs(const TensorView& view, int axis, int pack, int bytes) {
  if (!view.present()) return true;
  if (view.stride[axis] != 1 || view.size[axis] % pack != 0) return false;
  if (reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(bytes) != 0) return false;
  for (int d = 0; d < 4; ++d) {
    if (d != axis && view.size[d] > 1 && view.stride[d] % pack != 0) return false;
  }
  return true;
}

// One thread for each of `count` items.
constexpr int kFlatThreads = 256;

inline LaunchConfig flat_launch(const LaunchConfig& base, int64_t count) {
  LaunchConfig config = base;
  config.block = dim3(kFlatThreads);
  config.grid = dim3(static_cast<unsigned>((count + kFlatThreads - 1) / kFlatThreads));
  return config;
}

__device__ __forceinline__ int64_t flat_thread() {
  return static_cast<int64_t>(blockIdx.x) * kFlatThreads + static_cast<int>(threadIdx.x);
}

}  // namespace fastconv::cuda
