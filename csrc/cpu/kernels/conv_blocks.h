// (expand ->) depthwise -> project (+ residual) without the tensors between: MobileNet's and EfficientNet's blocks.
//
//   x rows --expand, one panel of hidden channels--> ring of hidden rows      [row][column, zeros around][panel]
//          --depthwise, the same panel------------> filtered pixels of a band [pixel][hidden]
//   and, when all panels have passed, --project--> y
//
// A panel's hidden rows are in L1 or L2 when the depthwise tile reads them; the filtered pixels are in L2 when the
// project's register tile does. Without expand the depthwise tile reads x itself.
#pragma once

#include "block_plan.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace block {

template <class T>
class BlockWorker {
 public:
  using Plan = BlockPlan<T>;
  using Acc = accumulate_t<T>;
  static constexpr int64_t kWidth = Plan::kWidth, kLanes = Plan::kLanes;

  // `filtered`: of all images, when threads share them; else null.
  BlockWorker(const Plan& plan, Acc* scratch, Acc* filtered)
      : plan_(plan),
        run_depthwise_(depthwise::choose_row_tile(plan.dw)),
        x_(scratch),
        ring_(x_ + plan.x_elements()),
        filtered_(filtered ? filtered : ring_ + plan.ring_elements()),
        stage_(ring_ + plan.ring_elements() + plan.filtered_elements()) {
    if (plan.expands) clear_borders();
  }

  // Output rows [begin, end), counted over all images.
  void run_rows(int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end;) {
      const int64_t n = row / plan_.P, p0 = row % plan_.P, p1 = smaller(plan_.P, p0 + end - row);
      held_ = 0;
      for (int64_t p = p0; p < p1; p += plan_.band) {
        const int64_t last = smaller(p1, p + plan_.band);
        filter_band(n, p, last, 0, plan_.panels);
        project_band(n, p, last);
      }
      row += p1 - p0;
    }
  }

  // Panels [begin, end) of the hidden channels, counted over all images, through expand and depthwise.
  void run_panels(int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end;) {
      const int64_t n = unit / plan_.panels, first = unit % plan_.panels;
      const int64_t last = smaller(plan_.panels, first + end - unit);
      held_ = 0;
      filter_band(n, 0, plan_.P, first, last);
      unit += last - first;
    }
  }

  // Units of the project: (image, panel, tile of pixels).
  void run_project(int64_t begin, int64_t end, int64_t tiles, int64_t width) {
    const int64_t pixels = plan_.P * plan_.Q, panels = plan_.project.filters().panels(), pitch = plan_.filtered_pitch;
    for (int64_t unit = begin; unit < end;) {
      const int64_t first = unit % tiles * width, panel = unit / tiles % panels, n = unit / tiles / panels;
      const int64_t count = smaller(end - unit, tiles - unit % tiles);
      plan_.project.run(panel, n, first, smaller(count * width, pixels - first),
                        filtered_ + (n * pixels + first) * pitch, pitch, stage_);
      unit += count;
    }
  }

 private:
  Acc* ring_row(int64_t panel, int64_t h) const {
    const int64_t kept = plan_.kept_panels > 1 ? panel : 0;
    return ring_ + (kept * plan_.ring + h % plan_.ring) * plan_.panel_row();
  }

  // Zeros on both sides of every hidden row: expand never writes there.
  void clear_borders() {
    const int64_t left = plan_.dw.pad_left, right = plan_.columns - left - plan_.W;
    for (int64_t row = 0; row < plan_.kept_panels * plan_.ring; ++row) {
      Acc* at = ring_ + row * plan_.panel_row();
      __builtin_memset(at, 0, static_cast<size_t>(left * kWidth) * sizeof(Acc));
      __builtin_memset(at + (left + plan_.W) * kWidth, 0, static_cast<size_t>(right * kWidth) * sizeof(Acc));
    }
  }

  // Output rows [p0, p1) of the depthwise stage, hidden panels [first, last).
  void filter_band(int64_t n, int64_t p0, int64_t p1, int64_t first, int64_t last) {
    Acc* out = filtered_ + (plan_.by_channels ? n * plan_.P * plan_.filtered_row() : 0);
    const auto job = [&](const depthwise::Pixels<Acc>& source, int64_t k0, int64_t k1) {
      return depthwise::RowsJob<Acc>{plan_.dw,
                                     plan_.dw_epilogue,
                                     source,
                                     {0, p0, p1, 0, plan_.Q, k0, k1},
                                     out,
                                     plan_.filtered_row(),
                                     plan_.filtered_pitch};
    };
    const int64_t lo = plan_.first_hidden(p0), hi = plan_.last_hidden(p0, p1);
    if (!plan_.expands && plan_.x_direct) {
      const TensorView& x = plan_.x;
      const depthwise::Pixels<Acc> source{
          x.template as<const Acc>() + n * x.stride[0], x.stride[2], x.stride[3], 0, 0, plan_.H, 0, plan_.W, 0, 0, 1};
      // From memory: two output rows share what they read.
      return depthwise::run_tiles(job(source, first * kWidth, smaller(plan_.hidden, last * kWidth)),
                                  depthwise::choose_channel_tile(plan_.dw));
    }
    const int64_t fresh = larger(lo, held_);  // rows below are in the ring already
    if (plan_.expands && !plan_.x_direct) stage_x(n, fresh, hi);
    for (int64_t panel = first; panel < last; ++panel) {
      const int64_t k0 = panel * kWidth, k1 = smaller(plan_.filtered_channels(), k0 + kWidth);
      depthwise::Pixels<Acc> source{ring_row(panel, 0),
                                    plan_.panel_row(),
                                    kWidth,
                                    0,
                                    lo,
                                    hi,
                                    -plan_.dw.pad_left,
                                    plan_.columns - plan_.dw.pad_left,
                                    -plan_.dw.pad_left,
                                    k0,
                                    1};
      if (plan_.expands) {
        expand_rows(n, panel, fresh, hi);
        source.ring_rows = plan_.ring;
        source.ring_first = lo % plan_.ring;
      } else {
        depthwise::stage_pixels(plan_.dw, {n, p0, p1, 0, plan_.Q, k0, smaller(plan_.hidden, k1)}, lo, hi,
                                -plan_.dw.pad_left, plan_.columns, kWidth, ring_);
      }
      run_depthwise_(job(source, k0, k1));
    }
    if (plan_.keeps_rows) held_ = hi;
  }

  // x's rows of a narrow type or another layout, as the microkernel wants them.
  void stage_x(int64_t n, int64_t begin, int64_t end) {
    const TensorView& x = plan_.x;
    for (int64_t h = begin; h < end; ++h) {
      load_pixels(x.template as<const T>() + x.offset(n, 0, h, 0), x.stride[3], x.stride[1], plan_.W, x.size[1],
                  x_ + h % plan_.ring * plan_.staged_row(), x.size[1]);
    }
  }

  const Acc* x_row(int64_t n, int64_t h) const {
    if (plan_.x_direct) return plan_.x.template as<const Acc>() + plan_.x.offset(n, 0, h, 0);
    return x_ + h % plan_.ring * plan_.staged_row();
  }

  // Hidden rows [begin, end) of a panel. A tile is a piece of one row or, where rows are narrow, two whole ones.
  void expand_rows(int64_t n, int64_t panel, int64_t begin, int64_t end) {
    const int vectors = plan_.expand.vectors(panel);
    const int64_t W = plan_.W, left = plan_.dw.pad_left * kWidth, width = balanced(W, kTileRows);
    Tile<Acc> tile = plain_tile(plan_.expand, panel, plan_.x_direct ? plan_.x.stride[3] : plan_.x.size[1]);
    tile.out_step = kWidth;
    const bool in_registers = fits_registers(plan_.expand.epilogue.act), pairs = 2 * W <= kTileRows;
    for (int64_t h = begin; h < end; h += pairs ? 2 : 1) {
      const bool pair = pairs && h + 1 < end;
      const Acc* in = x_row(n, h);
      Acc* out = ring_row(panel, h) + left;
      for (int64_t q = 0; q < W; q += width) {
        const int64_t columns = smaller(width, W - q), half = q + (columns + 1) / 2;
        tile.out0 = out + q * kWidth;
        tile.out1 = pair ? ring_row(panel, h + 1) + left : out + half * kWidth;
        multiply_tile(tile, plan_.expand, vectors, pair ? 2 * columns : columns, in + q * tile.step,
                      pair ? x_row(n, h + 1) : in + half * tile.step, in_registers);
      }
      for (int64_t i = 0; !in_registers && i < (pair ? 2 : 1); ++i) {
        finish_run(plan_.expand.epilogue, TileRun<Acc>{ring_row(panel, h + i) + left, kWidth, W, vectors * kLanes,
                                                       panel * kWidth, nullptr, nullptr, kWidth});
      }
    }
  }

  // In blocks of pixels that stay in L1 and L2 while the panels pass.
  void project_band(int64_t n, int64_t p0, int64_t p1) {
    const int64_t pixels = (p1 - p0) * plan_.Q, pitch = plan_.filtered_pitch;
    const int64_t width = balanced(pixels, kTileRows),
                  block = balanced(ceil_div(pixels, width), kBandPixels / width) * width;
    for (int64_t i = 0; i < pixels; i += block) {
      for (int64_t panel = 0; panel < plan_.project.filters().panels(); ++panel) {
        plan_.project.run(panel, n, p0 * plan_.Q + i, smaller(block, pixels - i), filtered_ + i * pitch, pitch, stage_);
      }
    }
  }

  const Plan& plan_;
  const depthwise::RowsFunction<Acc> run_depthwise_;
  Acc *x_, *ring_, *filtered_, *stage_;
  int64_t held_ = 0;  // hidden rows of the image up to here are in the ring, as far as it reaches back
};

template <class T>
void run_block(const Stages& stages, const CallContext& context) {
  using Acc = accumulate_t<T>;
  const BlockPlan<T> plan(stages, context);
  const int64_t scratch = plan.scratch_elements(), slots = plan.slots;
  Acc* memory = allocate<Acc>(context, slots * scratch);
  if (!plan.by_channels) {
    const int64_t shares = plan.row_shares();
    parallel_shares(slots, shares, [&](int64_t slot, int64_t i) {
      BlockWorker<T>(plan, memory + slot * scratch, nullptr).run_rows(plan.share_start(i), plan.share_start(i + 1));
    });
    return;
  }
  const int64_t pixels = plan.P * plan.Q, width = balanced(pixels, kTileRows), tiles = ceil_div(pixels, width);
  Acc* filtered = allocate<Acc>(context, plan.N * pixels * plan.filtered_pitch);
  const int64_t panels = plan.N * plan.panels, units = plan.N * plan.project.filters().panels() * tiles;
  parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      BlockWorker<T>(plan, memory + i * scratch, filtered).run_panels(panels * i / slots, panels * (i + 1) / slots);
    }
  });
  parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      BlockWorker<T>(plan, memory + i * scratch, filtered)
          .run_project(units * i / slots, units * (i + 1) / slots, tiles, width);
    }
  });
}

inline void run_block(const Stages& stages, const CallContext& context) {
  if (stages.y.numel() == 0) return;
  visit_storage<float>(stages.dtype, [&](auto tag) { run_block<typename decltype(tag)::type>(stages, context); });
}

}  // namespace block

inline void inverted_residual(const InvertedResidualCall& call, const CallContext& context) {
  block::run_block({call.dtype, call.x, call.y, &call.expand, call.depthwise, call.project}, context);
}

inline void depthwise_pointwise(const DepthwisePointwiseCall& call, const CallContext& context) {
  block::run_block({call.dtype, call.x, call.y, nullptr, call.depthwise, call.pointwise}, context);
}

}  // namespace fastconv::cpu::FASTCONV_ISA
