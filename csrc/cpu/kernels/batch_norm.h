// Training-mode BatchNorm: y = act((x - mean) * scale + bias + residual) with scale = weight / sqrt(var + eps), and its
// gradients in two passes, with dz = dy * act'(z) computed anew from x in both:
//
//   dbias = sum(dz), dweight = sum(dz * (x - mean)) / sqrt(var + eps)
//   dx = scale * (dz - mean(dz) - (x - mean) * slope)        slope: mean(dz * (x - mean)) / (var + eps)
//
// batch_norm_rows.h computes, on dense rows of the accumulate type; operands of another type or stride go through
// buffers, row by row, so that one code serves every layout and type. Statistics: batch_norm_stats.h.
#pragma once

#include "batch_norm_rows.h"
#include "batch_norm_stats.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace norm {

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

enum Operand { kX, kResidual, kParam, kDy, kOut, kDresidual };

// A function over the rows of a block: where they lie, or through buffers.
template <class T>
class BlockWork {
 public:
  using Acc = accumulate_t<T>;

  BlockWork(const TensorView* operands, const Factors<Acc>& factors, NormFunction<Acc> run)
      : operands_(operands), factors_(factors), run_(run) {}

  void operator()(const NormBlock& b, Acc* sums = nullptr, Acc* products = nullptr) {
    NormRows<Acc> rows{};
    const int64_t c = b.channel;
    rows.full_param = operands_[kParam].present();
    rows.mean = factors_.mean + c, rows.scale = factors_.scale + c, rows.bias = factors_.bias + c;
    rows.mean_dz = factors_.mean_dz + c, rows.slope = factors_.slope + c, rows.param = factors_.param + c;
    rows.sums = sums, rows.products = products;
    rows.length = b.length;
    if (lies_dense(b)) {
      rows.rows = b.rows;
      rows.x = dense<const Acc>(b, kX), rows.dy = dense<const Acc>(b, kDy);
      rows.residual = dense<const Acc>(b, kResidual);
      if (rows.full_param) rows.param = dense<const Acc>(b, kParam);
      rows.out = dense<Acc>(b, kOut), rows.dz = dense<Acc>(b, kDresidual);
      rows.x_step = b.row_step[kX], rows.dy_step = b.row_step[kDy];
      rows.residual_step = b.row_step[kResidual], rows.param_step = b.row_step[kParam];
      rows.out_step = b.row_step[kOut], rows.dz_step = b.row_step[kDresidual];
      return run_(rows);
    }
    rows.rows = 1;
    for (int64_t r = 0; r < b.rows; ++r) {
      rows.x = read(b, r, kX), rows.dy = read(b, r, kDy), rows.residual = read(b, r, kResidual);
      if (rows.full_param) rows.param = read(b, r, kParam);
      rows.out = operands_[kOut].present() ? buffers_[kOut] : nullptr;
      rows.dz = operands_[kDresidual].present() ? buffers_[kDresidual] : nullptr;
      run_(rows);
      write(b, r, kOut);
      write(b, r, kDresidual);
    }
  }

 private:
  bool lies_dense(const NormBlock& b) const {
    bool dense = sizeof(T) == sizeof(Acc);
    for (int o = 0; o < kNormOperands; ++o) dense = dense && (!operands_[o].present() || b.element_step[o] == 1);
    return dense;
  }
  template <class P>
  P* dense(const NormBlock& b, int o) const {
    return operands_[o].present() ? operands_[o].template as<P>() + b.offset[o] : nullptr;
  }
  T* row(const NormBlock& b, int64_t r, int o) const {
    return operands_[o].template as<T>() + b.offset[o] + r * b.row_step[o];
  }
  const Acc* read(const NormBlock& b, int64_t r, int o) {
    if (!operands_[o].present()) return nullptr;
    return dense_run(const_cast<const T*>(row(b, r, o)), b.element_step[o], b.length, buffers_[o]);
  }
  void write(const NormBlock& b, int64_t r, int o) const {
    if (operands_[o].present()) store_run(row(b, r, o), b.element_step[o], b.length, buffers_[o]);
  }

  const TensorView* operands_;
  const Factors<Acc>& factors_;
  const NormFunction<Acc> run_;
  Acc buffers_[kNormOperands][kNormRun];
};

template <class T>
void forward(const BatchNormCall& call, const CallContext& ctx) {
  using Acc = accumulate_t<T>;
  const TensorView operands[] = {call.x, call.epilogue.residual, call.epilogue.full_param, {}, call.y, {}};
  const NormBlocks blocks(operands, 6);
  const Factors<Acc> factors(call, *ctx.workspace);
  const auto run = find_norm_rows<Acc, NormWork::kForward>(call.epilogue.act, blocks.along_channels);
  blocks.for_tasks([&](int64_t group, int64_t column) {
    BlockWork<T> work(operands, factors, run);
    blocks.for_column(group, column, [&](const NormBlock& b) { work(b); });
  });
}

// Sums of dz and dz * (x - mean) to dbias and dweight.
template <class T>
void sum_gradients(const BatchNormGradCall& call, const TensorView* operands, const Factors<accumulate_t<T>>& factors,
                   const NormBlocks& blocks, const CallContext& ctx) {
  using Acc = accumulate_t<T>;
  const auto run = find_norm_rows<Acc, NormWork::kSums>(call.forward.epilogue.act, blocks.along_channels);
  const int64_t C = blocks.C;
  // [group][sums, products][channel]
  double* partial =
      static_cast<double*>(ctx.workspace->allocate(static_cast<size_t>(2 * blocks.groups * C) * sizeof(double)));
  blocks.for_tasks([&](int64_t group, int64_t column) {
    BlockWork<T> work(operands, factors, run);
    const int64_t channels = blocks.channels(column);
    double *sum = partial + 2 * group * C + blocks.first_channel(column), *product = sum + C;
    for (int64_t c = 0; c < channels; ++c) sum[c] = product[c] = 0;
    blocks.for_column(group, column, [&](const NormBlock& b) {
      // A block's sums are float, of at most kNormPixels terms or kNormRun in lanes; then float64.
      Acc sums[kNormChannels] = {}, products[kNormChannels] = {};
      work(b, sums, products);
      for (int64_t c = 0; c < channels; ++c) {
        sum[c] += sums[c];
        product[c] += products[c];
      }
    });
  });
  for (int64_t group = 1; group < blocks.groups; ++group)
    for (int64_t i = 0; i < 2 * C; ++i) partial[i] += partial[2 * group * C + i];
  Acc *dweight = static_cast<Acc*>(call.dweight), *dbias = static_cast<Acc*>(call.dbias);
  for (int64_t c = 0; c < C; ++c) {
    dbias[c] = static_cast<Acc>(partial[c]);
    dweight[c] = static_cast<Acc>(partial[C + c]) / factors.deviation[c];
  }
}

template <class T>
void backward(const BatchNormGradCall& call, const CallContext& ctx) {
  using Acc = accumulate_t<T>;
  const BatchNormCall& f = call.forward;
  const EpilogueArgs& e = f.epilogue;
  const TensorView operands[] = {f.x, e.residual, e.full_param, call.dy, call.dx, call.dresidual};
  const TensorView read_only[] = {f.x, e.residual, e.full_param, call.dy, {}, {}};
  const NormBlocks blocks(operands, 6);
  Factors<Acc> factors(f, *ctx.workspace);
  sum_gradients<T>(call, read_only, factors, blocks, ctx);
  if (call.batch_statistics) {
    const double count = static_cast<double>(blocks.pixels);
    for (int64_t c = 0; c < blocks.C; ++c) {
      factors.mean_dz[c] = static_cast<Acc>(static_cast<const Acc*>(call.dbias)[c] / count);
      factors.slope[c] = static_cast<Acc>(static_cast<const Acc*>(call.dweight)[c] / count) / factors.deviation[c];
    }
  }
  const auto run = find_norm_rows<Acc, NormWork::kGradient>(e.act, blocks.along_channels);
  blocks.for_tasks([&](int64_t group, int64_t column) {
    BlockWork<T> work(operands, factors, run);
    blocks.for_column(group, column, [&](const NormBlock& b) { work(b); });
  });
}

}  // namespace norm

inline void batch_norm_act(const BatchNormCall& call, const CallContext& ctx) {
  if (call.x.numel() == 0) return;
  visit_dtype(call.dtype, [&](auto tag) { norm::forward<typename decltype(tag)::type>(call, ctx); });
}

inline void batch_norm_act_backward(const BatchNormGradCall& call, const CallContext& ctx) {
  if (call.forward.x.numel() == 0) return;
  visit_dtype(call.forward.dtype, [&](auto tag) { norm::backward<typename decltype(tag)::type>(call, ctx); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
