// Grouped convolution with few channels a group: several groups share a vector of output channels, and every lane is
// brought its own group's channel by a permutation in registers (4 filters and 4 channels a group, 16 lanes):
//
//   y channels   | k0 . . . | k4 . . . | k8 . . . | k12 . .  |
//   x pixel      | a0 .. a3 | b0 .. b3 | c0 .. c3 | d0 .. d3 |     one load
//   c = 1        | a1 a1 .. | b1 b1 .. | c1 c1 .. | d1 d1 .. |     one permutation, and a multiply-add for each tap
//
// Input rows wait in a ring, NHWC and padded with zeros, until the last output row that reads them. A tile is up to 14
// pixels of one vector; the taps of one filter row stay in registers, so that a permutation serves all of them. Every
// output is one chain of sums in a fixed order. Weights: [block of filters][r][c][s][lane], zeros behind the last.
#pragma once

#include "conv_engine.h"
#include "work_slots.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace grouped {

// Accumulators, three weights, the order and a pixel: of 32 registers, or of 16.
constexpr int kTile = kTileRows >= 12 ? 14 : 8;
static_assert(kTile % 2 == 0, "tiles come in even widths");
constexpr int64_t kRingBytes = 384 << 10;

// How filters and channels fall on vectors. A block is one vector of filters: those of whole groups, or up to kLanes of
// one group's.
template <class Acc>
struct Blocks {
  static constexpr int64_t kLanes = Vec<Acc>::kLanes;
  int64_t C, K, groups;  // channels and filters of a group
  int64_t shared;        // groups that share a block
  int64_t pieces = 1;    // blocks that share a group
  int64_t count;

  explicit Blocks(const ConvProblem& c) : C(c.channels_per_group()), K(c.filters_per_group()), groups(c.groups) {
    // The lanes' channels have to lie within one vector of x.
    shared = work::max(1, work::min(kLanes / K, (kLanes - 1) / C + 1));
    if (shared == 1) pieces = ceil_div(K, kLanes);
    count = shared > 1 ? ceil_div(groups, shared) : groups * pieces;
  }
  int64_t group(int64_t block) const { return shared > 1 ? block * shared : block / pieces; }
  int64_t first_filter(int64_t block) const { return group(block) * K + block % pieces * kLanes; }
  int64_t filters(int64_t block) const {
    if (shared > 1) return work::min(shared, groups - group(block)) * K;
    return work::min(kLanes, K - block % pieces * kLanes);
  }
  int64_t first_channel(int64_t block) const { return group(block) * C; }
  int64_t last_channel(int64_t block) const { return work::min(groups, group(block) + shared) * C; }
  // Whether one vector holds all channels of a block; else it is loaded from channel c on.
  bool one_load() const { return shared * C <= kLanes; }
  // The element of the loaded vector that lane j multiplies by its weight for channel c.
  int64_t source(int64_t j, int64_t c) const { return work::min(j / K, shared - 1) * C + (one_load() ? c : 0); }
};

// What the tiles of one call have in common; distances in elements.
struct Taps {
  int64_t R, S, depth;            // depth: channels of a group
  int64_t pixel, step_q, step_s;  // from pixel to pixel, output to output, tap to tap
  int64_t step_c;                 // from channel to channel: 0 where one load holds all of them
  const int32_t* orders;          // [depth][lane]
};

// `kWidth` outputs of one vector of filters into `out`, [pixel][lane]; the first one's leftmost tap is at rows[r] + at.
template <class Acc>
using TileFunction = void (*)(const Acc* const* rows, int64_t at, const Acc* weights, const Taps& taps, Acc* out);

// Filters of kS columns, stride kStride, no dilation: each pixel is permuted once and meets up to kS outputs.
template <class Acc, int kWidth, int kS, int kStride>
void fixed_tile(const Acc* const* rows, int64_t at, const Acc* weights, const Taps& taps, Acc* out) {
  using V = Vec<Acc>;
  V acc[kWidth];
  FC_UNROLL
  for (int q = 0; q < kWidth; ++q) acc[q] = V(Acc(0));
  for (int64_t r = 0; r < taps.R; ++r) {
    const Acc* row = rows[r] + at;
    for (int64_t c = 0; c < taps.depth; ++c, row += taps.step_c, weights += kS * V::kLanes) {
      const auto order = lane_order(V(), taps.orders + c * V::kLanes);
      V w[kS];
      FC_UNROLL
      for (int s = 0; s < kS; ++s) w[s] = V::load(weights + s * V::kLanes);
      const Acc* x = row;
#pragma GCC unroll 32
      for (int j = 0; j < (kWidth - 1) * kStride + kS; ++j, x += taps.pixel) {
        V v = permute(V::load(x), order);
        hold(v);
        FC_UNROLL
        for (int s = 0; s < kS; ++s) {
          const int q = (j - s) / kStride;
          if (j >= s && (j - s) % kStride == 0 && q < kWidth) acc[q] = fma(v, w[s], acc[q]);
        }
      }
    }
  }
  FC_UNROLL
  for (int q = 0; q < kWidth; ++q) acc[q].store(out + q * V::kLanes);
}

// Any filter, stride and dilation: a permutation each multiply-add.
template <class Acc, int kWidth>
void any_tile(const Acc* const* rows, int64_t at, const Acc* weights, const Taps& taps, Acc* out) {
  using V = Vec<Acc>;
  V acc[kWidth];
  FC_UNROLL
  for (int q = 0; q < kWidth; ++q) acc[q] = V(Acc(0));
  for (int64_t r = 0; r < taps.R; ++r) {
    for (int64_t c = 0; c < taps.depth; ++c) {
      const auto order = lane_order(V(), taps.orders + c * V::kLanes);
      const Acc* first = rows[r] + at + c * taps.step_c;
      for (int64_t s = 0; s < taps.S; ++s, first += taps.step_s, weights += V::kLanes) {
        const V w = V::load(weights);
        const Acc* x = first;
        FC_UNROLL
        for (int q = 0; q < kWidth; ++q, x += taps.step_q) acc[q] = fma(permute(V::load(x), order), w, acc[q]);
      }
    }
  }
  FC_UNROLL
  for (int q = 0; q < kWidth; ++q) acc[q].store(out + q * V::kLanes);
}

// functions[width / 2 - 1].
template <class Acc>
struct TileFunctions {
  TileFunction<Acc> functions[kTile / 2];
};

enum class TileKind { kAny, kThree, kThreeByTwo };

template <class Acc, TileKind kKind, int kWidth = kTile>
constexpr void fill(TileFunctions<Acc>& table) {
  if constexpr (kKind == TileKind::kAny) {
    table.functions[kWidth / 2 - 1] = any_tile<Acc, kWidth>;
  } else {
    table.functions[kWidth / 2 - 1] = fixed_tile < Acc, kWidth, 3, kKind == TileKind::kThree ? 1 : 2 > ;
  }
  if constexpr (kWidth > 2) fill<Acc, kKind, kWidth - 2>(table);
}

template <class Acc, TileKind kKind>
constexpr TileFunctions<Acc> make_functions() {
  TileFunctions<Acc> table{};
  fill<Acc, kKind>(table);
  return table;
}

template <class Acc, TileKind kKind>
constexpr TileFunctions<Acc> kFunctions = make_functions<Acc, kKind>();

template <class Acc>
const TileFunctions<Acc>& choose_tile(const ConvProblem& c) {
  // Float only: float64 serves gradient checks, where the general tile is enough.
  if constexpr (sizeof(Acc) == 4) {
    if (c.S == 3 && c.dilation_w == 1 && c.stride_w == 1) return kFunctions<Acc, TileKind::kThree>;
    if (c.S == 3 && c.dilation_w == 1 && c.stride_w == 2) return kFunctions<Acc, TileKind::kThreeByTwo>;
  }
  return kFunctions<Acc, TileKind::kAny>;
}

// How a call is cut: units of (image, chunk of blocks, stretch of columns, band of rows), and their scratch.
template <class T>
struct Plan {
  using Acc = accumulate_t<T>;
  static constexpr int64_t kLanes = Vec<Acc>::kLanes;
  const Conv2dCall& call;
  const ConvProblem& c;
  const Blocks<Acc> blocks;
  RegisterEpilogue<Acc> epilogue;
  const Acc* weights;
  Taps taps;
  int64_t chunk, chunks, columns, stretches, span, slots, rows, bands;
  int64_t row, staged;                                         // elements of a row of the ring, and of a stage
  int64_t keys_at, pointers_at, stage_at, operands_at, bytes;  // of a thread's scratch
  bool shares_rows;   // a row of the ring waits until the last output that reads it
  bool pixels_first;  // all blocks of a tile of pixels, as NHWC is written; else all pixels of a block

  Plan(const Conv2dCall& given, const Acc* packed, const CallContext& context)
      : call(given),
        c(given.problem),
        blocks(given.problem),
        epilogue(make_register_epilogue<Acc>(given.epilogue, given.problem.K, *context.workspace)),
        weights(packed) {
    const int64_t item = sizeof(Acc), reach = (c.S - 1) * c.dilation_w + 1, between = (c.R - 1) * c.dilation_h + 1;
    const int64_t least = blocks.shared * blocks.C * item;  // of a pixel of one block
    // With a large dilation too many rows would have to wait: then they are copied for every output row anew.
    shares_rows = between * (kTile * c.stride_w + reach) * least <= kRingBytes;
    slots = shares_rows ? between : c.R;
    // Whole rows, unless they are so wide that the ring of one block would leave L2; then as many blocks as fit: their
    // channels lie side by side in x and y.
    const int64_t fit = (kRingBytes / (least * (slots + 1)) - reach) / c.stride_w + 1;
    columns = work::min(c.Q, work::max(kTile, fit / kTile * kTile));
    stretches = ceil_div(c.Q, columns);
    span = (work::round_up(columns, 2) - 1) * c.stride_w + reach;
    const int64_t groups = work::max(1, kRingBytes / ((slots + 1) * span * blocks.C * item));
    chunk = balanced(blocks.count, blocks.shared > 1 ? groups / blocks.shared : groups * blocks.pieces);
    chunks = ceil_div(blocks.count, chunk);
    const int64_t strips = c.N * chunks * stretches;
    bands = work::max(1, work::min(ceil_div(2 * thread_pool().threads(), strips), c.P / 8));
    if (thread_pool().threads() == 1) bands = 1;
    rows = ceil_div(c.P, bands);
    bands = ceil_div(c.P, rows);
    pixels_first = call.y.stride[1] == 1;
    // A cache line of padding, or pixels of many channels would share a few sets of L1.
    const int64_t channels = work::min(c.groups, (chunk / blocks.pieces + 1) * blocks.shared) * blocks.C;
    taps.pixel = work::round_up(channels, kLanes) + kLanes;
    taps.R = c.R, taps.S = c.S, taps.depth = blocks.C;
    taps.step_q = c.stride_w * taps.pixel, taps.step_s = c.dilation_w * taps.pixel;
    taps.step_c = blocks.one_load() ? 0 : 1;
    int32_t* orders = allocate<int32_t>(context, blocks.C * kLanes);
    for (int64_t i = 0; i < blocks.C * kLanes; ++i)
      orders[i] = static_cast<int32_t>(blocks.source(i % kLanes, i / kLanes));
    taps.orders = orders;
    row = span * taps.pixel;
    staged = work::round_up(pixels_first ? kTile : columns, 2) * kLanes;
    int64_t at = 0;
    const auto take = [&](int64_t size) {
      const int64_t begin = work::round_up(at, 64);
      at = begin + size;
      return begin;
    };
    // Behind the last row, what a vector reads beyond its channels.
    take(((slots + 1) * row + kLanes) * item);
    keys_at = take(slots * static_cast<int64_t>(sizeof(int64_t)));
    pointers_at = take(c.R * static_cast<int64_t>(sizeof(const Acc*)));
    stage_at = take(staged * item);
    operands_at = take(2 * staged * item);
    bytes = at;
  }
};

// Works through units, one ring of rows at a time.
template <class T>
class Worker {
 public:
  using Acc = accumulate_t<T>;
  static constexpr int64_t kLanes = Vec<Acc>::kLanes;

  Worker(const Plan<T>& plan, char* scratch)
      : plan_(plan),
        c_(plan.c),
        tiles_(choose_tile<Acc>(c_)),
        ring_(reinterpret_cast<Acc*>(scratch)),
        keys_(reinterpret_cast<int64_t*>(scratch + plan.keys_at)),
        rows_(reinterpret_cast<const Acc**>(scratch + plan.pointers_at)),
        stage_(reinterpret_cast<Acc*>(scratch + plan.stage_at)),
        operands_(reinterpret_cast<Acc*>(scratch + plan.operands_at)) {
    // All of it: padding is never written again, and lanes without a filter multiply what lies there by zero.
    __builtin_memset(ring_, 0, static_cast<size_t>((plan.slots + 1) * plan.row + kLanes) * sizeof(Acc));
  }

  void run(int64_t unit) {
    const Blocks<Acc>& blocks = plan_.blocks;
    const int64_t band = unit % plan_.bands, strip = unit / plan_.bands, q0 = strip % plan_.stretches * plan_.columns;
    const int64_t chunk = strip / plan_.stretches % plan_.chunks, n = strip / plan_.stretches / plan_.chunks;
    const int64_t first = chunk * plan_.chunk, last = work::min(blocks.count, first + plan_.chunk);
    const int64_t p1 = work::min(c_.P, (band + 1) * plan_.rows), columns = work::min(plan_.columns, c_.Q - q0);
    const int64_t width = work::round_up(balanced(columns, kTile), 2), channel = blocks.first_channel(first);
    for (int64_t i = 0; i < plan_.slots; ++i) keys_[i] = -1;
    for (int64_t p = band * plan_.rows; p < p1; ++p) {
      fetch_rows(n, p, q0, channel, blocks.last_channel(last - 1) - channel);
      const auto tile = [&](int64_t b, int64_t q, Acc* out) {
        const int64_t pixels = work::min(width, columns - q), at = q * plan_.taps.step_q + blocks.first_channel(b);
        const Acc* weights = plan_.weights + b * c_.gemm_k() * kLanes;
        tiles_.functions[(pixels + 1) / 2 - 1](rows_, at - channel, weights, plan_.taps, out);
        return pixels;
      };
      if (plan_.pixels_first) {
        for (int64_t q = 0; q < columns; q += width)
          for (int64_t b = first; b < last; ++b) finish(n, b, p, q0 + q, tile(b, q, stage_));
      } else {
        for (int64_t b = first; b < last; ++b) {
          for (int64_t q = 0; q < columns; q += width) tile(b, q, stage_ + q * kLanes);
          finish(n, b, p, q0, columns);
        }
      }
    }
  }

 private:
  // Points rows_ at the rows of the taps of output row p, copying those that the ring does not hold.
  void fetch_rows(int64_t n, int64_t p, int64_t q0, int64_t channel, int64_t channels) {
    for (int64_t r = 0; r < c_.R; ++r) {
      const int64_t h = p * c_.stride_h - c_.pad_top + r * c_.dilation_h;
      const bool inside = h >= 0 && h < c_.H;
      const int64_t slot = !inside ? plan_.slots : plan_.shares_rows ? h % plan_.slots : r;
      Acc* row = ring_ + slot * plan_.row;
      rows_[r] = row;
      if (!inside || keys_[slot] == h) continue;
      keys_[slot] = h;
      const int64_t w0 = q0 * c_.stride_w - c_.pad_left, pixel = plan_.taps.pixel;
      const int64_t first = work::min(plan_.span, work::max(0, -w0));
      const int64_t last = work::max(first, work::min(plan_.span, c_.W - w0));
      clear(row, first);
      clear(row + last * pixel, plan_.span - last);
      const TensorView& x = plan_.call.x;
      if (first == last) continue;
      load_pixels(x.as<const T>() + x.offset(n, channel, h, w0 + first), x.stride[3], x.stride[1], last - first,
                  channels, row + first * pixel, pixel);
    }
  }

  void clear(Acc* to, int64_t columns) const {
    __builtin_memset(to, 0, static_cast<size_t>(columns * plan_.taps.pixel) * sizeof(Acc));
  }

  void finish(int64_t n, int64_t block, int64_t p, int64_t q, int64_t pixels) {
    const int64_t k = plan_.blocks.first_filter(block), channels = plan_.blocks.filters(block);
    const EpilogueArgs& e = plan_.call.epilogue;
    TileRun<Acc> run{stage_, kLanes, pixels, channels, k, nullptr, nullptr, kLanes};
    const auto load = [&](const TensorView& view, Acc* to) {
      load_pixels(view.as<const T>() + view.offset(n, k, p, q), view.stride[3], view.stride[1], pixels, channels, to,
                  kLanes);
      return to;
    };
    if (e.residual.present()) run.residual = load(e.residual, operands_);
    if (e.full_param.present()) run.param = load(e.full_param, operands_ + plan_.staged);
    if (!e.is_identity()) finish_run(plan_.epilogue, run);
    const TensorView& y = plan_.call.y;
    store_pixels(stage_, kLanes, pixels, channels, y.as<T>() + y.offset(n, k, p, q), y.stride[3], y.stride[1]);
  }

  const Plan<T>& plan_;
  const ConvProblem& c_;
  const TileFunctions<Acc>& tiles_;
  Acc* ring_;         // [row, and one of zeros][column][channel]
  int64_t* keys_;     // which row a slot of the ring holds
  const Acc** rows_;  // of the taps of the output row at hand
  Acc *stage_, *operands_;
};

template <class Acc>
int64_t packed_elements(const ConvProblem& c) {
  return Blocks<Acc>(c).count * Vec<Acc>::kLanes * c.gemm_k();
}

template <class T>
void pack(const ConvProblem& c, const TensorView& w, void* packed) {
  using Acc = accumulate_t<T>;
  constexpr int64_t kLanes = Vec<Acc>::kLanes;
  const Blocks<Acc> blocks(c);
  const int64_t C = blocks.C, size = C * c.R * c.S * kLanes;
  parallel_for(blocks.count, 16384 / (size + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t k0 = blocks.first_filter(b), filters = blocks.filters(b);
      Acc* out = static_cast<Acc*>(packed) + b * size;
      for (int64_t j = 0; j < kLanes; ++j) {
        const T* from = w.as<const T>() + w.offset(j < filters ? k0 + j : k0, 0, 0, 0);
        Acc* to = out + j;
        for (int64_t r = 0; r < c.R; ++r)
          for (int64_t ch = 0; ch < C; ++ch)
            for (int64_t s = 0; s < c.S; ++s, to += kLanes)
              *to =
                  j < filters ? Acc(to_accumulate(from[ch * w.stride[1] + r * w.stride[2] + s * w.stride[3]])) : Acc(0);
      }
    }
  });
}

}  // namespace grouped

// Whether conv2d_pack makes this algorithm's format: where it is the one that is taken unasked.
inline bool grouped_format(const ConvProblem& c, DType dtype) { return shares_vectors(c, dtype, kVectorBytes); }

inline size_t conv2d_grouped_packed_bytes(const ConvProblem& c, DType dtype) {
  return static_cast<size_t>(dtype == DType::kFloat64 ? grouped::packed_elements<double>(c) * 8
                                                      : grouped::packed_elements<float>(c) * 4);
}

inline void conv2d_grouped_pack(const ConvProblem& c, const TensorView& w, void* packed) {
  visit_dtype(w.dtype, [&](auto tag) { grouped::pack<typename decltype(tag)::type>(c, w, packed); });
}

inline void conv2d_grouped(const Conv2dCall& call, const CallContext& context) {
  const ConvProblem& c = call.problem;
  if (c.N * c.K * c.P * c.Q == 0) return;
  const void* packed = call.packed_w;
  if (!packed || !grouped_format(c, call.dtype)) {
    void* fresh = context.workspace->allocate(conv2d_grouped_packed_bytes(c, call.dtype));
    conv2d_grouped_pack(c, call.w, fresh);
    packed = fresh;
  }
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const grouped::Plan<T> plan(call, static_cast<const accumulate_t<T>*>(packed), context);
    const int64_t units = c.N * plan.chunks * plan.stretches * plan.bands;
    const int64_t effort = c.N * c.P * c.Q * c.K * c.gemm_k() / 4;
    work::run_in_slots(context, units, effort, plan.bytes, [&](void* scratch, int64_t begin, int64_t end) {
      grouped::Worker<T> worker(plan, static_cast<char*>(scratch));
      for (int64_t unit = begin; unit < end; ++unit) worker.run(unit);
    });
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
