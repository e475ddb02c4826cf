// Winograd's transforms of tiles, a vector of channels at a time, and the epilogue of the output tiles in registers.
// Each goes over the columns into a buffer in L1, then over the rows: a tile of 36 vectors does not fit the registers.
#pragma once

#include "../../common/winograd.h"
#include "tile_epilogue.h"

namespace fastconv::cpu::FASTCONV_ISA {

// Extents of F(m x m, 3 x 3).
template <int kOutputs_>
struct WinogradSize {
  static constexpr int kOutputs = kOutputs_;
  static constexpr int kTile = kOutputs + 2;
  static constexpr int kPositions = kTile * kTile;
};

// One tile of x. load(i, j) gives row i, column j; position t of the result goes to out + t * position_pitch.
template <int kOutputs, class Load>
FC_INLINE void winograd_input(Load&& load, float* out, int64_t position_pitch) {
  constexpr int kTile = WinogradSize<kOutputs>::kTile;
  alignas(64) float buffer[kTile][kTile][VecF::kLanes];  // [transformed row][column]
  for (int j = 0; j < kTile; ++j) {
    VecF x[kTile], v[kTile];
    FC_UNROLL
    for (int i = 0; i < kTile; ++i) x[i] = load(i, j);
    WinogradTransform<kOutputs>::input(x, v);
    FC_UNROLL
    for (int i = 0; i < kTile; ++i) v[i].store(buffer[i][j]);
  }
  for (int i = 0; i < kTile; ++i, out += kTile * position_pitch) {
    VecF x[kTile], v[kTile];
    FC_UNROLL
    for (int j = 0; j < kTile; ++j) x[j] = VecF::load(buffer[i][j]);
    WinogradTransform<kOutputs>::input(x, v);
    FC_UNROLL
    for (int j = 0; j < kTile; ++j) v[j].store(out + j * position_pitch);
  }
}

// One tile of y: position t of the products at in + t * position_pitch; store(i, j, value) takes row i, column j.
template <int kOutputs, class Store>
FC_INLINE void winograd_output(const float* in, int64_t position_pitch, Store&& store) {
  constexpr int kTile = WinogradSize<kOutputs>::kTile;
  alignas(64) float buffer[kOutputs][kTile][VecF::kLanes];
  for (int j = 0; j < kTile; ++j, in += position_pitch) {
    VecF m[kTile], y[kOutputs];
    FC_UNROLL
    for (int i = 0; i < kTile; ++i) m[i] = VecF::load(in + i * kTile * position_pitch);
    WinogradTransform<kOutputs>::output(m, y);
    FC_UNROLL
    for (int i = 0; i < kOutputs; ++i) y[i].store(buffer[i][j]);
  }
  for (int i = 0; i < kOutputs; ++i) {
    VecF m[kTile], y[kOutputs];
    FC_UNROLL
    for (int j = 0; j < kTile; ++j) m[j] = VecF::load(buffer[i][j]);
    WinogradTransform<kOutputs>::output(m, y);
    FC_UNROLL
    for (int j = 0; j < kOutputs; ++j) store(i, j, y[j]);
  }
}

// Where tiles of float32 outputs go and what is read along with them; channels adjacent in all.
struct WinogradOutputs {
  const RegisterEpilogue<float>* epilogue;
  float* y;
  int64_t y_row, y_column;
  const float* residual;  // or null
  int64_t residual_row, residual_column;
  const float* param;  // or null: the slope of a channel, or of all
  int64_t param_row, param_column;
  int64_t channel;        // the vector's first, among the epilogue's
  int64_t channels;       // in the vector, 1 .. lanes
  int64_t rows, columns;  // of the tile inside the image, 1 .. kOutputs
};

// The whole of a tile inside the image and all lanes taken: no masks.
template <int kOutputs, class Act, bool kWhole>
FC_INLINE void winograd_finish(const float* in, int64_t position_pitch, const WinogradOutputs& o) {
  const RegisterEpilogue<float>& e = *o.epilogue;
  const VecF multiplier = e.multiplier ? VecF::load(e.multiplier + o.channel) : VecF(1.0f);
  const VecF addend = e.multiplier ? VecF::load(e.addend + o.channel) : VecF(0.0f);
  const VecF slope = e.channel_param ? VecF::load(e.channel_param + o.channel) : VecF(e.param);
  const auto load = [&](const float* p) __attribute__((always_inline)) {
    return kWhole ? VecF::load(p) : VecF::load_partial(p, o.channels);
  };
  winograd_output<kOutputs>(in, position_pitch, [&](int i, int j, VecF v) __attribute__((always_inline)) {
    if (!kWhole && (i >= o.rows || j >= o.columns)) return;
    v = fma(v, multiplier, addend);
    if (o.residual) v = v + load(o.residual + i * o.residual_row + j * o.residual_column);
    v = Act::apply(v, o.param ? load(o.param + i * o.param_row + j * o.param_column) : slope);
    float* y = o.y + i * o.y_row + j * o.y_column;
    kWhole ? v.store(y) : v.store_partial(y, o.channels);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
