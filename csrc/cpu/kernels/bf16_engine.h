// The bfloat16 convolution engine: runs a Task (bf16_task.h) with the TileEngine of simd/amx.h or simd/avx512_bf16.h.
// Per thread:
//
//   for each block of pixels (rows of an image, several images, or a run of pixels read in place), for each group
//     fill the band, unless x is read in place
//     for each set of panels of 32 filters that stays in L2
//       for each pair of tiles of pixels, or several pairs
//         for each panel of the set
//           for each slice of the reduction, one where there is one pair
//             tiles, and beside their products the epilogue of the tiles before
//
// Weights are read once per block from wherever they are. One pair's pixels stay in L1 over the panels; with several
// pairs a slice of filters does, and sums go through memory from slice to slice, which loses no bit.
#pragma once

#include "bf16_band.h"
#include "bf16_epilogue.h"

namespace fastconv::cpu::FASTCONV_ISA::bf16 {

// Pairs of tiles that share a slice of filters in L1, and the bytes of such a slice.
constexpr int64_t kPairs = TileEngine::kSlices ? 8 : 2, kSliceBytes = 18 << 10;
constexpr int64_t kLargePanel = 128 << 10;                      // one panel of filters that L2 is filled with
constexpr int64_t kBandBytes = 512 << 10, kSetBytes = 1 << 20;  // of an L2 of 2 MiB

// What the threads of one call share.
struct Plan {
  const Task t;
  const Geometry g;
  Epilogue epilogue;
  int64_t rows;        // of a tile
  int64_t block_rows;  // output rows of a block
  int64_t images;      // of a block of whole images
  int64_t* offsets;
  int64_t panel_bytes, block_bytes;  // of packed filters: 32 of them, 16 of them
  int64_t panels_in_set;
  int64_t slice_steps;     // of the reduction, at a time
  int64_t next_lines = 0;  // of filters, to be read ahead at every step
  int64_t channel_shares = 1, pixel_shares = 1;

  Plan(const Task& given, const CallContext& context) : t(simplify(given)), g(t), epilogue(t, *context.workspace) {
    const int64_t item = sizeof(bfloat16_t), row_bytes = g.row * item;
    block_bytes = group_elements(1, t.C, t.R * t.S) * item;
    panel_bytes = 2 * block_bytes;
    panels_in_set = larger(1, kSetBytes / panel_bytes);
    images = 1;
    if (g.in_place) {
      block_rows = 1;
    } else {
      const int64_t most = larger(1, kBandBytes / (g.planes * row_bytes) - g.more_rows);
      block_rows = ceil_div(t.P, ceil_div(t.P, most));
      if (block_rows == t.P) images = larger(1, smaller(t.N, kBandBytes / (g.band_rows(t.P) * row_bytes)));
    }
    choose_shares(thread_pool().threads());
    // Blocks no larger than a thread's share.
    if (!g.in_place && images == 1) {
      block_rows = smaller(block_rows, ceil_div(t.N * t.P, pixel_shares));
    } else if (!g.in_place) {
      images = smaller(images, ceil_div(t.N, pixel_shares));
    }
    rows = smaller(TileEngine::kRows, flat_pixels(block_rows));
    offsets = static_cast<int64_t*>(context.workspace->allocate(static_cast<size_t>(g.steps) * sizeof(int64_t)));
    g.list_steps(t, block_rows, offsets);
    choose_order();
  }

  int64_t flat_pixels(int64_t output_rows) const { return (output_rows - 1) * g.pitch + t.Q; }
  int64_t panels() const { return ceil_div(t.K, kWidth); }
  // A tile of a short last block may read pixels of nothing.
  int64_t image_elements() const { return g.band_rows(block_rows) * g.row; }
  int64_t band_elements() const {
    return g.in_place ? 0 : images * image_elements() + TileEngine::kRows * g.pixel + g.overlap * g.padded_c;
  }

 private:
  // Few pixels (14x14, 7x7) and many channels: panel by panel, the next one's filters read ahead, as they come from L3
  // or from memory. Several taps: slices of filters that stay in L1, where the pixels that taps share do too.
  void choose_order() {
    slice_steps = g.steps;
    if (!TileEngine::kSlices) return;
    const int64_t run = g.in_place ? ceil_div(t.Q, pixel_shares) : images * flat_pixels(block_rows);
    const int64_t pairs = ceil_div(run, TileEngine::kTiles * rows);
    if (pairs > 1 && pairs <= 8 && panel_bytes >= kLargePanel) {
      panels_in_set = 1;
      next_lines = pairs > 2 ? 4 : 16;
    }
    if (pairs >= 4 && t.R * t.S > 1 && !g.merged_taps) {
      const int64_t most = larger(1, kSliceBytes / (kWidth * g.channels * static_cast<int64_t>(sizeof(bfloat16_t))));
      slice_steps = ceil_div(g.steps, ceil_div(g.steps, most));
    }
  }

  // Shares of the filters or of the pixels: by what a thread computes and what it reads.
  void choose_shares(int64_t threads) {
    const int64_t pixels = t.N * t.P * t.Q, all_panels = t.groups * panels();
    const int64_t work = pixels * t.groups * t.K * t.C * t.R * t.S;
    threads = smaller(threads, larger(1, work / kLeastWork));
    double best = 0;
    for (int64_t channels = 1; channels <= threads; ++channels) {
      if (threads % channels != 0) continue;
      const int64_t panel_share = ceil_div(all_panels, channels);
      const int64_t units = g.in_place ? ceil_div(t.Q, 2 * TileEngine::kRows) : t.N * t.P, parts = threads / channels;
      const double share = static_cast<double>(ceil_div(units, parts)) / static_cast<double>(larger(units, 1));
      // Cycles of TDPBF16PS, and of reading from L3 (8 bytes a cycle).
      const double compute = share * static_cast<double>(panel_share * pixels) / 32 * static_cast<double>(g.steps) * 64;
      const double bytes = static_cast<double>(panel_share * panel_bytes) +
                           share * static_cast<double>(2 * t.N * t.x.size[2] * t.x.size[3] * t.C * t.groups);
      const double cost = compute + bytes / 8;
      if (best == 0 || cost < best) best = cost, channel_shares = channels, pixel_shares = parts;
    }
    channel_shares = smaller(channel_shares, all_panels);
    pixel_shares = smaller(pixel_shares, g.in_place ? ceil_div(t.Q, TileEngine::kRows) : t.N * t.P);
  }

  static constexpr int64_t kLeastWork = 1 << 22;  // multiplications worth a second thread: about 10 us
};

// One thread's share.
class Worker {
 public:
  Worker(const Plan& plan, bfloat16_t* band)
      : plan_(plan), t_(plan.t), g_(plan.g), engine_(plan.rows, plan.g.channels), band_(band) {}

  void run(int64_t share) {
    const int64_t all = t_.groups * plan_.panels();
    const int64_t ic = share % plan_.channel_shares, ip = share / plan_.channel_shares;
    first_panel_ = all * ic / plan_.channel_shares, last_panel_ = all * (ic + 1) / plan_.channel_shares;
    if (g_.in_place) {
      const int64_t tiles = ceil_div(t_.Q, plan_.rows);
      const int64_t first = tiles * ip / plan_.pixel_shares * plan_.rows;
      const int64_t last = smaller(t_.Q, tiles * (ip + 1) / plan_.pixel_shares * plan_.rows);
      for (int64_t n = 0; n < t_.N; ++n) run_in_place({n, 1, 0, 1, first, last, nullptr});
    } else if (plan_.images > 1) {
      const int64_t first = t_.N * ip / plan_.pixel_shares, last = t_.N * (ip + 1) / plan_.pixel_shares;
      for (int64_t n = first; n < last; n += plan_.images) run_band(n, smaller(plan_.images, last - n), 0, t_.P);
    } else {
      const int64_t all_rows = t_.N * t_.P;
      const int64_t first = all_rows * ip / plan_.pixel_shares, last = all_rows * (ip + 1) / plan_.pixel_shares;
      for (int64_t row = first; row < last;) {
        const int64_t p = row % t_.P, count = smaller(plan_.block_rows, smaller(t_.P - p, last - row));
        run_band(row / t_.P, 1, p, count);
        row += count;
      }
    }
  }

 private:
  // `images` times the flat pixels [first, last) of rows from p on; `pixels` is where flat pixel 0 of image n lies.
  struct Block {
    int64_t n, images, p, rows, first, last;
    const char* pixels;
  };
  // A tile's sums, of which those of flat pixels [first, last) are wanted.
  struct Waiting {
    float* sums = nullptr;
    int64_t n, first, last;
  };

  template <class F>
  void for_groups(F&& f) {
    const int64_t panels = plan_.panels();
    for (int64_t panel = first_panel_; panel < last_panel_;) {
      const int64_t group = panel / panels, end = smaller(last_panel_, (group + 1) * panels);
      f(group, panel - group * panels, end - group * panels);
      panel = end;
    }
  }

  void run_in_place(Block block) {
    for_groups([&](int64_t group, int64_t first, int64_t last) {
      block.pixels = reinterpret_cast<const char*>(t_.x.as<bfloat16_t>() + t_.x.offset(block.n, group * t_.C, 0, 0));
      run_panels(block, group, first, last);
    });
  }

  void run_band(int64_t n, int64_t images, int64_t p, int64_t rows) {
    for_groups([&](int64_t group, int64_t first, int64_t last) {
      for (int64_t i = 0; i < images; ++i) {
        fill_band(t_, g_, n + i, group, p, rows, plan_.block_rows, band_ + i * plan_.image_elements());
      }
      run_panels({n, images, p, rows, 0, plan_.flat_pixels(rows), reinterpret_cast<const char*>(band_)}, group, first,
                 last);
    });
  }

  // A pair of tiles: what to multiply, and what becomes of the sums.
  struct Pair {
    int64_t count;
    Waiting made[TileEngine::kTiles];
    int64_t skipped[TileEngine::kTiles];
    const char* pixels[TileEngine::kTiles];
  };

  Pair pair_of(const Block& block, int64_t tile, int64_t tiles, int64_t tiles_of_image) const {
    const int64_t rows = plan_.rows, item = sizeof(bfloat16_t);
    Pair pair;
    pair.count = smaller(TileEngine::kTiles, tiles - tile);
    for (int64_t i = 0; i < pair.count; ++i) {
      const int64_t image = (tile + i) / tiles_of_image;
      const int64_t f = block.first + (tile + i) % tiles_of_image * rows;
      // The last tile of an image begins early rather than reach beyond its pixels.
      const int64_t start = g_.in_place ? smaller(f, t_.Q - rows) : larger(0, smaller(f, block.last - rows));
      pair.made[i] = {nullptr, block.n + image, f, smaller(f + rows, block.last)};
      pair.skipped[i] = f - start;
      pair.pixels[i] = block.pixels + (image * plan_.image_elements() * !g_.in_place + start * g_.pixel) * item;
    }
    if (pair.count < TileEngine::kTiles) pair.pixels[TileEngine::kTiles - 1] = pair.pixels[0];
    return pair;
  }

  void run_panels(const Block& block, int64_t group, int64_t first, int64_t last) {
    const int64_t tiles_of_image = ceil_div(block.last - block.first, plan_.rows);
    const int64_t tiles = block.images * tiles_of_image;
    const int64_t together = plan_.slice_steps < g_.steps ? kPairs : 1;
    Pair pairs[kPairs];
    const char* filters = static_cast<const char*>(t_.packed) + group * ceil_div(t_.K, kFilters) * plan_.block_bytes;
    for (int64_t set = first; set < last; set += plan_.panels_in_set) {
      const int64_t set_end = smaller(last, set + plan_.panels_in_set);
      next_ = filters + set_end * plan_.panel_bytes;
      next_end_ = filters + smaller(last, set_end + plan_.panels_in_set) * plan_.panel_bytes;
      for (int64_t tile = 0; tile < tiles; tile += together * TileEngine::kTiles) {
        int64_t count = 0;
        for (int64_t i = tile; i < tiles && count < together; i += TileEngine::kTiles) {
          pairs[count++] = pair_of(block, i, tiles, tiles_of_image);
        }
        for (int64_t panel = set; panel < set_end; ++panel) run_panel(block, pairs, count, group, panel);
      }
    }
    finish_waiting();
  }

  // One panel and a few pairs of tiles: slice by slice of the reduction, whose filters stay in L1 from pair to pair.
  void run_panel(const Block& block, const Pair* pairs, int64_t count, int64_t group, int64_t panel) {
    const int64_t k = panel * kWidth, channels = smaller(kWidth, t_.K - k), blocks = ceil_div(channels, kFilters);
    const char* filters = static_cast<const char*>(t_.packed);
    filters += (group * ceil_div(t_.K, kFilters) + 2 * panel) * plan_.block_bytes;
    TileArgs args;
    args.pixel_step = g_.pixel * static_cast<int64_t>(sizeof(bfloat16_t));
    args.channels = g_.channels;
    for (int64_t step = 0; step < g_.steps; step += plan_.slice_steps) {
      const bool last = step + plan_.slice_steps >= g_.steps;
      args.offsets = plan_.offsets + step;
      args.steps = last ? g_.steps - step : plan_.slice_steps;
      args.filters[0] = filters + step * g_.channels * 32;
      args.filters[1] = blocks > 1 ? args.filters[0] + plan_.block_bytes : args.filters[0];
      args.more = step > 0;
      for (int64_t i = 0; i < count; ++i) {
        const Pair& pair = pairs[i];
        args.pixels[0] = pair.pixels[0], args.pixels[1] = pair.pixels[TileEngine::kTiles - 1];
        const int64_t buffer = plan_.slice_steps < g_.steps ? i : turn_;
        args.sums = sums_[buffer];
        args.next = next_;
        args.next_lines = next_ < next_end_ ? plan_.next_lines : 0;
        next_ += args.next_lines * args.steps * 64;
        engine_.multiply(pair.count, blocks, args);
        finish_waiting();
        engine_.store(pair.count, blocks, args.sums);
        if (last) {
          wait_for(block, pair, args.sums, group * t_.K + k, channels);
          turn_ ^= 1;
        }
      }
    }
  }

  void wait_for(const Block& block, const Pair& pair, float* sums, int64_t channel, int64_t channels) {
    for (int64_t i = 0; i < pair.count; ++i) {
      waiting_[i] = pair.made[i];
      waiting_[i].sums = sums + (i * TileEngine::kRows + pair.skipped[i]) * kWidth;
    }
    waiting_count_ = pair.count, waiting_p_ = block.p;
    waiting_channel_ = channel, waiting_channels_ = channels;
  }

  void finish_waiting() {
    for (int64_t i = 0; i < waiting_count_; ++i) {
      Waiting w = waiting_[i];
      // Tiles that follow each other without a gap are one.
      for (; i + 1 < waiting_count_ && waiting_[i + 1].n == w.n && waiting_[i + 1].first == w.last &&
             waiting_[i + 1].sums == w.sums + (w.last - w.first) * kWidth;
           ++i) {
        w.last = waiting_[i + 1].last;
      }
      plan_.epilogue.finish(w.sums, w.n, waiting_p_, g_.pitch, w.first, w.last, waiting_channel_, waiting_channels_);
    }
    waiting_count_ = 0;
  }

  const Plan& plan_;
  const Task& t_;
  const Geometry& g_;
  TileEngine engine_;
  bfloat16_t* band_;
  int64_t first_panel_ = 0, last_panel_ = 0;
  const char *next_ = nullptr, *next_end_ = nullptr;  // of the filters, what is to be read ahead
  int64_t turn_ = 0, waiting_count_ = 0, waiting_p_ = 0, waiting_channel_ = 0, waiting_channels_ = 0;
  Waiting waiting_[TileEngine::kTiles];
  alignas(64) float sums_[kPairs][TileEngine::kTiles * TileEngine::kRows * kWidth];
};

inline void run_task(const Task& task, const CallContext& context) {
  if (task.N == 0 || task.P == 0 || task.Q == 0 || task.groups == 0 || task.K == 0) return;
  const Plan plan(task, context);
  const int64_t shares = plan.channel_shares * plan.pixel_shares;
  // Threads' bands an odd number of cache lines apart.
  const int64_t band = (round_up(plan.band_elements(), 32) / 32 | 1) * 32;
  auto* bands =
      static_cast<bfloat16_t*>(context.workspace->allocate(static_cast<size_t>(shares * band) * sizeof(bfloat16_t)));
  parallel_for(shares, 1, [&](int64_t begin, int64_t end) {
    Worker worker(plan, bands + begin * band);
    for (int64_t share = begin; share < end; ++share) worker.run(share);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA::bf16
