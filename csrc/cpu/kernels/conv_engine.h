// The convolution engine: runs a ConvTask. Per thread:
//
//   for each block of outputs (an image, some rows, a range of columns)
//     for each step of the reduction (one, unless channels or vertical taps are too many for the band)
//       fetch the input rows (pointers only, where x is read in place)
//       for each panel of output channels
//         for each tile of the block: microkernel           <- weights of one panel stay in L1/L2 over the tiles
//         staged outputs only: finish, narrow, transpose the panel's block on its way to y
//
// Use: fill a ConvTask (conv_task.h), pack the filters with pack_filter (pack.h), call run_task.
#pragma once

#include "blocking.h"

namespace fastconv::cpu::FASTCONV_ISA {

template <class T>
FC_INLINE T* allocate(const CallContext& context, int64_t count) {
  return static_cast<T*>(context.workspace->allocate(static_cast<size_t>(larger(count, 1)) * sizeof(T)));
}

// What the threads of one call share.
template <class T>
struct EnginePlan {
  using Acc = accumulate_t<T>;
  static constexpr int64_t kRun = 32;  // pixels finished at a time: a run and its operands fit into L1

  SimplifiedTask task;
  Shares shares;
  Blocking blocking;
  RegisterEpilogue<Acc> epilogue;
  bool in_registers = true;  // the microkernel applies all of the epilogue
  int64_t filter_taps;       // in the packed filters, dead ones included
  int64_t threads = 1;
  bool flat_rows = false;  // blocks of whole rows are one run of pixels in y and its operands

  static bool adjacent_channels(const TensorView& v) { return !v.present() || stores_directly<Acc>(v); }

  EnginePlan(const ConvTask& given, const CallContext& context)
      : EnginePlan(given, simplify(given, allocate<int64_t>(context, simplify_memory(given))), context) {
    shares = choose_shares<Acc>(task, thread_pool().threads());
    threads = shares.channel * shares.pixel;
    shares = finer(shares);
    const int64_t rows = shares.columns ? task.P : smaller(task.P, ceil_div(task.N * task.P, shares.pixel));
    const int64_t columns = shares.columns ? ceil_div(tiles(), shares.pixel) * tile_columns() : task.Q;
    blocking = choose_blocking<T>(task, shares, rows, smaller(columns, task.Q), in_registers);
  }

  // For workers that are asked for whole rows, at most `rows` at a time.
  EnginePlan(const ConvTask& given, int64_t rows, const CallContext& context)
      : EnginePlan(given, as_it_stands(given, allocate<int64_t>(context, simplify_memory(given))), context) {
    blocking = choose_blocking<T>(task, shares, rows, task.Q, in_registers);
  }

  EnginePlan(const ConvTask& given, const SimplifiedTask& simplified, const CallContext& context)
      : task(simplified),
        epilogue(make_register_epilogue<Acc>(task.epilogue, task.groups * task.K, *context.workspace)),
        filter_taps(given.R * given.S) {
    const EpilogueArgs& e = task.epilogue;
    in_registers = fits_registers(e.act) && adjacent_channels(e.residual) && adjacent_channels(e.full_param);
    using task_detail::row_follows_row;
    flat_rows = row_follows_row(task.y, task.Q) && row_follows_row(e.residual, task.Q) &&
                row_follows_row(e.full_param, task.Q) && row_follows_row(task.partial, task.Q);
  }

  // More shares than threads, along what is divided already, so that fast threads can help slow ones. Stretches of them
  // are what `s` was, and none has so few pixels that its tiles are not full.
  Shares finer(Shares s) const {
    if (threads == 1) return s;
    const int64_t pixels = task.N * task.P * task.Q, panels = task.groups * panel_count<Acc>(task.K);
    const int64_t work = pixels * task.groups * task.K * larger(task.C * task.R * task.S, 1);
    const int64_t factor = smaller(kSharesOfThread, work / (threads * kShareWork));
    if (s.channel > 1 && reads_directly<T>(task)) {
      s.channel *= larger(1, smaller(factor, panels / s.channel));
    } else if (s.channel == 1) {
      const int64_t most = s.columns ? tiles() : smaller(task.N * task.P, pixels / (2 * kTileRows));
      s.pixel *= larger(1, smaller(factor, most / s.pixel));
    }
    return s;
  }

  int64_t tile_columns() const { return balanced(task.Q, kTileRows); }
  int64_t tiles() const { return ceil_div(task.Q, tile_columns()); }
};

// One thread's share.
template <class T>
class EngineWorker {
 public:
  using Plan = EnginePlan<T>;
  using Acc = accumulate_t<T>;
  static constexpr int64_t kLanes = Vec<Acc>::kLanes, kWidth = kPanelWidth<Acc>, kRun = Plan::kRun;

  // Bytes of scratch a thread needs.
  static int64_t memory(const Plan& plan) { return Layout(plan).bytes; }

  EngineWorker(const Plan& plan, char* memory) : EngineWorker(plan, Layout(plan), memory) {}

  // Output rows [p0, p1) of image n, all columns and channels, to `y`: the task's view at another place.
  void run_rows(int64_t n, int64_t p0, int64_t p1, void* y) {
    first_panel_ = 0;
    last_panel_ = t_.groups * panel_count<Acc>(t_.K);
    y_.data = y;
    for (int64_t q = 0; q < t_.Q; q += b_.q)
      for (int64_t p = p0; p < p1; p += b_.p) run_block({n, p, smaller(b_.p, p1 - p), q, smaller(b_.q, t_.Q - q)});
  }

  void run(int64_t share) {
    const Shares& s = plan_.shares;
    const int64_t panels = t_.groups * panel_count<Acc>(t_.K), ic = share % s.channel, ip = share / s.channel;
    first_panel_ = panels * ic / s.channel;
    last_panel_ = panels * (ic + 1) / s.channel;
    const int64_t rows = t_.N * t_.P, tiles = plan_.tiles(), width = plan_.tile_columns();
    const int64_t row0 = s.columns ? 0 : rows * ip / s.pixel, row1 = s.columns ? rows : rows * (ip + 1) / s.pixel;
    const int64_t column0 = s.columns ? tiles * ip / s.pixel * width : 0;
    const int64_t column1 = s.columns ? smaller(t_.Q, tiles * (ip + 1) / s.pixel * width) : t_.Q;
    for (int64_t row = row0; row < row1;) {
      const int64_t n = row / t_.P, p0 = row % t_.P, p1 = smaller(t_.P, p0 + row1 - row);
      for (int64_t q = column0; q < column1; q += b_.q)
        for (int64_t p = p0; p < p1; p += b_.p) run_block({n, p, smaller(b_.p, p1 - p), q, smaller(b_.q, column1 - q)});
      row += p1 - p0;
    }
  }

 private:
  // Byte offsets of the pieces of a thread's scratch.
  struct Layout {
    int64_t table, segments, chains, stage, operands, band, keys, bytes = 0;
    explicit Layout(const Plan& plan) {
      const Blocking& b = plan.blocking;
      const int64_t item = sizeof(Acc);
      table = take(b.p * b.r * static_cast<int64_t>(sizeof(const Acc*)));
      const int64_t taps = b.r * plan.task.S, most_chains = taps * b.c / kChain + 1;
      segments = take((taps + most_chains) * static_cast<int64_t>(sizeof(Segment)));
      chains = take((most_chains + 1) * static_cast<int64_t>(sizeof(int64_t)));
      stage = take(b.staged ? b.p * b.q * b.stage_pitch * item : 0);
      operands = take(plan.in_registers ? 0 : 2 * kRun * kWidth * item);
      band = take(b.direct ? 0 : (b.band.slots + 1) * b.band.row_elements() * item);
      keys = take(2 * b.band.slots * static_cast<int64_t>(sizeof(int64_t)));
      // Threads' scratch an odd number of cache lines apart.
      bytes += bytes / 64 % 2 ? 128 : 64;
    }
    int64_t take(int64_t size) {
      const int64_t at = bytes;
      bytes += ceil_div(size, 64) * 64;
      return at;
    }
  };

  struct Block {
    int64_t n, p, rows, q, columns;
  };
  // One step of the reduction over a block.
  struct Step {
    int64_t chains;
    int64_t first_group, first_panel;  // of the panels that the step serves
    int64_t channel;                   // from the row pointers to the first group's channels of the step
    bool first, last;
  };

  EngineWorker(const Plan& plan, const Layout& layout, char* memory)
      : plan_(plan),
        t_(plan.task),
        b_(plan.blocking),
        y_(plan.task.y),
        table_(reinterpret_cast<const Acc**>(memory + layout.table)),
        segments_(reinterpret_cast<Segment*>(memory + layout.segments)),
        chains_(reinterpret_cast<int64_t*>(memory + layout.chains)),
        stage_(reinterpret_cast<Acc*>(memory + layout.stage)),
        operands_(reinterpret_cast<Acc*>(memory + layout.operands)),
        rows_(plan.task, plan.blocking.band, reinterpret_cast<Acc*>(memory + layout.band),
              reinterpret_cast<int64_t*>(memory + layout.keys)) {}

  void run_block(const Block& block) {
    const int64_t per_group = panel_count<Acc>(t_.K);
    for (int64_t panel = first_panel_; panel < last_panel_;) {
      const int64_t group = panel / per_group;
      const int64_t end = smaller(last_panel_, b_.groups > 1 ? (group + b_.groups) * per_group
                                                             : smaller(panel + b_.panels, (group + 1) * per_group));
      const int64_t r_steps = b_.r_steps(t_), c_steps = b_.c_steps(t_);
      for (int64_t i = 0; i < r_steps * c_steps; ++i) {
        const int64_t r0 = i / c_steps * b_.r, r1 = smaller(t_.R, r0 + b_.r);
        const int64_t c0 = i % c_steps * b_.c, c1 = smaller(t_.C, c0 + b_.c);
        Step step{list_chains(r0, r1, c0, c1), group, panel, 0, i == 0, i == r_steps * c_steps - 1};
        if (c1 > c0 && r1 > r0) {
          const int64_t band_groups = (end - 1) / per_group - group + 1;
          step.channel = fetch_rows(block, r0, r1, group * t_.C + c0, band_groups * t_.C - (t_.C - (c1 - c0)));
        }
        for (int64_t k = panel; k < end; ++k) run_panel(block, step, k);
      }
      panel = end;
    }
  }

  int64_t pixel_pitch() const { return b_.direct ? t_.x.stride[3] : b_.band.pitch; }

  // Lists the segments of a step and cuts them into chains; returns how many, at least one.
  int64_t list_chains(int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    const int64_t pitch = pixel_pitch(), origin = b_.direct ? 0 : b_.band.origin, length = c1 - c0;
    int64_t count = 0, chains = 1, room = kChain;
    chains_[0] = 0;
    const auto append = [&](const Segment& next) {
      Segment* previous = count > chains_[chains - 1] ? segments_ + count - 1 : nullptr;
      // Taps side by side in the input and in the filters are one longer stretch (three of 3 channels: 9).
      if (previous && previous->row == next.row && previous->offset + previous->length == next.offset &&
          previous->weight_row + previous->length == next.weight_row) {
        previous->length += next.length;
      } else {
        segments_[count++] = next;
      }
    };
    for (int64_t r = r0; r < r1; ++r) {
      for (int64_t s = 0; s < t_.S; ++s) {
        Segment rest{r - r0, (t_.dw[s] - origin) * pitch,
                     (t_.filter_r[r] * t_.filter_step_r + t_.filter_s[s] * t_.filter_step_s) * t_.C + c0, length};
        while (rest.length > 0) {
          if (room == 0) {
            chains_[chains++] = count;
            room = kChain;
          }
          Segment piece = rest;
          piece.length = smaller(rest.length, room);
          append(piece);
          room -= piece.length;
          rest.offset += piece.length;
          rest.weight_row += piece.length;
          rest.length -= piece.length;
        }
      }
    }
    chains_[chains] = count;
    return chains;
  }

  // Points table_ at the rows of the block; returns where the first channel lies from there.
  int64_t fetch_rows(const Block& block, int64_t r0, int64_t r1, int64_t channel, int64_t channels) {
    rows_per_output_ = r1 - r0;
    if (!b_.direct) {
      rows_.select(block.n, block.q * t_.step_w + b_.band.origin, channel, channels);
      rows_.fetch(block.p, block.rows, t_.dh + r0, r1 - r0, table_);
      return 0;
    }
    const Acc* x = t_.x.template as<const Acc>() + t_.x.offset(block.n, 0, 0, block.q * t_.step_w);
    for (int64_t p = 0; p < block.rows; ++p)
      for (int64_t r = r0; r < r1; ++r)
        table_[p * (r1 - r0) + r - r0] = x + ((block.p + p) * t_.step_h + t_.dh[r]) * t_.x.stride[2];
    return channel;
  }

  void run_panel(const Block& block, const Step& step, int64_t panel) {
    const int64_t per_group = panel_count<Acc>(t_.K), group = panel / per_group, k = panel % per_group * kWidth;
    const int vectors = panel_vectors<Acc>(t_.K, panel % per_group);
    const int64_t channels = smaller(t_.K - k, vectors * kLanes), channel = group * t_.K + k;
    const int64_t filter_reduction = t_.C * plan_.filter_taps;
    const bool staged = b_.staged;
    Acc* stage = stage_ + (b_.stage_pitch > kWidth ? (panel - step.first_panel) * kWidth : 0);

    Tile<Acc> tile;
    const Acc* filters = static_cast<const Acc*>(t_.packed) + block.n * t_.packed_image;
    tile.weights = filters + group * packed_elements<Acc>(t_.K, filter_reduction) + k * filter_reduction;
    tile.step = t_.step_w * pixel_pitch();
    const bool partial = !step.first || t_.partial.present(), finish = step.last && plan_.in_registers;
    tile.epilogue = &plan_.epilogue;
    tile.channel = channel;
    // Whole vectors go to the staging tile, unless operands are read along (they may end with the last channel).
    const bool operands = plan_.in_registers && (t_.epilogue.residual.present() || t_.epilogue.full_param.present());
    tile.tail = static_cast<int>(staged && !operands ? kLanes : channels - (vectors - 1) * kLanes);
    tile.out_step = staged ? b_.stage_pitch : y_.stride[3];

    if (staged && step.first && t_.partial.present()) load_stage(block, stage, channel, channels);
    const int64_t column_channel = step.channel + (group - step.first_group) * t_.C;
    const Operand residual(t_.epilogue.residual, finish), param(t_.epilogue.full_param, finish);
    tile.residual_step = residual.step;
    tile.param_step = param.step;
    // A tile is `columns` pixels of one output row in two halves or, where rows are narrow, whole rows of two outputs.
    // Pixels that follow each other without a gap and are read for the first time: the hardware's prefetchers do not
    // see the order in which a tile's rows are read.
    const bool ahead = b_.direct && panel == step.first_panel && t_.R * t_.S == 1 && tile.step == t_.C;
    tile.ahead_step = ahead ? 64 / static_cast<int64_t>(sizeof(Acc)) : 0;
    const bool pairs = block.columns * 2 <= kTileRows && block.rows > 1;
    const int64_t width = balanced(block.columns, kTileRows);
    for (int64_t p = 0; p < block.rows; p += pairs ? 2 : 1) {
      const bool pair = pairs && p + 1 < block.rows;
      for (int64_t q = 0; q < block.columns; q += width) {
        const int64_t columns = smaller(width, block.columns - q);
        const int64_t pixels = pair ? 2 * columns : columns;
        // The second half begins: in the next row of outputs, or further along this one.
        const int64_t p1 = pair ? p + 1 : p, q1 = pair ? q : q + (columns + 1) / 2;
        tile.rows0 = table_ + p * rows_per_output_;
        tile.rows1 = table_ + p1 * rows_per_output_;
        tile.column0 = q * tile.step + column_channel;
        tile.column1 = q1 * tile.step + column_channel;
        tile.ahead = tile.weights;
        if (ahead) tile.ahead = tile.rows0[0] + tile.column0 + width * tile.step;
        if (staged) {
          tile.out0 = stage + (p * block.columns + q) * b_.stage_pitch;
          tile.out1 = stage + (p1 * block.columns + q1) * b_.stage_pitch;
        } else {
          Acc* y = y_.template as<Acc>();
          tile.out0 = y + y_.offset(block.n, channel, block.p + p, block.q + q);
          tile.out1 = y + y_.offset(block.n, channel, block.p + p1, block.q + q1);
        }
        tile.residual0 = residual.at(block.n, channel, block.p + p, block.q + q);
        tile.residual1 = residual.at(block.n, channel, block.p + p1, block.q + q1);
        tile.param0 = param.at(block.n, channel, block.p + p, block.q + q);
        tile.param1 = param.at(block.n, channel, block.p + p1, block.q + q1);
        const TileFunction<Acc> run_tile = kTileFunctions<Acc>.functions[vectors - 1][pixels - 1];
        for (int64_t i = 0; i < step.chains; ++i) {
          tile.segments = segments_ + chains_[i];
          tile.segment_count = chains_[i + 1] - chains_[i];
          tile.load_partial = partial || i > 0;
          tile.finish = finish && i == step.chains - 1;
          run_tile(tile);
          tile.ahead += kChain * tile.ahead_step;
        }
      }
    }
    if (staged && step.last) finish_stage(block, stage, channel, channels);
  }

  // A tensor the microkernel reads along with its outputs, or nothing.
  struct Operand {
    const TensorView& view;
    bool used;
    int64_t step;
    Operand(const TensorView& v, bool wanted) : view(v), used(wanted && v.present()), step(used ? v.stride[3] : 0) {}
    const Acc* at(int64_t n, int64_t k, int64_t p, int64_t q) const {
      return used ? view.as<const Acc>() + view.offset(n, k, p, q) : nullptr;
    }
  };

  // f(first pixel in the stage, n, p, q, pixels) over the block, in runs that are evenly spaced in y and its operands.
  template <class F>
  void for_runs(const Block& block, F&& f) const {
    const bool flat = plan_.flat_rows && block.columns == t_.Q;
    const int64_t run = plan_.in_registers ? kBlockPixels : kRun;
    const int64_t rows = flat ? 1 : block.rows, columns = flat ? block.rows * block.columns : block.columns;
    for (int64_t p = 0; p < rows; ++p)
      for (int64_t q = 0; q < columns; q += run)
        f(p * columns + q, block.p + p, block.q + q, smaller(run, columns - q));
  }

  void load_stage(const Block& block, Acc* stage, int64_t channel, int64_t channels) {
    for_runs(block, [&](int64_t pixel, int64_t p, int64_t q, int64_t pixels) {
      load_pixels(t_.partial.template as<const Acc>() + t_.partial.offset(block.n, channel, p, q), t_.partial.stride[3],
                  int64_t{1}, pixels, channels, stage + pixel * b_.stage_pitch, b_.stage_pitch);
    });
  }

  void finish_stage(const Block& block, Acc* stage, int64_t channel, int64_t channels) {
    const TensorView &y = y_, &residual = t_.epilogue.residual, &param = t_.epilogue.full_param;
    for_runs(block, [&](int64_t pixel, int64_t p, int64_t q, int64_t pixels) {
      Acc* acc = stage + pixel * b_.stage_pitch;
      if (!plan_.in_registers) {
        TileRun<Acc> run{acc, b_.stage_pitch, pixels, channels, channel, nullptr, nullptr, kWidth};
        if (residual.present()) {
          load_pixels(residual.as<const T>() + residual.offset(block.n, channel, p, q), residual.stride[3],
                      residual.stride[1], pixels, channels, operands_, kWidth);
          run.residual = operands_;
        }
        if (param.present()) {
          Acc* to = operands_ + kRun * kWidth;
          load_pixels(param.as<const T>() + param.offset(block.n, channel, p, q), param.stride[3], param.stride[1],
                      pixels, channels, to, kWidth);
          run.param = to;
        }
        finish_run(plan_.epilogue, run);
      }
      store_pixels(acc, b_.stage_pitch, pixels, channels, y.template as<T>() + y.offset(block.n, channel, p, q),
                   y.stride[3], y.stride[1]);
    });
  }

  const Plan& plan_;
  const SimplifiedTask& t_;
  const Blocking& b_;
  TensorView y_;
  const Acc** table_;
  Segment* segments_;
  int64_t* chains_;  // where each begins among the segments, and where the last one ends
  Acc* stage_;
  Acc* operands_;
  InputRows<T> rows_;
  int64_t first_panel_ = 0, last_panel_ = 0;
  int64_t rows_per_output_ = 0;
};

template <class T>
void run_task_of(const ConvTask& task, const CallContext& context) {
  const EnginePlan<T> plan(task, context);
  const int64_t shares = plan.shares.channel * plan.shares.pixel, bytes = EngineWorker<T>::memory(plan);
  char* memory = allocate<char>(context, plan.threads * bytes);
  parallel_shares(plan.threads, shares,
                  [&](int64_t slot, int64_t share) { EngineWorker<T>(plan, memory + slot * bytes).run(share); });
}

// Runs a task of any dtype.
inline void run_task(const ConvTask& task, const CallContext& context) {
  if (task.N == 0 || task.P == 0 || task.Q == 0 || task.groups == 0 || task.K == 0) return;
  visit_dtype(task.dtype, [&](auto tag) { run_task_of<typename decltype(tag)::type>(task, context); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
