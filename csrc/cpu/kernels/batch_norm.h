// Training-mode BatchNorm: batch statistics; y = act((x - mean) * scale + bias + residual) with scale = weight /
// sqrt(var + eps); and its gradients in two passes, with dz = dy * act'(z) computed anew from x in both:
//
//   dbias = sum(dz), dweight = sum(dz * (x - mean)) / sqrt(var + eps)
//   dx = scale * (dz - mean(dz) - (x - mean) * slope)        slope: mean(dz * (x - mean)) / (var + eps)
//
// Rows go through dense buffers (norm_blocks.h), so that one code serves every layout and type. Statistics are taken
// block by block, the block's own mean first, then deviations from it; blocks are merged in a fixed order by Chan,
// Golub and LeVeque's formula in float64.
#pragma once

#include "elementwise.h"
#include "norm_blocks.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace norm {

struct Moments {
  double count = 0, mean = 0, m2 = 0;

  // From sums of deviations, and of their squares, from a `center` near the mean: exactly at it they would be 0.
  static Moments about(double center, int64_t n, double deviation, double square) {
    const double count = static_cast<double>(n), off = deviation / count;
    return {count, center + off, square - off * deviation};
  }
  void merge(const Moments& other) {
    if (other.count == 0) return;
    const double total = count + other.count, delta = other.mean - mean, share = other.count / total;
    mean += delta * share;
    m2 += other.m2 + delta * delta * count * share;
    count = total;
  }
};

// The block's moments, merged into those of its channels.
template <class T>
FC_INLINE void add_moments(const TensorView& x, const NormBlock& b, bool along_channels, Moments* moments) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  Acc buffer[kNormRun], center[kNormRun], deviation[kNormRun], square[kNormRun];
  const T* data = x.as<const T>() + b.offset[0];
  if (!along_channels) {
    const Acc* run = dense_run(data, b.element_step[0], b.length, buffer);
    V sum(0);
    int64_t i = 0;
    for (; i + V::kLanes <= b.length; i += V::kLanes) sum = sum + V::load(run + i);
    if (i < b.length) sum = sum + V::load_partial(run + i, b.length - i);
    const Acc middle = sum.reduce_add() / static_cast<Acc>(b.length);
    V squares(0), deviations(0);
    for (i = 0; i + V::kLanes <= b.length; i += V::kLanes) {
      const V d = V::load(run + i) - V(middle);
      squares = fma(d, d, squares);
      deviations = deviations + d;
    }
    Acc squared = squares.reduce_add(), off = deviations.reduce_add();
    for (; i < b.length; ++i) {
      squared += (run[i] - middle) * (run[i] - middle);
      off += run[i] - middle;
    }
    moments->merge(Moments::about(middle, b.length, off, squared));
    return;
  }
  const auto lanes = [&](auto&& body) {
    for (int64_t i = 0; i < b.length; i += V::kLanes) body(i, b.length - i < V::kLanes ? b.length - i : V::kLanes);
  };
  const auto load = [](const auto* p, int64_t n) { return n == V::kLanes ? V::load(p) : V::load_partial(p, n); };
  const auto store = [](V v, Acc* p, int64_t n) { n == V::kLanes ? v.store(p) : v.store_partial(p, n); };
  for (int64_t i = 0; i < b.length; ++i) center[i] = deviation[i] = square[i] = 0;
  for (int64_t r = 0; r < b.rows; ++r) {
    const T* row = data + r * b.row_step[0];
    lanes([&](int64_t i, int64_t n) { store(load(center + i, n) + load(row + i, n), center + i, n); });
  }
  for (int64_t i = 0; i < b.length; ++i) center[i] /= static_cast<Acc>(b.rows);
  for (int64_t r = 0; r < b.rows; ++r) {
    const T* row = data + r * b.row_step[0];
    lanes([&](int64_t i, int64_t n) {
      const V d = load(row + i, n) - load(center + i, n);
      store(fma(d, d, load(square + i, n)), square + i, n);
      store(load(deviation + i, n) + d, deviation + i, n);
    });
  }
  for (int64_t i = 0; i < b.length; ++i) {
    moments[i].merge(Moments::about(center[i], b.rows, deviation[i], square[i]));
  }
}

// What a channel's elements share, C of each.
template <class Acc>
struct Factors {
  const Acc* mean;
  Acc *scale, *deviation, *bias, *param, *mean_dz, *slope;

  Factors(const BatchNormCall& call, Workspace& workspace) {
    const int64_t C = call.x.size[1];
    mean = static_cast<const Acc*>(call.mean);
    scale = static_cast<Acc*>(workspace.allocate(static_cast<size_t>(6 * C) * sizeof(Acc)));
    deviation = scale + C, bias = deviation + C, param = bias + C, mean_dz = param + C, slope = mean_dz + C;
    const Acc *var = static_cast<const Acc*>(call.var), *weight = static_cast<const Acc*>(call.weight);
    const EpilogueArgs& e = call.epilogue;
    for (int64_t c = 0; c < C; ++c) {
      deviation[c] = __builtin_sqrt(var[c] + static_cast<Acc>(call.eps));
      scale[c] = (weight ? weight[c] : Acc(1)) / deviation[c];
      bias[c] = call.bias ? static_cast<const Acc*>(call.bias)[c] : Acc(0);
      param[c] = e.param_kind == ParamKind::kPerChannel ? static_cast<const Acc*>(e.channel_param)[c]
                                                        : static_cast<Acc>(e.param);
      mean_dz[c] = slope[c] = 0;
    }
  }
};

// f(i, lanes, factor) over a row; factor(p) is the vector of p's values for those elements.
template <class Acc, class F>
FC_INLINE void for_lanes(const NormBlock& b, bool along_channels, F&& f) {
  using V = Vec<Acc>;
  for (int64_t i = 0; i < b.length; i += V::kLanes) {
    const int64_t n = b.length - i < V::kLanes ? b.length - i : V::kLanes;
    f(i, n, [&](const Acc* p) {
      if (!along_channels) return V(p[b.channel]);
      return n == V::kLanes ? V::load(p + b.channel + i) : V::load_partial(p + b.channel + i, n);
    });
  }
}

template <class Acc>
FC_INLINE Vec<Acc> load_lanes_of(const Acc* p, int64_t n) {
  using V = Vec<Acc>;
  return n == V::kLanes ? V::load(p) : V::load_partial(p, n);
}
template <class Acc>
FC_INLINE void store_lanes_of(Vec<Acc> v, Acc* p, int64_t n) {
  n == Vec<Acc>::kLanes ? v.store(p) : v.store_partial(p, n);
}

enum Operand { kX, kResidual, kParam, kDy, kDx, kDresidual };

// One row's way to z, and through the activation.
template <class T>
struct Row {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  const BatchNormCall& call;
  const TensorView& dy;
  const Factors<Acc>& factors;
  const bool along_channels;
  Acc x_buffer[kNormRun], residual_buffer[kNormRun], param_buffer[kNormRun], dy_buffer[kNormRun], z[kNormRun];
  const Acc* x;

  // Fills x and z with row r of the block, and gives the parameters of its elements.
  FC_INLINE const Acc* fill(const NormBlock& b, int64_t r, bool* one_param) {
    const EpilogueArgs& e = call.epilogue;
    const auto at = [&](int operand) { return b.offset[operand] + r * b.row_step[operand]; };
    x = dense_run(call.x.as<const T>() + at(kX), b.element_step[kX], b.length, x_buffer);
    const Acc* residual = nullptr;
    if (e.residual.present()) {
      residual =
          dense_run(e.residual.as<const T>() + at(kResidual), b.element_step[kResidual], b.length, residual_buffer);
    }
    for_lanes<Acc>(b, along_channels, [&](int64_t i, int64_t n, auto factor) {
      V v = fma(load_lanes_of(x + i, n) - factor(factors.mean), factor(factors.scale), factor(factors.bias));
      if (residual) v = v + load_lanes_of(residual + i, n);
      store_lanes_of(v, z + i, n);
    });
    *one_param = !along_channels && e.param_kind != ParamKind::kFull;
    if (e.param_kind != ParamKind::kFull) return factors.param + b.channel;
    return dense_run(e.full_param.as<const T>() + at(kParam), b.element_step[kParam], b.length, param_buffer);
  }
  // z becomes dz.
  FC_INLINE void differentiate(const NormBlock& b, int64_t r, ActivationRow<Acc> backward) {
    bool one_param;
    const Acc* param = fill(b, r, &one_param);
    const T* from = dy.as<const T>() + b.offset[kDy] + r * b.row_step[kDy];
    const Acc* gradient = dense_run(from, b.element_step[kDy], b.length, dy_buffer);
    backward(z, gradient, param, one_param, z, b.length);
  }
};

template <class T>
void forward(const BatchNormCall& call, const CallContext& ctx) {
  using Acc = accumulate_t<T>;
  // y takes dx's place among the operands.
  const TensorView operands[] = {call.x, call.epilogue.residual, call.epilogue.full_param, {}, call.y};
  const NormBlocks blocks(operands, 5);
  const Factors<Acc> factors(call, *ctx.workspace);
  const ActivationRow<Acc> activate = find_activation_row<Acc>(call.epilogue.act, 0);
  blocks.for_tasks([&](int64_t group, int64_t column) {
    Row<T> row{call, call.x, factors, blocks.along_channels, {}, {}, {}, {}, {}, nullptr};
    blocks.for_column(group, column, [&](const NormBlock& b) {
      for (int64_t r = 0; r < b.rows; ++r) {
        bool one_param;
        const Acc* param = row.fill(b, r, &one_param);
        activate(row.z, row.z, param, one_param, row.z, b.length);
        store_run(call.y.as<T>() + b.offset[kDx] + r * b.row_step[kDx], b.element_step[kDx], b.length, row.z);
      }
    });
  });
}

// Sums of dz and dz * (x - mean) to dbias and dweight.
template <class T>
void sum_gradients(const BatchNormGradCall& call, const Factors<accumulate_t<T>>& factors, const NormBlocks& blocks,
                   ActivationRow<accumulate_t<T>> backward, const CallContext& ctx) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  const int64_t C = blocks.C;
  double* partial =
      static_cast<double*>(ctx.workspace->allocate(static_cast<size_t>(2 * blocks.groups * C) * sizeof(double)));
  blocks.for_tasks([&](int64_t group, int64_t column) {
    Row<T> row{call.forward, call.dy, factors, blocks.along_channels, {}, {}, {}, {}, {}, nullptr};
    Acc sums[2][kNormRun];
    double* total = nullptr;
    blocks.for_column(group, column, [&](const NormBlock& b) {
      const int64_t channels = blocks.along_channels ? b.length : 1;
      if (!total) {
        total = partial + 2 * (group * C + b.channel);
        for (int64_t c = 0; c < 2 * channels; ++c) total[c] = 0;
      }
      // A block's sums are float, one lane's at most kNormStrip terms long; then float64.
      for (int64_t i = 0; i < b.length; ++i) sums[0][i] = sums[1][i] = 0;
      for (int64_t r = 0; r < b.rows; ++r) {
        row.differentiate(b, r, backward);
        for_lanes<Acc>(b, blocks.along_channels, [&](int64_t i, int64_t n, auto factor) {
          const V dz = load_lanes_of(row.z + i, n), centered = load_lanes_of(row.x + i, n) - factor(factors.mean);
          store_lanes_of(load_lanes_of(sums[0] + i, n) + dz, sums[0] + i, n);
          store_lanes_of(fma(dz, centered, load_lanes_of(sums[1] + i, n)), sums[1] + i, n);
        });
      }
      for (int64_t i = 0; i < b.length; ++i) {
        const int64_t c = blocks.along_channels ? i : 0;
        total[2 * c] += sums[0][i];
        total[2 * c + 1] += sums[1][i];
      }
    });
  });
  Acc *dweight = static_cast<Acc*>(call.dweight), *dbias = static_cast<Acc*>(call.dbias);
  for (int64_t c = 0; c < C; ++c) {
    double sum = 0, product = 0;
    for (int64_t group = 0; group < blocks.groups; ++group) {
      sum += partial[2 * (group * C + c)];
      product += partial[2 * (group * C + c) + 1];
    }
    dbias[c] = static_cast<Acc>(sum);
    dweight[c] = static_cast<Acc>(product) / factors.deviation[c];
  }
}

template <class T>
void backward(const BatchNormGradCall& call, const CallContext& ctx) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  const BatchNormCall& f = call.forward;
  const TensorView operands[] = {f.x, f.epilogue.residual, f.epilogue.full_param, call.dy, call.dx, call.dresidual};
  const NormBlocks blocks(operands, 6);
  Factors<Acc> factors(f, *ctx.workspace);
  const ActivationRow<Acc> differentiate = find_activation_row<Acc>(f.epilogue.act, 1);
  sum_gradients<T>(call, factors, blocks, differentiate, ctx);
  if (call.batch_statistics) {
    const double count = static_cast<double>(f.x.numel() / blocks.C);
    for (int64_t c = 0; c < blocks.C; ++c) {
      factors.mean_dz[c] = static_cast<Acc>(static_cast<const Acc*>(call.dbias)[c] / count);
      factors.slope[c] = static_cast<Acc>(static_cast<const Acc*>(call.dweight)[c] / count) / factors.deviation[c];
    }
  }
  blocks.for_tasks([&](int64_t group, int64_t column) {
    Row<T> row{f, call.dy, factors, blocks.along_channels, {}, {}, {}, {}, {}, nullptr};
    blocks.for_column(group, column, [&](const NormBlock& b) {
      for (int64_t r = 0; r < b.rows; ++r) {
        row.differentiate(b, r, differentiate);
        if (call.dresidual.present()) {
          store_run(call.dresidual.as<T>() + b.offset[kDresidual] + r * b.row_step[kDresidual],
                    b.element_step[kDresidual], b.length, row.z);
        }
        for_lanes<Acc>(b, blocks.along_channels, [&](int64_t i, int64_t n, auto factor) {
          const V centered = load_lanes_of(row.x + i, n) - factor(factors.mean);
          const V dz = load_lanes_of(row.z + i, n) - factor(factors.mean_dz);
          store_lanes_of(factor(factors.scale) * (dz - centered * factor(factors.slope)), row.z + i, n);
        });
        store_run(call.dx.as<T>() + b.offset[kDx] + r * b.row_step[kDx], b.element_step[kDx], b.length, row.z);
      }
    });
  });
}

}  // namespace norm

inline void batch_norm_stats(const BatchNormStatsCall& call, const CallContext& ctx) {
  if (call.x.numel() == 0) return;
  const NormBlocks blocks(&call.x, 1);
  const int64_t C = blocks.C;
  auto* moments = static_cast<norm::Moments*>(
      ctx.workspace->allocate(static_cast<size_t>(blocks.groups * C) * sizeof(norm::Moments)));
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using Acc = accumulate_t<T>;
    blocks.for_tasks([&](int64_t group, int64_t column) {
      norm::Moments* of_group = moments + group * C;
      bool started = false;
      blocks.for_column(group, column, [&](const NormBlock& b) {
        const int64_t channels = blocks.along_channels ? b.length : 1;
        for (int64_t c = 0; !started && c < channels; ++c) of_group[b.channel + c] = {};
        started = true;
        norm::add_moments<T>(call.x, b, blocks.along_channels, of_group + b.channel);
      });
    });
    for (int64_t c = 0; c < C; ++c) {
      norm::Moments all;
      for (int64_t group = 0; group < blocks.groups; ++group) all.merge(moments[group * C + c]);
      static_cast<Acc*>(call.mean)[c] = static_cast<Acc>(all.mean);
      static_cast<Acc*>(call.var)[c] = static_cast<Acc>(all.m2 / all.count);
    }
  });
}

inline void batch_norm_act(const BatchNormCall& call, const CallContext& ctx) {
  if (call.x.numel() == 0) return;
  visit_dtype(call.dtype, [&](auto tag) { norm::forward<typename decltype(tag)::type>(call, ctx); });
}

inline void batch_norm_act_backward(const BatchNormGradCall& call, const CallContext& ctx) {
  if (call.forward.x.numel() == 0) return;
  visit_dtype(call.forward.dtype, [&](auto tag) { norm::backward<typename decltype(tag)::type>(call, ctx); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
