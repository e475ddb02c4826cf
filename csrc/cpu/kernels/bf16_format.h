// Packed bfloat16 filters, for the AMX tiles and the VDPBF16PS kernels alike:
//
//   group | block of 16 filters | step of at most 32 channels | tap (r, s) | pair of channels | filter | channel of
//   pair
//
// A row of 64 bytes is what VDPBF16PS takes and a row of a tile of B. Filters and channels are filled up with zeros.
// Taps lie inside the steps of channels, so that the pixels which the taps of a step share stay in L1. How channels are
// cut depends on their count alone: the weight can be packed before an image is seen.
#pragma once

#include "../../common/calls.h"
#include "../parallel.h"
#include "runs.h"

namespace fastconv::cpu::FASTCONV_ISA::bf16 {

constexpr int64_t kFilters = 16;       // of a block
constexpr int64_t kMostChannels = 32;  // of a step: a row of a tile of A

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

struct ChannelSteps {
  int64_t count, channels;  // channels of one step, even
  int64_t padded() const { return count * channels; }
};

// Preferably steps that divide C, if they are at most half as many again: then x can be read where it lies.
inline ChannelSteps channel_steps(int64_t C) {
  const int64_t least = larger(1, ceil_div(C, kMostChannels));
  for (int64_t count = least; 2 * count <= 3 * least; ++count) {
    if (C % (2 * count) == 0) return {count, C / count};
  }
  return {least, round_up(ceil_div(C, least), 2)};
}

// Elements of the packed filters of one group, K filters over C channels.
inline int64_t group_elements(int64_t K, int64_t C, int64_t taps) {
  return ceil_div(K, kFilters) * kFilters * channel_steps(C).padded() * taps;
}

// Filters in any layout: element (k, c, r, s) of a group at data + k * stride_k + c * stride_c + r * stride_r + s *
// stride_s.
struct Filters {
  const bfloat16_t* data = nullptr;
  int64_t stride_group = 0, stride_k = 0, stride_c = 0, stride_r = 0, stride_s = 0;
};

inline void pack_block(const Filters& w, int64_t filters, int64_t C, int64_t R, int64_t S, bfloat16_t* out) {
  const ChannelSteps steps = channel_steps(C);
  for (int64_t c0 = 0; c0 < steps.padded(); c0 += steps.channels) {
    for (int64_t r = 0; r < R; ++r) {
      for (int64_t s = 0; s < S; ++s) {
        for (int64_t pair = 0; pair < steps.channels; pair += 2, out += 2 * kFilters) {
          for (int64_t i = 0; i < 2; ++i) {
            const int64_t c = c0 + pair + i;
            const bfloat16_t* from = w.data + c * w.stride_c + r * w.stride_r + s * w.stride_s;
            for (int64_t k = 0; k < kFilters; ++k) {
              out[2 * k + i] = c < C && k < filters ? from[k * w.stride_k] : bfloat16_t{0};
            }
          }
        }
      }
    }
  }
}

inline void pack(const Filters& w, int64_t groups, int64_t K, int64_t C, int64_t R, int64_t S, void* packed) {
  const int64_t blocks = ceil_div(K, kFilters), block = group_elements(1, C, R * S);
  // About 32 KiB a task: less is not worth another thread.
  parallel_for(groups * blocks, 16384 / (block + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t k = i % blocks * kFilters;
      Filters part = w;
      part.data += i / blocks * w.stride_group + k * w.stride_k;
      pack_block(part, smaller(kFilters, K - k), C, R, S, static_cast<bfloat16_t*>(packed) + i * block);
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA::bf16
