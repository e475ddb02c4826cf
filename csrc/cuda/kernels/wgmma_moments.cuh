// Batch statistics of what wgmma_output.cuh stores: as each chunk of 64 rows leaves, the mean and the squared
// deviations (M2) of every column go to the workspace, from shared memory, so that nobody reads D again for them. A
// warp has 16 columns, a lane two of them in every fourth of the rows, such that a warp's loads meet every bank once:
//
//    lanes        0 ... 7 | 8 ... 15 | 16 ... 23 | 24 ... 31          the swizzle moves 16 bytes, 8 columns, by the
//    rows mod 8    0, 1      2, 3       4, 5        6, 7              row modulo 8: rows 2i and 2i + 1 use the same
//    columns      two neighbours of the warp's 16 each                half of two, and come one after the other
//
// Two passes: the deviations are from the mean of the 64 rows.
#pragma once

#include "batch_norm_stats.cuh"
#include "wgmma_output.cuh"

namespace fastconv::cuda {

constexpr int kMomentRows = 64;  // whose moments are written: a consumer's

// The place of the moments of `kMomentRows` rows from 64 * group on: [group][mean, M2][channels].
__host__ __device__ __forceinline__ int64_t moment_offset(int64_t group, int which, int64_t channels) {
  return (group * 2 + which) * channels;
}

// ChannelEpilogue, and the moments of its results after rounding.
template <class T>
struct WgmmaMomentsEpilogue : ChannelEpilogue<T> {
  float* moments;
  int channels;  // of all groups

  // All threads of a consumer; the columns from n0 on, the rows from m on.
  template <class Config, class Output>
  __device__ __forceinline__ void take(unsigned char* chunk, const Output& output, const WgmmaTile& tile, int n0,
                                       int m) const {
    static_assert(Config::kChunkN == 64 && Config::kWgmmaM == kMomentRows && sizeof(T) == 2, "16 columns a warp");
    const int rows = min(output.rows - m, kMomentRows);
    if (rows <= 0) return;
    const int thread = opaque(static_cast<int>(threadIdx.x) % Config::kWarpgroup), lane = thread % 32;
    const int column = thread / 32 * 16 + lane % 8 * 2;
    Pack<float, 2> mean = {}, m2 = {};
    if (rows == kMomentRows) {
      take_pairs<true>(chunk, lane, column, rows, mean, m2);
    } else {
      take_pairs<false>(chunk, lane, column, rows, mean, m2);
    }
    if (lane >= 8 || n0 + column >= output.columns) return;  // columns are even here
    const int64_t channel = output.channel(tile.batch, n0 + column), group = m / kMomentRows;
    store_pack<2>(moments + moment_offset(group, 0, channels) + channel, mean);
    store_pack<2>(moments + moment_offset(group, 1, channels) + channel, m2);
  }

 private:
  // Of a lane's two columns. kWhole: 64 rows, which stay in registers between the passes; else, once a launch, code
  // that is short.
  template <bool kWhole>
  static __device__ __forceinline__ void take_pairs(unsigned char* chunk, int lane, int column, int rows,
                                                    Pack<float, 2>& mean, Pack<float, 2>& m2) {
    constexpr int kPairs = kMomentRows / 4, kUnroll = kWhole ? kPairs : 1;
    const int first = lane / 8 * 2;
    const T* const even = wgmma_detail::chunk_pair<T>(chunk, first, column);
    const T* const odd = wgmma_detail::chunk_pair<T>(chunk, first + 1, column);
    const auto inside = [&](int i) { return kWhole || first + i % 2 + i / 2 * 8 < rows; };
    const auto load = [&](int i) {
      return load_pack<2>((i % 2 == 0 ? even : odd) + i / 2 * 8 * (kSwizzleBytes / sizeof(T)));
    };
    Pack<T, 2> kept[kUnroll];
#pragma unroll(kUnroll)
    for (int i = 0; i < kPairs; ++i) {
      if (!inside(i)) break;
      const Pack<T, 2> pair = load(i);
      kept[i % kUnroll] = pair;
#pragma unroll
      for (int e = 0; e < 2; ++e) mean.value[e] += to_accumulate(pair.value[e]);
    }
    const float share = kWhole ? 1.0f / kMomentRows : reciprocal(static_cast<float>(rows));
#pragma unroll
    for (int e = 0; e < 2; ++e) mean.value[e] = sum_of_lanes(mean.value[e]) * share;
#pragma unroll(kUnroll)
    for (int i = 0; i < kPairs; ++i) {
      if (!inside(i)) break;
      const Pack<T, 2> pair = kWhole ? kept[i % kUnroll] : load(i);
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float deviation = to_accumulate(pair.value[e]) - mean.value[e];
        m2.value[e] += deviation * deviation;
      }
    }
#pragma unroll
    for (int e = 0; e < 2; ++e) m2.value[e] = sum_of_lanes(m2.value[e]);
  }
  // Of the four lanes that have the same columns.
  static __device__ __forceinline__ float sum_of_lanes(float v) {
    v += __shfl_xor_sync(0xffffffffu, v, 8);
    return v + __shfl_xor_sync(0xffffffffu, v, 16);
  }
};
template <class T>
constexpr bool kTakesMoments<WgmmaMomentsEpilogue<T>> = true;

// Moments of `count` rows each become those of all of them, as a term of channel_reduce.cuh: "pixels" are groups of
// rows, the inputs their means and M2s.
struct MergedMomentsTerm {
  static constexpr int kInputs = 2;
  template <class Acc>
  using State = MomentState<Acc>;
  using Channel = float;  // the first mean, from which the others count
  const float* moments;
  float count;
  __device__ __forceinline__ Channel channel(int64_t c) const { return moments[c]; }

  template <class Config, class Acc>
  __device__ __forceinline__ void add(MomentState<Acc> (&state)[Config::kChannels],
                                      const Channel (&first)[Config::kChannels],
                                      const Acc (&v)[2][Config::kPack]) const {
#pragma unroll
    for (int e = 0; e < Config::kPack; ++e) {
      const int c = Config::kAlongPixels ? 0 : e;
      Acc(&value)[MomentState<Acc>::kValues] = state[c].value;
      const Acc before = value[0], share = count * reciprocal(before + count);
      const Acc delta = v[0][e] - first[c] - value[1];
      value[0] = before + count;
      value[1] += delta * share;
      value[2] += v[1][e] + delta * delta * before * share;
    }
  }
};

// The last group may have fewer rows: its moments come last.
struct StoreMergedMoments {
  MergedMomentsTerm term;
  int64_t last, channels;
  int last_rows;  // 0: there is no such group
  float *mean, *var;
  __device__ void operator()(int64_t c, MomentState<double> state) const {
    const double first = term.channel(c);
    if (last_rows > 0) {
      const double its_mean = term.moments[moment_offset(last, 0, channels) + c];
      const double its_m2 = term.moments[moment_offset(last, 1, channels) + c];
      state.merge({{static_cast<double>(last_rows), its_mean - first, its_m2}});
    }
    mean[c] = static_cast<float>(first + state.value[1]);
    var[c] = static_cast<float>(state.value[2] / state.value[0]);
  }
};

inline int64_t moment_groups(int64_t rows) { return (rows + kMomentRows - 1) / kMomentRows; }
inline size_t moment_bytes(int64_t rows, int64_t channels) {
  return static_cast<size_t>(moment_offset(moment_groups(rows), 0, channels)) * sizeof(float);
}

// The mean and the variance of `rows` rows from the moments of their groups.
inline void merge_moments(const float* moments, int64_t rows, int64_t channels, float* mean, float* var,
                          const CallContext& context) {
  const int64_t whole = rows < kMomentRows ? 1 : rows / kMomentRows;
  const int count = static_cast<int>(rows < kMomentRows ? rows : kMomentRows);
  const auto view = [&](int which) {
    const float* data = moments + moment_offset(0, which, channels);
    return TensorView{const_cast<float*>(data), DType::kFloat32, {whole, channels, 1, 1}, {2 * channels, 1, 1, 1}};
  };
  const TensorView operands[] = {view(0), view(1)};
  const MergedMomentsTerm term{moments, static_cast<float>(count)};
  const StoreMergedMoments finish{term, whole, channels, static_cast<int>(rows - whole * count), mean, var};
  LaunchConfig config;
  config.stream = context.stream;
  const size_t bytes = static_cast<size_t>(channels) * sizeof(float);
  config.footprint.reads("moments", moments, moment_bytes(rows, channels));
  config.footprint.writes("mean", mean, bytes).writes("var", var, bytes);
  reduce_channels<float>("conv2d_stats", operands, term, finish, false, context, config);
}

}  // namespace fastconv::cuda
