// The algorithms of conv2d on the CPU. Those that may be taken unasked compete by predicted cost; at a tie the first
// wins.
#include "algorithms.h"
#include "cost_model.h"
#include "cpu_kernels.h"

namespace fastconv::cpu {
namespace {

std::string pair_text(int64_t h, int64_t w) { return "(" + std::to_string(h) + ", " + std::to_string(w) + ")"; }

Reasons unless_depthwise(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  if (p.groups == p.C) return {};
  return {"expected groups to equal the input channels, but got groups = " + std::to_string(p.groups) + " and " +
          std::to_string(p.C) + " channels"};
}

bool one_channel_each(const Conv2dCall& call) {
  return cpu::one_channel_each(call.problem, call.dtype, kernels().vector_bytes);
}

Reasons unless_pointwise(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  Reasons reasons;
  if (p.R != 1 || p.S != 1) reasons.push_back("expected a 1x1 filter, but got " + pair_text(p.R, p.S));
  if (p.stride_h != 1 || p.stride_w != 1) {
    reasons.push_back("expected stride 1, but got " + pair_text(p.stride_h, p.stride_w));
  }
  if (p.has_padding()) {
    reasons.push_back("expected no padding, but got top, bottom " + pair_text(p.pad_top, p.pad_bottom) +
                      " and left, right " + pair_text(p.pad_left, p.pad_right));
  }
  return reasons;
}

// The packed weights at hand are those that the algorithm reads.
bool packed_for(const Conv2dCall& call, PackedFormat format) {
  return !call.packed_w || call.packed_format == format || call.packed_format == PackedFormat::kUndecided;
}

Reasons unless_winograd(const Conv2dCall& call, PackedFormat format) {
  const ConvProblem& p = call.problem;
  Reasons reasons;
  if (p.R != 3 || p.S != 3) reasons.push_back("expected a 3x3 filter, but got " + pair_text(p.R, p.S));
  if (p.stride_h != 1 || p.stride_w != 1) {
    reasons.push_back("expected stride 1, but got " + pair_text(p.stride_h, p.stride_w));
  }
  if (p.dilation_h != 1 || p.dilation_w != 1) {
    reasons.push_back("expected dilation 1, but got " + pair_text(p.dilation_h, p.dilation_w));
  }
  if (call.dtype == DType::kFloat64) reasons.push_back("sums in float32, and the tensors are float64");
  if (p.C == 0) reasons.push_back("there are no input channels");
  if (!packed_for(call, format)) reasons.push_back("the packed weights are not transformed for it");
  return reasons;
}
Reasons unless_winograd_2x2(const Conv2dCall& call) { return unless_winograd(call, PackedFormat::kWinograd2x2); }
Reasons unless_winograd_4x4(const Conv2dCall& call) { return unless_winograd(call, PackedFormat::kWinograd4x4); }

// F(4x4) where it is expected to be faster or the weights are transformed for it, else F(2x2).
bool takes_4x4(const Conv2dCall& call) {
  if (call.packed_w && call.packed_format == PackedFormat::kWinograd2x2) return false;
  if (call.packed_w && call.packed_format == PackedFormat::kWinograd4x4) return true;
  return cost_of_winograd_4x4(call) < cost_of_winograd_2x2(call);
}
Reasons unless_either(const Conv2dCall& call) {
  return takes_4x4(call) ? unless_winograd_4x4(call) : unless_winograd_2x2(call);
}
void run_either(const Conv2dCall& call, const CallContext& context) {
  (takes_4x4(call) ? kernels().conv2d_winograd_4x4 : kernels().conv2d_winograd_2x2)(call, context);
}

// Half precision keeps to what it had.
bool winograd_permitted(const Conv2dCall& call) { return call.dtype == DType::kFloat32 && winograd_allowed(); }

// The cheap questions first: this is asked at every call.
bool winograd_preferred(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  return p.R == 3 && p.S == 3 && winograd_permitted(call) && p.K * p.P * p.Q * p.gemm_k() >= kWinogradWork &&
         (call.packed_w || p.P * p.Q >= kWinogradUnpackedPixels);
}

Reasons unless_panels(const Conv2dCall& call) {
  if (packed_for(call, PackedFormat::kPanels)) return {};
  return {call.packed_format == PackedFormat::kBf16Pairs
              ? "the packed weights are pairs of bfloat16"
              : "the packed weights are transformed for Winograd's algorithm"};
}
Reasons with_panels(Reasons reasons, const Conv2dCall& call) {
  for (const std::string& reason : unless_panels(call)) reasons.push_back(reason);
  return reasons;
}

bool fills_tiles(const Conv2dCall& call) { return cpu::fills_tiles(call.problem); }

void run_depthwise(const Conv2dCall& call, const CallContext& context) {
  const Kernels& table = kernels();
  const bool narrow = call.problem.is_depthwise() && table.avx512_bf16 && table.avx512_bf16->serves_depthwise(call);
  (narrow ? table.avx512_bf16->conv2d_depthwise : table.conv2d_depthwise)(call, context);
}

Reasons unless_grouped(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  if (p.groups > 1 && !p.is_depthwise()) return {};
  return {"expected more than 1 group, and several channels in each, but got " + std::to_string(p.groups) +
          " groups of " + std::to_string(p.channels_per_group()) + " channels"};
}

bool shares_vectors(const Conv2dCall& call) {
  return cpu::shares_vectors(call.problem, call.dtype, kernels().vector_bytes);
}
// Otherwise packed weights are another algorithm's.
bool fills_vectors(const Conv2dCall& call) { return !shares_vectors(call) && !one_channel_each(call); }

// What spectra of filters may take, and pixels that a filter may reach: half of the larger transform must be output.
constexpr int64_t kMostSpectra = 64 << 20, kMostReach = 64;

Reasons unless_fft(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  Reasons reasons;
  if (call.packed_w && call.packed_format != PackedFormat::kUndecided) {
    reasons.push_back("it transforms filters as they are, and these are packed");
  }
  if (p.stride_h != 1 || p.stride_w != 1) {
    reasons.push_back("expected stride 1, but got " + pair_text(p.stride_h, p.stride_w));
  }
  const int64_t reach_h = (p.R - 1) * p.dilation_h + 1, reach_w = (p.S - 1) * p.dilation_w + 1;
  if (reach_h > kMostReach || reach_w > kMostReach) {
    reasons.push_back("expected filters that reach over at most " + std::to_string(kMostReach) +
                      " pixels, dilation included, but got " + pair_text(reach_h, reach_w));
    return reasons;
  }
  const int64_t item = 2 * static_cast<int64_t>(dtype_size(accumulate_dtype(call.dtype)));
  const int64_t spectra = p.K * p.channels_per_group() * fft_side(p) * fft_side(p) * item;
  if (spectra > kMostSpectra) {
    reasons.push_back("expected the transformed filters to take at most " + std::to_string(kMostSpectra >> 20) +
                      " MiB, but got " + std::to_string(spectra >> 20));
  }
  return reasons;
}

// Where sums may be rearranged: the switch is Winograd's. From 9 x 9 on.
bool fft_permitted(const Conv2dCall& call) { return dtype_size(call.dtype) >= 4 && winograd_allowed(); }
bool fft_preferred(const Conv2dCall& call) { return call.problem.R * call.problem.S >= 81 && fft_permitted(call); }

Reasons unless_pairs(const Conv2dCall& call, const Bf16Kernels* there) {
  Reasons reasons = unless_bf16(call, there);
  if (!packed_for(call, PackedFormat::kBf16Pairs)) reasons.push_back("the packed weights are not pairs of bfloat16");
  return reasons;
}

Reasons none(const Conv2dCall&) { return {}; }
bool never(const Conv2dCall&) { return false; }

}  // namespace

Reasons unless_bf16(const Conv2dCall& call, const Bf16Kernels* there) {
  Reasons reasons;
  if (!there) reasons.push_back("the instruction set in use (" + std::string(kernels().isa) + ") has none");
  if (call.dtype != DType::kBFloat16) {
    reasons.push_back("expected bfloat16, but got " + std::string(dtype_name(call.dtype)));
  }
  return reasons;
}

// Tiles are 16 filters wide: a group of fewer fills that much of one.
bool fills_tiles(const ConvProblem& p) { return !p.is_depthwise() && (p.groups == 1 || p.filters_per_group() >= 8); }

const AlgorithmTable<Conv2dCall>& conv2d_algorithms() {
  static const AlgorithmTable<Conv2dCall> table = {
      {"amx", "bfloat16 in the processor's matrix tiles, float32 sums",
       [](const Conv2dCall& call) { return unless_pairs(call, kernels().amx); }, fills_tiles,
       [](const Conv2dCall& call, const CallContext& context) { kernels().amx->conv2d(call, context); }},
      {"avx512_bf16", "bfloat16 by dot products of pairs, float32 sums",
       [](const Conv2dCall& call) { return unless_pairs(call, kernels().avx512_bf16); },
       [](const Conv2dCall& call) { return fills_tiles(call) && fast_bf16_pairs(); },
       [](const Conv2dCall& call, const CallContext& context) { kernels().avx512_bf16->conv2d(call, context); }},
      {"depthwise", "one filter per channel: channels or columns in the lanes",
       [](const Conv2dCall& call) { return with_panels(unless_depthwise(call), call); }, one_channel_each,
       run_depthwise, cost_of_depthwise},
      {"grouped", "few channels a group: several groups in a vector, each lane brought its own group's channels",
       [](const Conv2dCall& call) { return with_panels(unless_grouped(call), call); }, shares_vectors,
       [](const Conv2dCall& call, const CallContext& context) { kernels().conv2d_grouped(call, context); },
       cost_of_grouped},
      {"pointwise", "1x1 filter: a GEMM over the pixels of x where they lie",
       [](const Conv2dCall& call) { return with_panels(unless_pointwise(call), call); }, fills_vectors,
       [](const Conv2dCall& call, const CallContext& context) { kernels().conv2d_pointwise(call, context); },
       cost_of_engine},
      {"implicit_gemm", "register tiles of pixels x filters, taps as offsets into input rows, no im2col matrix",
       unless_panels, fills_vectors,
       [](const Conv2dCall& call, const CallContext& context) { kernels().conv2d_implicit_gemm(call, context); },
       cost_of_engine},
      {"winograd_4x4", "3x3 by minimal filtering F(4x4, 3x3): 36 products for 16 outputs; rearranged sums",
       unless_winograd_4x4, winograd_preferred,
       [](const Conv2dCall& call, const CallContext& context) { kernels().conv2d_winograd_4x4(call, context); },
       cost_of_winograd_4x4, nullptr, winograd_permitted},
      {"winograd_2x2", "3x3 by minimal filtering F(2x2, 3x3): 16 products for 4 outputs; rearranged sums",
       unless_winograd_2x2, winograd_preferred,
       [](const Conv2dCall& call, const CallContext& context) { kernels().conv2d_winograd_2x2(call, context); },
       cost_of_winograd_2x2, nullptr, winograd_permitted},
      {"winograd", "3x3 by minimal filtering, F(4x4) or F(2x2), whichever is expected to be faster; rearranged sums",
       unless_either, never, run_either,
       [](const Conv2dCall& call) { return takes_4x4(call) ? cost_of_winograd_4x4(call) : cost_of_winograd_2x2(call); },
       nullptr, winograd_permitted},
      {"fft", "large filters by products of spectra, tile by tile; rearranged sums", unless_fft, fft_preferred,
       [](const Conv2dCall& call, const CallContext& context) { kernels().conv2d_fft(call, context); }, cost_of_fft,
       nullptr, fft_permitted},
      {"im2col", "the matrix of all windows in memory, then a GEMM", none, never,
       [](const Conv2dCall& call, const CallContext& context) { kernels().conv2d_im2col(call, context); },
       cost_of_im2col},
      {"direct", "the definition, one vector of filters at a time", unless_panels, never,
       [](const Conv2dCall& call, const CallContext& context) { kernels().conv2d_direct(call, context); },
       cost_of_direct},
  };
  return table;
}

}  // namespace fastconv::cpu
