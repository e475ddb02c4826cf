// How a block (expand ->) depthwise -> project is cut. Two ways, which give the same bits:
//
//   by rows        a thread takes output rows, band by band; hidden rows stay in a ring, those that two bands share are
//                  computed once, those that two threads share twice
//   by channels    small images: threads take panels of hidden channels through expand and depthwise, then, together,
//                  tiles of the project. Nothing is computed twice and every weight is read by one thread.
#pragma once

#include "block_pointwise.h"
#include "conv_implicit_gemm.h"
#include "depthwise_rows.h"

namespace fastconv::cpu::FASTCONV_ISA::block {

// The stages of a block; `expand` is null in depthwise -> pointwise.
struct Stages {
  DType dtype;
  const TensorView& x;
  const TensorView& y;
  const ConvStage* expand;
  const ConvStage& depthwise;
  const ConvStage& project;
};

// Of a thread: hidden rows and filtered pixels of a band, beside the weights in an L2 of 1 to 2 MiB.
constexpr int64_t kBlockBytes = 640 << 10;
// Filtered pixels of a band that make the project's panels worth fetching from L2.
constexpr int64_t kBandPixels = 224;
// What meeting a second time costs all threads, in multiply-adds (about 4 us), and a float that another core has just
// written (14 x 14 x 384 of them, 2 threads of a Xeon: 30 us).
constexpr int64_t kMeetingWork = 1 << 18, kForeignWork = 64;

template <class T>
struct BlockPlan {
  using Acc = accumulate_t<T>;
  static constexpr int64_t kWidth = kPanelWidth<Acc>, kLanes = Vec<Acc>::kLanes;

  bool expands;
  Filters<Acc> expand;
  depthwise::Plan<Acc> dw;
  LaneEpilogue<Acc> dw_epilogue;
  PixelSink<T> project;
  TensorView x;
  bool x_direct;           // x's rows are read where they lie
  int64_t N, H, W, P, Q;   // H, W: of the depthwise stage's input
  int64_t hidden, panels;  // its channels
  int64_t columns;         // of a hidden row in scratch, zeros on both sides included
  int64_t filtered_pitch;  // elements from pixel to pixel behind the depthwise stage
  int64_t band, ring;      // output rows of a band; hidden rows held
  int64_t kept_panels;     // panels whose hidden rows are kept for the next band
  int64_t slots;           // threads
  int64_t project_work;    // multiply-adds of a pixel in the last stage
  bool by_channels = false, keeps_rows = false;

  BlockPlan(const Stages& s, const CallContext& context)
      : expands(s.expand != nullptr),
        dw_epilogue(s.depthwise.epilogue, hidden_view(s), kChannelLanes, *context.workspace),
        x(s.x) {
    const ConvProblem &d = s.depthwise.problem, &last = s.project.problem;
    N = d.N, H = d.H, W = d.W, P = d.P, Q = d.Q;
    hidden = d.K;
    panels = panel_count<Acc>(hidden);
    dw.N = N, dw.H = H, dw.W = W, dw.K = hidden, dw.P = P, dw.Q = Q, dw.R = d.R, dw.S = d.S;
    dw.stride_h = d.stride_h, dw.stride_w = d.stride_w;
    dw.dilation_h = d.dilation_h, dw.dilation_w = d.dilation_w;
    dw.pad_top = d.pad_top, dw.pad_left = d.pad_left;
    dw.x = s.x;
    dw.y = hidden_view(s);
    dw.weights = static_cast<const Acc*>(packed(s.depthwise, context));
    if (expands) expand = filters(*s.expand, context);
    project = PixelSink<T>(filters(s.project, context), s.y, s.project.epilogue);
    x_direct = sizeof(T) == sizeof(Acc) && (x.stride[1] == 1 || x.size[1] == 1);
    if (expands && W > 4 && aliases(x.stride[3] * static_cast<int64_t>(sizeof(T)))) x_direct = false;
    columns = larger(d.pad_left + W, (work::round_up(Q, 4) - 1) * d.stride_w + dw.span_w());
    filtered_pitch = work::round_up(hidden, kLanes);
    if (aliases(filtered_pitch * static_cast<int64_t>(sizeof(Acc)))) filtered_pitch += 64 / sizeof(Acc);
    project_work = hidden * last.K;
    choose_slots(s, last);
    choose_band();
  }

  int64_t filtered_channels() const { return work::round_up(hidden, kLanes); }  // whole vectors
  int64_t panel_row() const { return columns * kWidth; }                        // elements of a hidden row of one panel
  int64_t filtered_row() const { return Q * filtered_pitch; }
  int64_t staged_row() const { return x_direct ? 0 : expands ? W * x.size[1] : 0; }
  int64_t filtered_rows() const { return by_channels ? 0 : band; }

  // Elements of a thread's scratch, piece by piece.
  int64_t x_elements() const { return staged_row() * ring; }
  int64_t ring_elements() const { return expands || !x_direct ? kept_panels * ring * panel_row() : 0; }
  int64_t filtered_elements() const { return filtered_rows() * filtered_row(); }
  int64_t scratch_elements() const {
    const int64_t all = x_elements() + ring_elements() + filtered_elements() + PixelSink<T>::kStageElements;
    return work::round_up(all, 16) + 16;  // an odd number of cache lines apart, more or less
  }

  // Where nothing is computed twice at their borders, several for each thread, so that fast ones can help slow ones.
  int64_t row_shares() const {
    if (expands || slots == 1) return slots;
    const int64_t pixels = N * P * Q, most = smaller(pixels / (3 * kTileRows), pixels * project_work / kShareWork);
    return slots * larger(1, smaller(kSharesOfThread, smaller(most, N * P / 2) / slots));
  }

  // The first row of a share; of several for a thread pairs of rows, as the depthwise tile takes them.
  int64_t share_start(int64_t share) const {
    const int64_t rows = N * P, shares = row_shares();
    return shares == slots ? rows * share / slots : smaller(rows, ceil_div(rows, 2) * share / shares * 2);
  }

  // Hidden rows under output rows [p0, p1).
  int64_t first_hidden(int64_t p0) const { return work::max(0, work::min(H, dw.first_row(p0))); }
  int64_t last_hidden(int64_t p0, int64_t p1) const {
    return work::max(first_hidden(p0), work::min(H, dw.first_row(p1 - 1) + dw.span_h()));
  }

 private:
  static TensorView hidden_view(const Stages& s) {
    const ConvProblem& p = s.depthwise.problem;
    return {nullptr, accumulate_dtype(s.dtype), {p.N, p.K, p.P, p.Q}, {0, 1, 0, 0}};
  }
  static const void* packed(const ConvStage& stage, const CallContext& context) {
    if (stage.packed_w) return stage.packed_w;
    const DType dtype = stage.w.dtype;
    void* fresh = context.workspace->allocate(conv2d_packed_bytes(stage.problem, dtype) + 64);
    conv2d_pack(stage.problem, stage.w, fresh);
    return fresh;
  }
  static Filters<Acc> filters(const ConvStage& stage, const CallContext& context) {
    return {static_cast<const Acc*>(packed(stage, context)), stage.problem.C, stage.problem.K,
            make_register_epilogue<Acc>(stage.epilogue, stage.problem.K, *context.workspace)};
  }

  int64_t hidden_rows(int64_t rows) const { return smaller(H, (rows - 1) * dw.stride_h + dw.span_h()); }

  // Threads, and how they share: by the time of the slowest, in multiply-adds, weights from an outer cache at 8 bytes
  // in the time of a fused multiply-add instruction.
  void choose_slots(const Stages& s, const ConvProblem& last) {
    const int64_t expand_row = expands ? W * s.expand->problem.C * hidden : 0;
    const int64_t dw_row = Q * hidden * dw.taps() * 2, project_row = Q * hidden * last.K;
    const int64_t work = N * (H * expand_row + P * (dw_row + project_row));
    slots = larger(1, smaller(thread_pool().threads(), work / kThreadWork));
    if (slots == 1) return;
    const int64_t rows = ceil_div(N * P, slots);
    const int64_t weights = (expands ? s.expand->problem.C * hidden : 0) + hidden * last.K;
    const int64_t halo = smaller(H, rows * dw.stride_h + dw.span_h() - 1);
    const int64_t by_rows =
        (rows >= P ? ceil_div(rows, P) * H : halo) * expand_row + rows * (dw_row + project_row) + weights * kLanes / 2;
    const int64_t unit = ceil_div(N * panels, slots), filtered = N * P * Q * hidden;
    const int64_t foreign = filtered / slots * (slots - 1) * kForeignWork;
    const int64_t channels = unit * kWidth * (H * expand_row + P * dw_row) / work::max(1, hidden) +
                             N * P * project_row / slots + weights * kLanes / 2 / slots + foreign + kMeetingWork;
    const int64_t bytes = hidden_rows(P) * panel_row() * static_cast<int64_t>(sizeof(Acc));
    by_channels = channels < by_rows && bytes <= kBlockBytes && (expands || x_direct);
    if (!by_channels) slots = smaller(slots, N * P);
  }

  void choose_band() {
    const int64_t item = sizeof(Acc), share = by_channels ? P : smaller(P, ceil_div(N * P, slots));
    const bool rings = expands || !x_direct;
    const auto bytes = [&](int64_t rows, int64_t kept) {
      return (rings ? kept * hidden_rows(rows) * panel_row() * item : 0) + rows * filtered_row() * item +
             hidden_rows(rows) * staged_row() * item;
    };
    kept_panels = 1;
    band = share;
    // The whole share at once: a panel's hidden rows are needed no longer than the panel.
    if (!by_channels && (!expands || bytes(share, 1) > kBlockBytes)) {
      keeps_rows = expands;
      kept_panels = expands ? panels : 1;
      band = 1;
      while (band < share && band * Q < kBandPixels && bytes(band + 1, kept_panels) <= kBlockBytes) ++band;
      band = balanced(share, band);
      if (!expands) band = smaller(share, band + band % 2);  // tiles of two rows
    }
    ring = hidden_rows(band);
  }
};

}  // namespace fastconv::cpu::FASTCONV_ISA::block
