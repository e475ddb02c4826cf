// The epilogue for kernels whose accumulators are vectors along y's channels (NHWC) or along its columns (NCHW): scale,
// shift, residual, activation, narrowing store. The usual case (dense lanes, no residual, an activation that is a
// clamp) is inlined where the accumulators are; the rest is one out-of-line function per accumulate type, handed a tile
// at a time, so that twelve activations and three storage types are not compiled into every kernel.
#pragma once

#include "../../common/epilogue.h"
#include "../cpu_kernels.h"
#include "lanes.h"
#include "vector_math.h"

namespace fastconv::cpu::FASTCONV_ISA {

enum LaneAxis : int { kChannelLanes = 1, kColumnLanes = 3 };

// Where a tile of accumulators goes: rows x columns of y from (n, k, p, q) on. With channel lanes a column of the tile
// is one pixel; with column lanes it is kLanes of them. `lanes` counts the channels, or the columns, left from k or q.
struct TileAt {
  int64_t n, k, p, q;
  int rows, columns;
  int64_t lanes;
};

template <class Acc>
class LaneEpilogue {
 public:
  using V = Vec<Acc>;

  // Copies the vectors of K elements, padded so that whole vectors of them can be loaded, into the workspace.
  LaneEpilogue(const EpilogueArgs& args, const TensorView& y, LaneAxis axis, Workspace& workspace)
      : args_(args), axis_(axis) {
    const int64_t K = y.size[1], padded = K + V::kLanes;
    initial_ = static_cast<Acc*>(workspace.allocate(static_cast<size_t>(4 * padded) * sizeof(Acc)));
    scale_ = initial_ + padded;
    shift_ = scale_ + padded;
    param_ = shift_ + padded;
    scaled_ = args.scale != nullptr;
    const Acc *bias = static_cast<const Acc*>(args.bias), *scale = static_cast<const Acc*>(args.scale);
    const Acc *shift = static_cast<const Acc*>(args.shift), *param = static_cast<const Acc*>(args.channel_param);
    for (int64_t k = 0; k < padded; ++k) {
      const bool inside = k < K;
      scale_[k] = inside && scale ? scale[k] : Acc(1);
      shift_[k] = inside && shift ? shift[k] : Acc(0);
      initial_[k] = (inside && bias ? bias[k] : Acc(0)) + (scaled_ ? Acc(0) : shift_[k]);
      param_[k] = inside && args.param_kind == ParamKind::kPerChannel ? param[k] : static_cast<Acc>(args.param);
    }
    floor_ = args.act == Activation::kRelu || args.act == Activation::kRelu6;
    ceiling_ = args.act == Activation::kRelu6;
    const bool clamps = floor_ || args.act == Activation::kIdentity;
    simple_ = clamps && !args.residual.present();
    floor_ = floor_ && simple_, ceiling_ = ceiling_ && simple_;  // else `activate` does it, behind the residual
    operands_ = y.dtype;
    write_to(y, 0);
  }

  // Stores elsewhere: to scratch that holds y from channel `first_channel` on. Residual and parameters stay y's.
  void write_to(const TensorView& out, int64_t first_channel) {
    y_ = out;
    first_channel_ = first_channel;
    inline_ = simple_ && dtype_size(out.dtype) == sizeof(Acc) && out.stride[axis_] == 1;
  }

  // What accumulators start from: the bias, and the shift unless a scale comes between.
  FC_INLINE V initial(int64_t k) const { return per_channel(initial_, k); }

  // Channel lanes, into scratch: kColumns pixels, `step` elements apart, whole vectors.
  template <int kColumns>
  FC_INLINE void finish_row(V (&acc)[kColumns], Acc* out, int64_t step, const TileAt& at) const {
    if (scaled_) {
      const V scale = V::load(scale_ + at.k), shift = V::load(shift_ + at.k);
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) acc[j] = fma(acc[j], scale, shift);
    }
    if (floor_) {
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) acc[j] = max_nan(acc[j], V(0));
    }
    if (ceiling_) {
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) acc[j] = min_nan(acc[j], V(6));
    }
    if (!simple_) {
      V tile[kColumns];  // a copy: the accumulators themselves must stay in registers
      for (int j = 0; j < kColumns; ++j) tile[j] = acc[j];
      activate(tile, kColumns, at);
      for (int j = 0; j < kColumns; ++j) tile[j].store(out + j * step);
      return;
    }
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) acc[j].store(out + j * step);
  }

  // y = epilogue(acc) for the tile's first at.rows x at.columns accumulators.
  template <int kRows, int kColumns>
  FC_INLINE void finish(V (&acc)[kRows * kColumns], const TileAt& at) const {
    if (scaled_) {
      const V scale = per_channel(scale_, at.k), shift = per_channel(shift_, at.k);
#pragma GCC unroll 8
      for (int i = 0; i < kRows * kColumns; ++i) acc[i] = fma(acc[i], scale, shift);
    }
    if (floor_) {
#pragma GCC unroll 8
      for (int i = 0; i < kRows * kColumns; ++i) acc[i] = max_nan(acc[i], V(0));
    }
    if (ceiling_) {
#pragma GCC unroll 8
      for (int i = 0; i < kRows * kColumns; ++i) acc[i] = min_nan(acc[i], V(6));
    }
    if (!inline_) {
      V tile[kRows * kColumns];  // a copy: the accumulators themselves must stay in registers
      for (int i = 0; i < kRows * kColumns; ++i) tile[i] = acc[i];
      if (!simple_) activate(tile, kColumns, at);
      store_tile(tile, kColumns, at);
      return;
    }
    const int64_t row = y_.stride[2], step = axis_ == kChannelLanes ? y_.stride[3] : V::kLanes;
    const int64_t wanted = axis_ == kChannelLanes ? V::kLanes : kColumns * V::kLanes;
    Acc* base = y_.as<Acc>() + y_.offset(at.n, at.k - first_channel_, at.p, at.q);
    if (at.rows >= kRows && at.columns >= kColumns && at.lanes >= wanted) {
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < kColumns; ++j) acc[i * kColumns + j].store(base + i * row + j * step);
      return;
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) {
        const int64_t lanes = axis_ == kChannelLanes ? at.lanes : at.lanes - j * V::kLanes;
        if (i >= at.rows || j >= at.columns || lanes <= 0) continue;
        store_lanes(acc[i * kColumns + j], base + i * row + j * step, 1, lanes);
      }
  }

 private:
  FC_INLINE V per_channel(const Acc* values, int64_t k) const {
    return axis_ == kChannelLanes ? V::load(values + k) : V(values[k]);
  }

  // f(view of an operand, first element of the tile's vector (i, j), lanes in it, that vector).
  template <class F>
  FC_INLINE void each_vector(V* tile, int pitch, const TileAt& at, const TensorView& view, int64_t k, F f) const {
    for (int i = 0; i < at.rows; ++i)
      for (int j = 0; j < at.columns; ++j) {
        const int64_t skip = axis_ == kChannelLanes ? j : static_cast<int64_t>(j) * V::kLanes;
        const int64_t lanes = axis_ == kChannelLanes ? at.lanes : at.lanes - skip;
        if (lanes > 0) f(view.offset(at.n, k, at.p + i, at.q + skip), lanes, tile[i * pitch + j]);
      }
  }

  // Residual and activation, in short passes over a tile that lies in L1.
  __attribute__((noinline)) void activate(V* tile, int pitch, const TileAt& at) const {
    const int64_t lane_stride[] = {args_.residual.stride[axis_], args_.full_param.stride[axis_]};
    if (args_.residual.present()) {
      visit_storage<Acc>(operands_, [&](auto tag) {
        using T = typename decltype(tag)::type;
        each_vector(tile, pitch, at, args_.residual, at.k, [&](int64_t offset, int64_t lanes, V& v) {
          v = v + load_lanes(args_.residual.as<const T>() + offset, lane_stride[0], lanes);
        });
      });
    }
    if (args_.act == Activation::kPrelu && args_.param_kind == ParamKind::kFull) {
      visit_storage<Acc>(operands_, [&](auto tag) {
        using T = typename decltype(tag)::type;
        each_vector(tile, pitch, at, args_.full_param, at.k, [&](int64_t offset, int64_t lanes, V& v) {
          const V param = load_lanes(args_.full_param.as<const T>() + offset, lane_stride[1], lanes);
          v = activations::Prelu::apply(v, param);
        });
      });
    } else {
      const V param = per_channel(param_, at.k);
      visit_activation(args_.act, [&](auto f) {
        each_vector(tile, pitch, at, y_, 0,
                    [&](int64_t, int64_t, V& v) { v = decltype(f)::template apply<V>(v, param); });
      });
    }
  }

  __attribute__((noinline)) void store_tile(const V* tile, int pitch, const TileAt& at) const {
    const bool channels = axis_ == kChannelLanes;
    const int64_t row = y_.stride[2], lane = y_.stride[axis_], step = channels ? y_.stride[3] : V::kLanes * lane;
    const int64_t lanes = at.lanes, fewer = channels ? 0 : V::kLanes;  // lanes that a column leaves to the next
    visit_storage<Acc>(y_.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      T* base = y_.as<T>() + y_.offset(at.n, at.k - first_channel_, at.p, at.q);
      for (int i = 0; i < at.rows; ++i)
        for (int j = 0; j < at.columns; ++j) {
          store_lanes(tile[i * pitch + j], base + i * row + j * step, lane, lanes - j * fewer);
        }
    });
  }

  EpilogueArgs args_;
  TensorView y_;
  LaneAxis axis_;
  Acc *initial_, *scale_, *shift_, *param_;
  int64_t first_channel_ = 0;
  DType operands_;  // of the residual and of a full parameter
  bool scaled_, floor_, ceiling_, simple_, inline_;
};

}  // namespace fastconv::cpu::FASTCONV_ISA
