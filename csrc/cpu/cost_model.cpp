#include "cost_model.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

namespace fastconv::cpu {
namespace {

// One slot for each instruction set that this CPU can run, so that switching between them keeps what was measured.
constexpr int kSlots = 16;
std::atomic<const Machine*> slots[kSlots];

int slot_of(const Kernels& table) {
  int count = 0;
  const Kernels* const* tables = available_kernels(&count);
  for (int i = 0; i < count && i < kSlots; ++i)
    if (tables[i] == &table) return i;
  return kSlots - 1;
}

double divided_up(int64_t a, double b) { return std::ceil(static_cast<double>(a) / b); }

double bytes_of(int64_t elements, DType dtype) {
  return static_cast<double>(elements) * static_cast<double>(dtype_size(dtype));
}

double accumulate_bytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }

}  // namespace

Machine default_machine(const Kernels& table) {
  // A server core of the last years at about 3 GHz: two FMAs, two loads and one store a cycle, caches as they come with
  // the instruction set. The scalar fallback multiplies and adds apart.
  const double vector = table.vector_bytes, clock = 3e9;
  const bool wide = vector >= 64, plain = vector < 32;
  Machine m{};
  m.fma_per_second = plain ? clock : 2 * clock;
  m.l1_bandwidth = 1.5 * vector * clock;
  m.l2_bandwidth = std::min(48.0, 1.5 * vector) * clock;
  m.l3_bandwidth = 20e9;
  m.memory_bandwidth = 10e9;
  m.l1_bytes = 32 << 10;
  m.l2_bytes = wide ? 1 << 20 : 512 << 10;
  m.l3_bytes = 8 << 20;
  m.call_seconds = 4e-6;
  return m;
}

const Machine& machine() {
  const Kernels& table = kernels();
  std::atomic<const Machine*>& slot = slots[slot_of(table)];
  if (const Machine* set = slot.load(std::memory_order_acquire)) return *set;
  const Machine* fresh = new Machine(default_machine(table));
  const Machine* expected = nullptr;
  if (slot.compare_exchange_strong(expected, fresh, std::memory_order_acq_rel)) return *fresh;
  delete fresh;
  return *expected;
}

// The constants before stay alive: another thread may be reading them, and they are 72 bytes.
void set_machine(const Machine& constants) {
  slots[slot_of(kernels())].store(new Machine(constants), std::memory_order_release);
  new_choice_epoch();
}

double stream_seconds(double bytes, double footprint) {
  const Machine& m = machine();
  if (footprint <= m.l1_bytes) return bytes / m.l1_bandwidth;
  if (footprint <= m.l2_bytes) return bytes / m.l2_bandwidth;
  if (footprint <= m.l3_bytes) return bytes / m.l3_bandwidth;
  return bytes / m.memory_bandwidth;
}

double tensor_seconds(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  const double x = bytes_of(p.C * p.H * p.W, call.dtype), y = bytes_of(p.K * p.P * p.Q, call.dtype);
  return stream_seconds(x + y + (call.epilogue.residual.present() ? y : 0), x + y);
}

namespace {

// Fused multiply-adds, as instructions at the peak, that the engine's tiles take for one image.
double engine_steps(const ConvProblem& p, DType dtype) {
  const double lanes = lanes_of(dtype), most = kernels().vector_bytes >= 64 ? 14 : 6;
  const double K = static_cast<double>(p.filters_per_group()), vectors = std::ceil(K / lanes);
  const bool flat = p.R == 1 && p.S == 1 && p.stride_h == 1 && p.stride_w == 1 && !p.has_padding();
  // 1x1: all pixels are one row. Narrow rows share a tile by two.
  double Q = static_cast<double>(flat ? p.P * p.Q : p.Q), rows_of_tiles = flat ? 1 : static_cast<double>(p.P);
  if (Q * 2 <= most && rows_of_tiles > 1) Q *= 2, rows_of_tiles = std::ceil(rows_of_tiles / 2);
  const double tiles = std::ceil(Q / most), rows = Q / tiles;
  const double reduction = static_cast<double>(p.gemm_k());
  const double pairs = std::floor(vectors / 2), odd = vectors - 2 * pairs;
  const double step = pairs * tile_step(rows, 2) + odd * tile_step(rows, 1);
  // A tile begins and ends: pointers, the first loads, the epilogue and the stores of its outputs; and each tap begins
  // another stretch of memory.
  const double taps = static_cast<double>(p.R * p.S), start = 40 + 4 * rows + 6 * taps;
  return static_cast<double>(p.groups) * rows_of_tiles * tiles * (step * reduction + (pairs + odd) * start);
}

}  // namespace

double cost_of_engine(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  const Machine& m = machine();
  const double item = accumulate_bytes(call.dtype), lanes = lanes_of(call.dtype);
  double seconds = m.call_seconds + tensor_seconds(call) + fma_seconds(engine_steps(p, call.dtype));
  // Input rows go through a band of scratch, but for a dense NHWC input without padding: written and read once in L2,
  // transposed on the way where x is NCHW.
  const bool in_place = call.x.stride[1] == 1 && !p.has_padding() && call.dtype == call.x.dtype &&
                        static_cast<double>(dtype_size(call.dtype)) == item;
  const double x = static_cast<double>(p.C * p.H * p.W) * item, y = static_cast<double>(p.K * p.P * p.Q) * item;
  const double transposition = 3;
  if (!in_place) seconds += x * (call.x.stride[1] == 1 ? 2 : 2 + transposition) / m.l2_bandwidth;
  if (call.y.stride[1] != 1) seconds += y * (2 + transposition) / m.l2_bandwidth;
  // Weights pass once for each block of 112 to 224 outputs; prefetching hides what comes from L2.
  const double padded = divided_up(p.filters_per_group(), lanes) * lanes * static_cast<double>(p.groups);
  const double weights = padded * static_cast<double>(p.gemm_k()) * item;
  const double blocks = std::ceil(static_cast<double>(p.P * p.Q) / 224);
  if (weights > m.l2_bytes / 2) {
    const double fetch = blocks * stream_seconds(weights, weights + m.l2_bytes);
    seconds = std::max(seconds, fetch) + 0.25 * std::min(seconds, fetch);
  }
  return seconds;
}

double cost_of_im2col(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  // The matrix of windows is written, and read by the product; where it is larger than L2, from further out.
  const double matrix = static_cast<double>(p.gemm_k() * p.groups * p.P * p.Q) * accumulate_bytes(call.dtype);
  Conv2dCall product = call;
  product.problem.R = product.problem.S = 1;
  product.problem.C = p.C * p.R * p.S;
  return cost_of_engine(product) + 3 * stream_seconds(matrix, matrix);
}

double cost_of_direct(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  // Four pixels of one vector of filters: the latency of FMA shows, and a branch stands before each.
  const double vectors = divided_up(p.filters_per_group(), lanes_of(call.dtype)) * static_cast<double>(p.groups);
  const double quads = std::ceil(static_cast<double>(p.Q) / 4) * static_cast<double>(p.P) * vectors;
  const double outputs = static_cast<double>(p.K * p.P * p.Q), per_output = 40;  // the scalar epilogue
  return 0.5 * machine().call_seconds + tensor_seconds(call) +
         fma_seconds(quads * static_cast<double>(p.gemm_k()) * 12 + outputs * per_output);
}

double cost_of_depthwise(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  const bool adjacent = p.stride_h == 1 && p.stride_w == 1 && p.dilation_h == 1 && p.dilation_w == 1;
  if (adjacent && p.R >= 6 && p.R * p.S >= 81) return cost_of_large_depthwise(call);
  const double lanes = lanes_of(call.dtype);
  const bool channels = call.y.stride[1] == 1 && p.K > 1 && p.C > 1;
  // Tiles of four pixels (channel lanes) or of vectors of columns; 3x3 and 5x5 with stride 1 or 2 keep their inputs in
  // registers, others load one operand a multiply-add.
  const double pixels = channels ? std::ceil(static_cast<double>(p.Q) / 4) * 4 * static_cast<double>(p.P)
                                 : divided_up(p.Q, lanes) * lanes * static_cast<double>(p.P);
  const double vectors = channels ? divided_up(p.K, lanes) : static_cast<double>(p.K) / lanes;
  const bool tiled = p.R == p.S && (p.R == 3 || p.R == 5) && p.stride_h == p.stride_w && p.stride_h <= 2 &&
                     p.dilation_h == 1 && p.dilation_w == 1;
  const double share = tiled ? 0.75 : 0.4;  // of the FMA peak
  return 0.5 * machine().call_seconds + tensor_seconds(call) +
         fma_seconds(pixels * vectors * static_cast<double>(p.R * p.S) / share);
}

double cost_of_grouped(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  const double lanes = lanes_of(call.dtype), C = static_cast<double>(p.channels_per_group());
  const double K = static_cast<double>(p.filters_per_group());
  const double shared = std::max(1.0, std::min(std::floor(lanes / K), std::floor((lanes - 1) / C) + 1));
  const double blocks = static_cast<double>(p.groups) * std::ceil(K / lanes) / shared;
  const double tile = kernels().vector_bytes >= 64 ? 14 : 8, tiles = std::ceil(static_cast<double>(p.Q) / tile);
  const double width = std::ceil(static_cast<double>(p.Q) / tiles / 2) * 2;
  // Of three taps in a row that a pixel meets it is permuted once, else for each; permutations take one of the two
  // ports.
  const bool three = p.S == 3 && p.dilation_w == 1 && p.stride_w <= 2;
  const double permuted = three ? (width - 1) * static_cast<double>(p.stride_w) + 3 : width * static_cast<double>(p.S);
  const double row = width * static_cast<double>(p.S) + permuted + 8;
  const double steps = static_cast<double>(p.P) * tiles * blocks * (static_cast<double>(p.R) * C * row + 10 * width);
  const double x = static_cast<double>(p.C * p.H * p.W), y = static_cast<double>(p.K * p.P * p.Q);
  const double item = accumulate_bytes(call.dtype), transposition = 3;
  const double moved =
      x * (call.x.stride[1] == 1 ? 2 : 2 + transposition) + (call.y.stride[1] == 1 ? 0 : y * transposition);
  return machine().call_seconds + tensor_seconds(call) + moved * item / machine().l2_bandwidth + fma_seconds(steps);
}

}  // namespace fastconv::cpu
