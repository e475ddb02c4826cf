// conv2d, 3x3 at stride 1, by Winograd's minimal filtering (common/winograd.h). Per thread:
//
//   for each block of tiles (of any images)
//     for each group
//       transform the tiles of x                            -> V[position][tile][c], in L2
//       for each panel of 32 filters
//         for each position: the register tile of GEMM      -> M[position][tile][k], in L2
//         transform back, epilogue                          -> y, or a stage in L1 and from there y
//
// Transformed filters: group | panel | position | c | filter in the panel. Sums over channels come in chains of
// kWinogradChain, so the bits of an output depend neither on blocks nor on threads nor on the other images.
#pragma once

#include "conv_engine.h"
#include "winograd_plan.h"

namespace fastconv::cpu::FASTCONV_ISA {

template <int kOutputs>
size_t winograd_packed_bytes(const ConvProblem& p) {
  const int64_t panel = packed_elements<float>(p.filters_per_group(), p.channels_per_group());
  return static_cast<size_t>(p.groups * panel * WinogradSize<kOutputs>::kPositions) * sizeof(float);
}

// The filters of one panel, transformed in float64.
template <int kOutputs, class T>
void winograd_pack_panel(const ConvProblem& p, const TensorView& w, int64_t group, int64_t panel, float* out) {
  using Size = WinogradSize<kOutputs>;
  const int64_t C = p.channels_per_group(), K = p.filters_per_group(), k0 = panel * kPanelWidth<float>;
  const int64_t width = panel_vectors<float>(K, panel) * VecF::kLanes, filters = smaller(K - k0, width);
  alignas(64) double taps[3][3][kPanelWidth<float>] = {};  // [s][r][filter]
  alignas(64) double half[Size::kTile][3][VecD::kLanes], u[VecD::kLanes];
  for (int64_t c = 0; c < C; ++c) {
    for (int64_t k = 0; k < filters; ++k) {
      const T* from = w.as<const T>() + w.offset(group * K + k0 + k, c, 0, 0);
      for (int64_t r = 0; r < 3; ++r)
        for (int64_t s = 0; s < 3; ++s) taps[s][r][k] = to_accumulate(from[r * w.stride[2] + s * w.stride[3]]);
    }
    for (int64_t k = 0; k < width; k += VecD::kLanes) {
      VecD in[3], out_row[Size::kTile];
      for (int s = 0; s < 3; ++s) {
        for (int r = 0; r < 3; ++r) in[r] = VecD::load(taps[s][r] + k);
        WinogradTransform<kOutputs>::filter(in, out_row);
        for (int i = 0; i < Size::kTile; ++i) out_row[i].store(half[i][s]);
      }
      for (int i = 0; i < Size::kTile; ++i) {
        for (int s = 0; s < 3; ++s) in[s] = VecD::load(half[i][s]);
        WinogradTransform<kOutputs>::filter(in, out_row);
        for (int j = 0; j < Size::kTile; ++j) {
          float* to = out + ((i * Size::kTile + j) * C + c) * width + k;
          out_row[j].store(u);
          for (int64_t lane = 0; lane < VecD::kLanes; ++lane) to[lane] = static_cast<float>(u[lane]);
        }
      }
    }
  }
}

// What a panel begins with, in elements from the start of the packed filters.
template <int kOutputs>
FC_INLINE int64_t winograd_panel_start(const WinogradExtents& e, int64_t group, int64_t panel) {
  return WinogradSize<kOutputs>::kPositions *
         (group * packed_elements<float>(e.K, e.C) + panel * kPanelWidth<float> * e.C);
}

template <int kOutputs>
void winograd_pack(const ConvProblem& p, const TensorView& w, void* packed) {
  const WinogradExtents e = winograd_extents<kOutputs>(p);
  const int64_t panels = panel_count<float>(e.K);
  visit_dtype(w.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (sizeof(T) <= sizeof(float)) {
      parallel_for(p.groups * panels, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t group = i / panels, panel = i % panels;
          winograd_pack_panel<kOutputs, T>(
              p, w, group, panel, static_cast<float*>(packed) + winograd_panel_start<kOutputs>(e, group, panel));
        }
      });
    }
  });
}

// What the threads of one call share.
template <class T, int kOutputs>
struct WinogradPlan {
  const ConvProblem& p;
  TensorView x, y, residual, param;
  WinogradExtents e;
  Shares shares;
  WinogradBlocking b;
  RegisterEpilogue<float> epilogue;
  int64_t threads;
  bool direct_input, direct_output;
  const float* packed;

  WinogradPlan(const Conv2dCall& call, const CallContext& context, const void* filters)
      : p(call.problem),
        x(call.x),
        y(call.y),
        residual(call.epilogue.residual),
        param(call.epilogue.full_param),
        e(winograd_extents<kOutputs>(p)),
        shares(winograd_shares<kOutputs>(e, thread_pool().threads())),
        b(winograd_blocking<kOutputs>(e, shares)),
        epilogue(make_register_epilogue<float>(call.epilogue, p.K, *context.workspace)),
        packed(static_cast<const float*>(filters)) {
    threads = shares.channel * shares.pixel;
    // A share is a block, so that fast threads can help slow ones.
    shares.pixel *= ceil_div(ceil_div(e.tiles, shares.pixel), b.tiles);
    const auto adjacent = [](const TensorView& v) { return !v.present() || stores_directly<float>(v); };
    direct_input = sizeof(T) == sizeof(float) && adjacent(x);
    direct_output = sizeof(T) == sizeof(float) && fits_registers(epilogue.act) && adjacent(y) && adjacent(residual) &&
                    adjacent(param);
    if (param.size[0] == 1) param.stride[0] = 0;  // shared by the batch
  }
};

// One thread's share.
template <class T, int kOutputs>
class WinogradWorker {
 public:
  using Plan = WinogradPlan<T, kOutputs>;
  using Size = WinogradSize<kOutputs>;
  static constexpr int64_t kLanes = VecF::kLanes, kWidth = kPanelWidth<float>;
  // Tiles in a row that pass through a stage together: 32 pixels, so that stages fit into L1.
  static constexpr int64_t kRun = 32 / kOutputs, kColumns = kRun * kOutputs;

  static int64_t memory(const Plan& plan) { return Layout(plan).bytes; }

  WinogradWorker(const Plan& plan, char* memory) : WinogradWorker(plan, Layout(plan), memory) {}

  void run(int64_t share) {
    const WinogradExtents& e = plan_.e;
    const Shares& s = plan_.shares;
    const int64_t per_group = panel_count<float>(e.K), panels = e.groups * per_group;
    const int64_t ic = share / s.pixel, ip = share % s.pixel;  // neighbours share their filters
    const int64_t first = panels * ic / s.channel, last = panels * (ic + 1) / s.channel;
    // At most a block of them, as the plan has it; none where there are fewer tiles than shares.
    const int64_t tile = e.tiles * ip / s.pixel, tiles = e.tiles * (ip + 1) / s.pixel - tile;
    if (tiles == 0) return;
    for (int64_t panel = first; panel < last;) {
      const int64_t group = panel / per_group, group_end = smaller(last, (group + 1) * per_group);
      for_runs(tile, tiles, [&](const Run& r) { transform_input(r, group); });
      for (; panel < group_end; panel += b_.panels) {
        const int64_t k = panel - group * per_group, count = smaller(b_.panels, group_end - panel);
        multiply(group, k, count, tiles);
        for_runs(tile, tiles, [&](const Run& r) {
          for (int64_t i = 0; i < count; ++i) transform_output(r, group, k + i, products_ + i * kWidth);
        });
      }
      panel = group_end;
    }
  }

 private:
  // Neighbouring tiles of one image: the first's number in the block, its image, row and column of tiles, and how many.
  struct Run {
    int64_t at, n, row, column, tiles;
  };

  // Byte offsets of the pieces of a thread's scratch.
  struct Layout {
    int64_t values, products, input, output, operands, zeros, segments, bytes = 0;
    explicit Layout(const Plan& plan) {
      const WinogradBlocking& b = plan.b;
      values = take(Size::kPositions * b.v_position * kItem);
      products = take(Size::kPositions * b.m_position * kItem);
      input = take(plan.direct_input ? 0 : Size::kTile * (kColumns + 2) * kLanes * kItem);
      output = take(plan.direct_output ? 0 : kOutputs * kColumns * kWidth * kItem);
      operands = take(plan.direct_output ? 0 : 2 * kColumns * kWidth * kItem);
      zeros = take(b.c_pitch * kItem);
      segments = take((plan.e.C / kWinogradChain + 1) * static_cast<int64_t>(sizeof(Segment)));
      bytes += bytes / 64 % 2 ? 128 : 64;  // threads' scratch an odd number of cache lines apart
    }
    static constexpr int64_t kItem = sizeof(float);
    int64_t take(int64_t size) {
      const int64_t at = bytes;
      bytes += ceil_div(size, 64) * 64;
      return at;
    }
  };

  WinogradWorker(const Plan& plan, const Layout& layout, char* memory)
      : plan_(plan),
        b_(plan.b),
        values_(reinterpret_cast<float*>(memory + layout.values)),
        products_(reinterpret_cast<float*>(memory + layout.products)),
        input_(reinterpret_cast<float*>(memory + layout.input)),
        output_(reinterpret_cast<float*>(memory + layout.output)),
        operands_(reinterpret_cast<float*>(memory + layout.operands)),
        zeros_(reinterpret_cast<float*>(memory + layout.zeros)),
        segments_(reinterpret_cast<Segment*>(memory + layout.segments)) {
    __builtin_memset(zeros_, 0, static_cast<size_t>(b_.c_pitch) * sizeof(float));
    // Lanes beyond the last channel are transformed too, and the results not used: no rubbish that could be denormal.
    if (!plan.direct_input) __builtin_memset(input_, 0, static_cast<size_t>(layout.output - layout.input));
    for (int64_t c = 0; c < plan.e.C; c += kWinogradChain)
      segments_[chains_++] = {0, c, c, smaller(kWinogradChain, plan.e.C - c)};
  }

  template <class F>
  void for_runs(int64_t tile, int64_t tiles, F&& f) const {
    const WinogradExtents& e = plan_.e;
    for (int64_t at = 0; at < tiles;) {
      const int64_t row = (tile + at) / e.tiles_w, column = (tile + at) % e.tiles_w;
      const int64_t count = smaller(smaller(kRun, tiles - at), e.tiles_w - column);
      f(Run{at, row / e.tiles_h, row % e.tiles_h, column, count});
      at += count;
    }
  }

  void transform_input(const Run& r, int64_t group) {
    if (plan_.direct_input) {
      for (int64_t t = 0; t < r.tiles; ++t) transform_tile(r, t, group);
      return;
    }
    const int64_t columns = r.tiles * kOutputs + 2;
    for (int64_t c = 0; c < plan_.e.C; c += kLanes) {
      load_input(r, group * plan_.e.C + c, smaller(kLanes, plan_.e.C - c), columns);
      for (int64_t t = 0; t < r.tiles; ++t) {
        const float* from = input_ + t * kOutputs * kLanes;
        winograd_input<kOutputs>(
            [&](int i, int j) __attribute__((always_inline)) { return VecF::load(from + (i * columns + j) * kLanes); },
            values_ + (r.at + t) * b_.c_pitch + c, b_.v_position);
      }
    }
  }

  // The rows and columns that a run reads, of one vector of channels: [row][column][lane], zeros outside of x.
  void load_input(const Run& r, int64_t channel, int64_t channels, int64_t columns) {
    const TensorView& x = plan_.x;
    const int64_t w0 = r.column * kOutputs - plan_.p.pad_left;
    const int64_t first = smaller(columns, larger(0, -w0)), last = larger(first, smaller(columns, x.size[3] - w0));
    for (int64_t i = 0; i < Size::kTile; ++i) {
      const int64_t h = r.row * kOutputs - plan_.p.pad_top + i;
      float* row = input_ + i * columns * kLanes;
      const bool outside = h < 0 || h >= x.size[2];
      const int64_t begin = outside ? columns : first, end = outside ? columns : last;
      __builtin_memset(row, 0, static_cast<size_t>(begin * kLanes) * sizeof(float));
      __builtin_memset(row + end * kLanes, 0, static_cast<size_t>((columns - end) * kLanes) * sizeof(float));
      if (begin < end) {
        load_pixels(x.as<const T>() + x.offset(r.n, channel, h, w0 + begin), x.stride[3], x.stride[1], end - begin,
                    channels, row + begin * kLanes, kLanes);
      }
    }
  }

  // Tile t of a run, all channels of a group, from x where it lies.
  void transform_tile(const Run& r, int64_t t, int64_t group) {
    const TensorView& x = plan_.x;
    const int64_t C = plan_.e.C, h0 = r.row * kOutputs - plan_.p.pad_top;
    const int64_t w0 = (r.column + t) * kOutputs - plan_.p.pad_left;
    float* out = values_ + (r.at + t) * b_.c_pitch;
    const bool inside =
        h0 >= 0 && w0 >= 0 && h0 + Size::kTile <= x.size[2] && w0 + Size::kTile <= x.size[3] && C % kLanes == 0;
    if (inside) {
      const float* from = x.as<const float>() + x.offset(r.n, group * C, h0, w0);
      const int64_t row = x.stride[2], column = x.stride[3];
      for (int64_t c = 0; c < C; c += kLanes, from += kLanes) {
        winograd_input<kOutputs>([&](int i, int j)
                                     __attribute__((always_inline)) { return VecF::load(from + i * row + j * column); },
                                 out + c, b_.v_position);
      }
      return;
    }
    const float* pixels[Size::kTile][Size::kTile];
    for (int64_t i = 0; i < Size::kTile; ++i) {
      for (int64_t j = 0; j < Size::kTile; ++j) {
        const int64_t h = h0 + i, w = w0 + j;
        const bool outside = h < 0 || w < 0 || h >= x.size[2] || w >= x.size[3];
        pixels[i][j] = outside ? zeros_ : x.as<const float>() + x.offset(r.n, group * C, h, w);
      }
    }
    for (int64_t c = 0; c < C; c += kLanes) {
      const int64_t channels = smaller(kLanes, C - c);
      winograd_input<kOutputs>(
          [&](int i, int j) __attribute__((always_inline)) {
            const float* from = pixels[i][j] + c;
            return channels == kLanes ? VecF::load(from) : VecF::load_partial(from, channels);
          },
          out + c, b_.v_position);
    }
  }

  // M = U V for `count` panels of a group from the k-th on.
  void multiply(int64_t group, int64_t k, int64_t count, int64_t tiles) {
    const WinogradExtents& e = plan_.e;
    const int64_t rows = balanced(tiles, kTileRows);
    const float* values = values_;
    Tile<float> tile{};
    tile.rows0 = tile.rows1 = &values;
    tile.step = b_.c_pitch;
    tile.out_step = b_.m_pitch;
    tile.tail = static_cast<int>(kLanes);
    for (int64_t position = 0; position < Size::kPositions; ++position, values += b_.v_position) {
      for (int64_t i = 0; i < count; ++i) {
        const int vectors = panel_vectors<float>(e.K, k + i);
        tile.weights =
            plan_.packed + winograd_panel_start<kOutputs>(e, group, k + i) + position * e.C * vectors * kLanes;
        const float* next_filters = tile.weights + e.C * vectors * kLanes;
        const float* next_values = i + 1 < count ? values : values + b_.v_position;
        for (int64_t t = 0; t < tiles; t += rows) {
          // Every reduction step also brings one cache line of what comes next. Large filters come from the L3, where
          // the microkernel's own prefetches are too late: the first register tiles bring those of the next position
          // (28x28x512: 9.8 -> 7.1 ms). Small ones are in L2, and the next tiles' values gain 3 %.
          const int64_t part = t / rows;
          if (b_.filters_near) {
            tile.ahead_step = kLanes;
            tile.ahead = t + rows < tiles ? values + (t + rows) * b_.c_pitch : next_values;
          } else {
            tile.ahead_step = part < vectors ? kLanes : 0;
            tile.ahead = part < vectors ? next_filters + part * e.C * kLanes : tile.weights;
          }
          const int64_t count_rows = smaller(rows, tiles - t), half = (count_rows + 1) / 2;
          tile.column0 = t * b_.c_pitch;
          tile.column1 = (t + half) * b_.c_pitch;
          tile.out0 = products_ + position * b_.m_position + t * b_.m_pitch + i * kWidth;
          tile.out1 = tile.out0 + half * b_.m_pitch;
          const TileFunction<float> run_tile = kTileFunctions<float>.functions[vectors - 1][count_rows - 1];
          tile.segment_count = 1;
          for (int64_t chain = 0; chain < chains_; ++chain) {
            tile.segments = segments_ + chain;
            tile.load_partial = chain > 0;
            run_tile(tile);
            tile.ahead += kWinogradChain * tile.ahead_step;
          }
        }
      }
    }
  }

  void transform_output(const Run& r, int64_t group, int64_t panel, const float* products) {
    const int64_t k = panel * kWidth, channel = group * plan_.e.K + k;
    const int64_t channels = smaller(plan_.e.K - k, kWidth);
    products += r.at * b_.m_pitch;
    if (!plan_.direct_output) return stage_output(r, channel, channels, products);
    switch (plan_.epilogue.act) {
      case Activation::kRelu:
        return store_output<activations::Relu>(r, channel, channels, products);
      case Activation::kRelu6:
        return store_output<activations::Relu6>(r, channel, channels, products);
      case Activation::kLeakyRelu:
      case Activation::kPrelu:
        return store_output<activations::Prelu>(r, channel, channels, products);
      default:
        return store_output<activations::Identity>(r, channel, channels, products);
    }
  }

  template <class Act>
  void store_output(const Run& r, int64_t channel, int64_t channels, const float* products) {
    const TensorView &y = plan_.y, &residual = plan_.residual, &param = plan_.param;
    WinogradOutputs o{};
    o.epilogue = &plan_.epilogue;
    o.y_row = y.stride[2], o.y_column = y.stride[3];
    o.residual_row = residual.stride[2], o.residual_column = residual.stride[3];
    o.param_row = param.stride[2], o.param_column = param.stride[3];
    const int64_t p0 = r.row * kOutputs;
    o.rows = smaller(kOutputs, plan_.p.P - p0);
    for (int64_t t = 0; t < r.tiles; ++t, products += b_.m_pitch) {
      const int64_t q0 = (r.column + t) * kOutputs;
      o.columns = smaller(kOutputs, plan_.p.Q - q0);
      for (int64_t k = 0; k < channels; k += kLanes) {
        o.channel = channel + k;
        o.channels = smaller(kLanes, channels - k);
        o.y = y.as<float>() + y.offset(r.n, o.channel, p0, q0);
        o.residual =
            residual.present() ? residual.as<const float>() + residual.offset(r.n, o.channel, p0, q0) : nullptr;
        o.param = param.present() ? param.as<const float>() + param.offset(r.n, o.channel, p0, q0) : nullptr;
        if (o.rows == kOutputs && o.columns == kOutputs && o.channels == kLanes) {
          winograd_finish<kOutputs, Act, true>(products + k, b_.m_position, o);
        } else {
          winograd_finish<kOutputs, Act, false>(products + k, b_.m_position, o);
        }
      }
    }
  }

  // Outputs of a run in [row][column][k], then row by row through the epilogue, narrowed and transposed on their way.
  void stage_output(const Run& r, int64_t channel, int64_t channels, const float* products) {
    const int64_t p0 = r.row * kOutputs, q0 = r.column * kOutputs;
    const int64_t pitch = r.tiles * kOutputs, columns = smaller(pitch, plan_.p.Q - q0);
    for (int64_t t = 0; t < r.tiles; ++t, products += b_.m_pitch) {
      for (int64_t k = 0; k < channels; k += kLanes) {
        float* to = output_ + t * kOutputs * kWidth + k;
        winograd_output<kOutputs>(products + k, b_.m_position,
                                  [&](int i, int j, VecF v)
                                      __attribute__((always_inline)) { v.store(to + (i * pitch + j) * kWidth); });
      }
    }
    for (int64_t i = 0; i < smaller(kOutputs, plan_.p.P - p0); ++i) {
      TileRun<float> run{output_ + i * pitch * kWidth, kWidth, columns, channels, channel, nullptr, nullptr, kWidth};
      run.residual = load_operand(plan_.residual, r.n, p0 + i, q0, run, operands_);
      run.param = load_operand(plan_.param, r.n, p0 + i, q0, run, operands_ + kColumns * kWidth);
      finish_run(plan_.epilogue, run);
      const TensorView& y = plan_.y;
      store_pixels(run.acc, kWidth, columns, channels, y.as<T>() + y.offset(r.n, channel, p0 + i, q0), y.stride[3],
                   y.stride[1]);
    }
  }

  static const float* load_operand(const TensorView& v, int64_t n, int64_t p, int64_t q, const TileRun<float>& run,
                                   float* to) {
    if (!v.present()) return nullptr;
    load_pixels(v.as<const T>() + v.offset(n, run.channel, p, q), v.stride[3], v.stride[1], run.pixels, run.channels,
                to, kWidth);
    return to;
  }

  const Plan& plan_;
  const WinogradBlocking& b_;
  float *values_, *products_, *input_, *output_, *operands_, *zeros_;
  Segment* segments_;  // the chains
  int64_t chains_ = 0;
};

template <int kOutputs>
void conv2d_winograd(const Conv2dCall& call, const CallContext& context) {
  const ConvProblem& p = call.problem;
  if (p.N == 0 || p.K == 0 || p.P <= 0 || p.Q <= 0) return;
  const void* packed = call.packed_w;
  if (!packed) {
    void* filters = context.workspace->allocate(winograd_packed_bytes<kOutputs>(p) + 64);
    winograd_pack<kOutputs>(p, call.w, filters);
    packed = filters;
  }
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (sizeof(T) <= sizeof(float)) {
      const WinogradPlan<T, kOutputs> plan(call, context, packed);
      using Worker = WinogradWorker<T, kOutputs>;
      const int64_t shares = plan.shares.channel * plan.shares.pixel, bytes = Worker::memory(plan);
      char* memory = allocate<char>(context, plan.threads * bytes);
      parallel_shares(plan.threads, shares,
                      [&](int64_t slot, int64_t share) { Worker(plan, memory + slot * bytes).run(share); });
    }
  });
}

// dx of a convolution of one group: the convolution of dy with the filters turned round, channels for filters.
inline void conv2d_input_grad_winograd(const Conv2dInputGradCall& call, const CallContext& context) {
  const ConvProblem& p = call.problem;
  Conv2dCall forward;
  ConvProblem& q = forward.problem;
  q.N = p.N, q.C = p.K, q.H = p.P, q.W = p.Q;
  q.K = p.C, q.R = q.S = 3, q.P = p.H, q.Q = p.W;
  q.pad_top = 2 - p.pad_top, q.pad_left = 2 - p.pad_left;  // below zero: the first pixels of dy are not read
  forward.dtype = call.dtype;
  forward.x = call.dy, forward.y = call.dx, forward.epilogue = call.epilogue;
  const TensorView& w = call.w;
  forward.w = {static_cast<char*>(w.data) + w.offset(0, 0, 2, 2) * static_cast<int64_t>(dtype_size(w.dtype)),
               w.dtype,
               {w.size[1], w.size[0], 3, 3},
               {w.stride[1], w.stride[0], -w.stride[2], -w.stride[3]}};
  conv2d_winograd<4>(forward, context);
}

}  // namespace fastconv::cpu::FASTCONV_ISA
