// The costs of conv2d's rows for large filters: depthwise with columns in the lanes, and fft.
#include <algorithm>
#include <cmath>

#include "cost_model.h"

namespace fastconv::cpu {
namespace {

// Both go through planes of columns: what gathering and scattering the elements of NHWC tensors takes, in FMAs.
double scattered(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  const double x = call.x.stride[3] == 1 ? 0 : static_cast<double>(p.C * p.H * p.W);
  const double y = call.y.stride[3] == 1 ? 0 : static_cast<double>(p.K * p.P * p.Q);
  return 16 * (x + y);
}

}  // namespace

double cost_of_large_depthwise(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  const double lanes = lanes_of(call.dtype), vectors = std::ceil(static_cast<double>(p.Q) / lanes);
  // Filter rows that meet rows of the image: the others are skipped, unlike columns.
  int64_t rows = 0;
  for (int64_t r = 0; r < p.R; ++r)
    rows += std::max<int64_t>(0, std::min(p.P, p.H + p.pad_top - r) - std::max<int64_t>(0, p.pad_top - r));
  const double K = static_cast<double>(p.K), S = static_cast<double>(p.S), taps = static_cast<double>(p.R) * S;
  const double share = 0.6;  // of the FMA peak: half of the loads cross cache lines
  const double fmas = K * (vectors * static_cast<double>(rows) * S / share + 8 * taps);
  return machine().call_seconds + tensor_seconds(call) + fma_seconds(fmas + scattered(call));
}

double cost_of_fft(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  const double lanes = lanes_of(call.dtype), side = static_cast<double>(fft_side(p));
  const double rows = side - static_cast<double>((p.R - 1) * p.dilation_h);
  const double columns = side - static_cast<double>((p.S - 1) * p.dilation_w);
  const double tiles = std::ceil(static_cast<double>(p.P) / rows) * std::ceil(static_cast<double>(p.Q) / columns);
  const double pairs = std::ceil(tiles / 2), C = static_cast<double>(p.C), K = static_cast<double>(p.K);
  const double products = K * static_cast<double>(p.channels_per_group());
  // Filters are transformed at every call: once for all images, but a cost is that of one image.
  const double transforms = products + pairs * (C + K);
  // A vector's butterfly: eight operations and, shared by three of them, loads, stores and transposition.
  const double area = side * side / lanes, butterflies = area * std::log2(side), per_butterfly = 24, per_product = 8;
  const double fmas = transforms * butterflies * per_butterfly + pairs * products * area * per_product;
  // Spectra of filters are read again for each pair of tiles.
  const double item = call.dtype == DType::kFloat64 ? 8 : 4, spectra = products * 2 * side * side * item;
  const double fetch = spectra > machine().l2_bytes / 2 ? pairs * stream_seconds(spectra, spectra) : 0;
  return machine().call_seconds + tensor_seconds(call) + fetch + fma_seconds(fmas + scattered(call));
}

}  // namespace fastconv::cpu
