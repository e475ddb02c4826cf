// The 1x1 convolutions of a fused block: runs of pixels, `step` apart in a scratch or in x, times packed panels.
//
//   multiply_tile   up to kTileRows pixels and one panel, in chains of the reduction as the engine adds them, so that
//                   a block and its parts give the same sums
//   PixelSink       the block's last stage: epilogue, narrowing and y's layout
#pragma once

#include "blocking.h"

namespace fastconv::cpu::FASTCONV_ISA::block {

// A bank of 1x1 filters in the engine's format.
template <class Acc>
struct Filters {
  const Acc* packed = nullptr;
  int64_t C = 0, K = 0;
  RegisterEpilogue<Acc> epilogue;

  int64_t panels() const { return panel_count<Acc>(K); }
  int vectors(int64_t panel) const { return panel_vectors<Acc>(K, panel); }
  const Acc* panel(int64_t panel) const { return packed + panel * kPanelWidth<Acc> * C; }
};

// `tile` holds everything but the reduction and the second half's pointers: `pixels` from `x` on, `tile.step` apart.
template <class Acc>
FC_INLINE void multiply_tile(Tile<Acc>& tile, const Filters<Acc>& filters, int vectors, int64_t pixels, const Acc* x0,
                             const Acc* x1, bool finish) {
  const TileFunction<Acc> run = kTileFunctions<Acc>.functions[vectors - 1][pixels - 1];
  Segment segment{0, 0, 0, 0};
  tile.rows0 = &x0;
  tile.rows1 = &x1;
  tile.segments = &segment;
  tile.segment_count = 1;
  tile.ahead = tile.weights;
  for (int64_t c = 0; c < filters.C; c += kChain) {
    segment.offset = segment.weight_row = c;
    segment.length = smaller(kChain, filters.C - c);
    tile.load_partial = c > 0;
    tile.finish = finish && c + kChain >= filters.C;
    run(tile);
  }
}

// A tile without operands that are read along.
template <class Acc>
Tile<Acc> plain_tile(const Filters<Acc>& filters, int64_t panel, int64_t step) {
  Tile<Acc> tile{};
  tile.step = step;
  tile.weights = filters.panel(panel);
  tile.tail = Vec<Acc>::kLanes;
  tile.epilogue = &filters.epilogue;
  tile.channel = panel * kPanelWidth<Acc>;
  return tile;
}

template <class T>
class PixelSink {
 public:
  using Acc = accumulate_t<T>;
  static constexpr int64_t kRun = 28, kWidth = kPanelWidth<Acc>;  // pixels staged at a time: two tiles
  static constexpr int64_t kStageElements = 3 * kRun * kWidth;    // scratch a thread needs

  PixelSink() = default;
  PixelSink(const Filters<Acc>& filters, const TensorView& y, const EpilogueArgs& args)
      : filters_(filters), y_(y), residual_(args.residual), param_(args.full_param) {
    if (param_.size[0] == 1) param_.stride[0] = 0;
    const auto adjacent = [](const TensorView& v) { return !v.present() || stores_directly<Acc>(v); };
    direct_ = fits_registers(args.act) && adjacent(y) && adjacent(residual_) && adjacent(param_);
    using task_detail::row_follows_row;
    flat_ = row_follows_row(y_, y_.size[3]) && row_follows_row(residual_, y_.size[3]) &&
            row_follows_row(param_, y_.size[3]);
  }

  const Filters<Acc>& filters() const { return filters_; }

  // Pixels [first, first + count) of image n, counted along rows, of one panel. x: theirs, `step` elements apart.
  void run(int64_t panel, int64_t n, int64_t first, int64_t count, const Acc* x, int64_t step, Acc* stage) const {
    const int64_t Q = y_.size[3];
    for (int64_t i = 0; i < count;) {
      const int64_t p = (first + i) / Q, q = (first + i) % Q;
      const int64_t pixels = flat_ ? count - i : smaller(count - i, Q - q);
      run_evenly(panel, n, p, q, pixels, x + i * step, step, stage);
      i += pixels;
    }
  }

 private:
  // Pixels that are evenly spaced in y and its operands.
  void run_evenly(int64_t panel, int64_t n, int64_t p, int64_t q, int64_t count, const Acc* x, int64_t step,
                  Acc* stage) const {
    const int vectors = filters_.vectors(panel);
    const int64_t k = panel * kWidth, channels = smaller(filters_.K - k, kWidth);
    Tile<Acc> tile = plain_tile(filters_, panel, step);
    const int64_t width = balanced(count, kTileRows);
    if (direct_) {
      tile.tail = static_cast<int>(channels - (vectors - 1) * Vec<Acc>::kLanes);
      tile.out_step = y_.stride[3];
      tile.residual_step = residual_.stride[3];
      tile.param_step = param_.stride[3];
      for (int64_t i = 0; i < count; i += width) {
        const int64_t pixels = smaller(width, count - i), half = (pixels + 1) / 2;
        tile.out0 = y_.as<Acc>() + y_.offset(n, k, p, q + i);
        tile.out1 = tile.out0 + half * tile.out_step;
        if (residual_.present()) {
          tile.residual0 = residual_.as<const Acc>() + residual_.offset(n, k, p, q + i);
          tile.residual1 = tile.residual0 + half * tile.residual_step;
        }
        if (param_.present()) {
          tile.param0 = param_.as<const Acc>() + param_.offset(n, k, p, q + i);
          tile.param1 = tile.param0 + half * tile.param_step;
        }
        multiply_tile(tile, filters_, vectors, pixels, x + i * step, x + (i + half) * step, true);
      }
      return;
    }
    tile.out_step = kWidth;
    const int64_t piece = width * 2 <= kRun ? width * 2 : width;
    for (int64_t begin = 0; begin < count; begin += piece) {
      const int64_t end = smaller(count, begin + piece);
      for (int64_t i = begin; i < end; i += width) {
        const int64_t pixels = smaller(width, end - i), half = (pixels + 1) / 2;
        tile.out0 = stage + (i - begin) * kWidth;
        tile.out1 = tile.out0 + half * kWidth;
        multiply_tile(tile, filters_, vectors, pixels, x + i * step, x + (i + half) * step, false);
      }
      finish(n, k, p, q + begin, end - begin, channels, stage);
    }
  }

  void finish(int64_t n, int64_t k, int64_t p, int64_t q, int64_t pixels, int64_t channels, Acc* stage) const {
    TileRun<Acc> run{stage, kWidth, pixels, channels, k, nullptr, nullptr, kWidth};
    const auto operand = [&](const TensorView& v, Acc* to) -> const Acc* {
      if (!v.present()) return nullptr;
      load_pixels(v.as<const T>() + v.offset(n, k, p, q), v.stride[3], v.stride[1], pixels, channels, to, kWidth);
      return to;
    };
    run.residual = operand(residual_, stage + kRun * kWidth);
    run.param = operand(param_, stage + 2 * kRun * kWidth);
    finish_run(filters_.epilogue, run);
    store_pixels(stage, kWidth, pixels, channels, y_.template as<T>() + y_.offset(n, k, p, q), y_.stride[3],
                 y_.stride[1]);
  }

  Filters<Acc> filters_;
  TensorView y_, residual_, param_;
  bool direct_ = false, flat_ = false;
};

}  // namespace fastconv::cpu::FASTCONV_ISA::block
