// From the float32 sums of a tile to y: scale, bias and shift, residual, activation, one rounding to bfloat16.
#pragma once

#include "bf16_task.h"
#include "tile_epilogue.h"

namespace fastconv::cpu::FASTCONV_ISA::bf16 {

constexpr int64_t kWidth = 2 * kFilters;  // filters of a panel, and the pitch of the sums

// A run of pixels of one row of y and one panel.
struct Run {
  float* sums;  // [pixels][kWidth]
  int64_t pixels, channel, channels;
  bfloat16_t* y;
  int64_t y_step;
  const bfloat16_t* residual;  // or null
  int64_t residual_step;
};

// Per-channel vectors, filled up to whole vectors.
struct Vectors {
  const float *multiplier, *addend, *slope;
};

inline Vectors make_vectors(const EpilogueArgs& e, int64_t channels, Workspace& workspace) {
  const int64_t padded = round_up(channels, kWidth) + kWidth;
  auto* all = static_cast<float*>(workspace.allocate(static_cast<size_t>(3 * padded) * sizeof(float)));
  const auto *bias = static_cast<const float*>(e.bias), *scale = static_cast<const float*>(e.scale);
  const auto *shift = static_cast<const float*>(e.shift), *param = static_cast<const float*>(e.channel_param);
  const bool per_channel = e.param_kind == ParamKind::kPerChannel;
  for (int64_t k = 0; k < padded; ++k) {
    const bool inside = k < channels;
    const float s = inside && scale ? scale[k] : 1.0f;
    all[k] = s;
    all[padded + k] = (inside && bias ? bias[k] * s : 0.0f) + (inside && shift ? shift[k] : 0.0f);
    all[2 * padded + k] = !per_channel ? static_cast<float>(e.param) : inside ? param[k] : 0.0f;
  }
  return {all, all + padded, all + 2 * padded};
}

// y and residual with adjacent channels.
template <class Act>
void finish_dense(const Vectors& e, const Run& run) {
  const VecF m0 = VecF::load(e.multiplier + run.channel), m1 = VecF::load(e.multiplier + run.channel + 16);
  const VecF a0 = VecF::load(e.addend + run.channel), a1 = VecF::load(e.addend + run.channel + 16);
  const VecF s0 = VecF::load(e.slope + run.channel), s1 = VecF::load(e.slope + run.channel + 16);
  const __mmask32 mask = run.channels >= 32 ? ~__mmask32{0} : (__mmask32{1} << run.channels) - 1;
  const auto widen = [](__m256i v) {
    return VecF(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)));
  };
  const auto sweep = [&](auto with_residual, auto whole) {
    // Copies: a store of bfloat16 may alias what `run` and `e` hold.
    const float* sums = run.sums;
    const bfloat16_t* residual = run.residual;
    bfloat16_t* y = run.y;
    const int64_t y_step = run.y_step, residual_step = run.residual_step;
    for (int64_t i = run.pixels; i > 0; --i, sums += kWidth, y += y_step) {
      VecF v0 = fma(VecF::load(sums), m0, a0), v1 = fma(VecF::load(sums + 16), m1, a1);
      if constexpr (decltype(with_residual)::value) {
        const __m512i both =
            decltype(whole)::value ? _mm512_loadu_si512(residual) : _mm512_maskz_loadu_epi16(mask, residual);
        v0 = v0 + widen(_mm512_castsi512_si256(both));
        v1 = v1 + widen(_mm512_extracti64x4_epi64(both, 1));
        residual += residual_step;
      }
      v0 = Act::template apply<VecF>(v0, s0), v1 = Act::template apply<VecF>(v1, s1);
      const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(v1.v, v0.v);
      if constexpr (decltype(whole)::value) {
        _mm512_storeu_si512(y, both);
      } else {
        _mm512_mask_storeu_epi16(y, mask, both);
      }
    }
  };
  const bool whole = run.channels >= 32;
  if (run.residual) {
    whole ? sweep(std::true_type{}, std::true_type{}) : sweep(std::true_type{}, std::false_type{});
  } else {
    whole ? sweep(std::false_type{}, std::true_type{}) : sweep(std::false_type{}, std::false_type{});
  }
}

class Epilogue {
 public:
  Epilogue(const Task& t, Workspace& workspace) : t_(t), vectors_(make_vectors(t.epilogue, t.groups * t.K, workspace)) {
    const EpilogueArgs& e = t.epilogue;
    flat_ = task_detail::row_follows_row(t.y, t.Q) && task_detail::row_follows_row(e.residual, t.Q) &&
            task_detail::row_follows_row(e.full_param, t.Q);
    dense_ = adjacent(t.y) && adjacent(e.residual) && !e.full_param.present();
    visit_activation(e.act, [&](auto act) { finish_ = finish_dense<decltype(act)>; });
    other_ = {vectors_.multiplier, vectors_.addend, vectors_.slope, static_cast<float>(e.param), e.act};
  }

  // `sums` are those of flat pixels [first, last) of an image, `pitch` a row, from output row p on.
  void finish(float* sums, int64_t n, int64_t p, int64_t pitch, int64_t first, int64_t last, int64_t channel,
              int64_t channels) const {
    if (flat_ && pitch == t_.Q) return finish_row(sums, n, p, first, last - first, channel, channels);
    for (int64_t f = first; f < last;) {
      const int64_t down = f / pitch, q = f - down * pitch;
      const int64_t end = smaller(last, (down + 1) * pitch), inside = smaller(end, down * pitch + t_.Q);
      if (inside > f) finish_row(sums + (f - first) * kWidth, n, p + down, q, inside - f, channel, channels);
      f = end;
    }
  }

 private:
  static bool adjacent(const TensorView& v) { return !v.present() || v.stride[1] == 1 || v.size[1] == 1; }

  void finish_row(float* sums, int64_t n, int64_t p, int64_t q, int64_t pixels, int64_t channel,
                  int64_t channels) const {
    const TensorView &y = t_.y, &residual = t_.epilogue.residual, &param = t_.epilogue.full_param;
    bfloat16_t* out = y.as<bfloat16_t>() + y.offset(n, channel, p, q);
    if (dense_) {
      Run run{sums, pixels, channel, channels, out, y.stride[3], nullptr, 0};
      if (residual.present()) {
        run.residual = residual.as<const bfloat16_t>() + residual.offset(n, channel, p, q);
        run.residual_step = residual.stride[3];
      }
      return finish_(vectors_, run);
    }
    constexpr int64_t kPixels = 32;  // of two tiles
    alignas(64) float operands[2][kPixels * kWidth];
    TileRun<float> run{sums, kWidth, pixels, channels, channel, nullptr, nullptr, kWidth};
    if (residual.present()) {
      load_pixels(residual.as<const bfloat16_t>() + residual.offset(n, channel, p, q), residual.stride[3],
                  residual.stride[1], pixels, channels, operands[0], kWidth);
      run.residual = operands[0];
    }
    if (param.present()) {
      load_pixels(param.as<const bfloat16_t>() + param.offset(n, channel, p, q), param.stride[3], param.stride[1],
                  pixels, channels, operands[1], kWidth);
      run.param = operands[1];
    }
    finish_run(other_, run);
    store_pixels(sums, kWidth, pixels, channels, out, y.stride[3], y.stride[1]);
  }

  const Task& t_;
  Vectors vectors_;
  void (*finish_)(const Vectors&, const Run&) = nullptr;
  RegisterEpilogue<float> other_;
  bool dense_, flat_;  // flat: the rows of y and its operands follow each other without a gap
};

}  // namespace fastconv::cpu::FASTCONV_ISA::bf16
