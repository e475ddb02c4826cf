// ldmatrix and mma.sync: the lanes of a warp meet, the last to arrive does the work for all of them.
#include <cstring>

#include "device_tensor_cores.h"
#include "machine.h"

namespace fastconv::emulator {
namespace {

constexpr unsigned kFullWarp = 0xffffffffu;

// These instructions need every lane; a shuffle is content with those of its mask.
bool meet_whole_warp(const char* instruction, void* operand, Caller caller, Rendezvous& complete) {
  Machine& m = machine();
  const Warp& warp = m.warp_of(*m.current);
  if (warp.existing != kFullWarp) {
    report_and_abandon("warp-mask", Site{0, caller},
                       std::string(instruction) + " at {0}: the warp has " +
                           std::to_string(__builtin_popcount(warp.existing)) + " threads, but it takes 32");
  }
  return meet(kFullWarp, instruction, operand, caller, complete);
}

// The matrix element that the low (upper = false) or high 16 bits, or all 32 bits, of a fragment register stand for.
float element_value(uint32_t bits, bool upper, MatrixElement element) {
  uint32_t word = 0;
  float value;
  switch (element) {
    case MatrixElement::kTf32:
      word = bits & 0xffffe000u;
      break;
    case MatrixElement::kBFloat16:
      word = upper ? bits & 0xffff0000u : bits << 16;
      break;
    case MatrixElement::kHalf: {
      const uint32_t half = upper ? bits >> 16 : bits & 0xffffu;
      const uint32_t sign = (half & 0x8000u) << 16, magnitude = half & 0x7fffu;
      if (magnitude >= 0x7c00u) {  // infinity, NaN
        word = sign | 0x7f800000u | (magnitude & 0x3ffu) << 13;
      } else if (magnitude >= 0x0400u) {
        word = sign | ((magnitude << 13) + 0x38000000u);
      } else {  // a multiple of 2^-24
        value = static_cast<float>(magnitude) * 0x1p-24f;
        return sign ? -value : value;
      }
      break;
    }
  }
  memcpy(&value, &word, sizeof value);
  return value;
}

struct MatrixOperand {
  uint32_t* fragments;
  void* row;  // of matrix lane / 8
  uint32_t code;
};

MatrixOperand& matrix_operand(const Rendezvous& r, int lane) {
  return *static_cast<MatrixOperand*>(r.lane[lane]->operand);
}

// Each lane accesses the row it names, so reports name that lane.
void check_rows(const Rendezvous& r, int matrices, AccessKind kind, const char* instruction, Caller caller) {
  Machine& m = machine();
  if (!m.checking) return;
  Fiber* me = m.current;
  for (int lane = 0; lane < 8 * matrices; ++lane) {
    m.current = r.lane[lane];
    const MatrixOperand& operand = matrix_operand(r, lane);
    const Site site{operand.code, caller};
    if (!is_own_shared(operand.row)) {
      report_and_abandon("shared-address", site,
                         std::string(instruction) + " at {0} with an address outside the block's shared memory");
    }
    check_alignment(operand.row, 16, kind, site);
    shared_access(operand.row, 16, kind, running_thread(), site);
  }
  m.current = me;
}

void count_rows(const Rendezvous& r, int matrix, CountedAccess kind, const Site& site) {
  if (!machine().counting) return;
  const void* rows[8];
  for (int j = 0; j < 8; ++j) rows[j] = matrix_operand(r, 8 * matrix + j).row;
  count_matrix(rows, kind, site);
}

}  // namespace

void load_matrices(uint32_t* fragments, int matrices, bool transposed, const void* row, Caller caller) {
  MatrixOperand mine{fragments, const_cast<void*>(row), machine().image.code_offset(__builtin_return_address(0))};
  Rendezvous r;
  if (!meet_whole_warp("ldmatrix", &mine, caller, r)) return;
  check_rows(r, matrices, AccessKind::kRead, "ldmatrix", caller);
  for (int i = 0; i < matrices; ++i) {
    uint16_t matrix[8][8];
    count_rows(r, i, CountedAccess::kMatrix, Site{mine.code, caller});
    for (int j = 0; j < 8; ++j) memcpy(matrix[j], matrix_operand(r, 8 * i + j).row, sizeof matrix[j]);
    for (int lane = 0; lane < 32; ++lane) {
      const int at = lane / 4, pair = lane % 4 * 2;
      const uint32_t low = transposed ? matrix[pair][at] : matrix[at][pair];
      const uint32_t high = transposed ? matrix[pair + 1][at] : matrix[at][pair + 1];
      matrix_operand(r, lane).fragments[i] = low | high << 16;
    }
  }
  wake(r);
}

void store_matrices(const uint32_t* fragments, int matrices, bool transposed, void* row, Caller caller) {
  MatrixOperand mine{const_cast<uint32_t*>(fragments), row, machine().image.code_offset(__builtin_return_address(0))};
  Rendezvous r;
  if (!meet_whole_warp("stmatrix", &mine, caller, r)) return;
  check_rows(r, matrices, AccessKind::kWrite, "stmatrix", caller);
  for (int i = 0; i < matrices; ++i) {
    uint16_t matrix[8][8];
    count_rows(r, i, CountedAccess::kMatrixStore, Site{mine.code, caller});
    for (int lane = 0; lane < 32; ++lane) {
      const int at = lane / 4, pair = lane % 4 * 2;
      const uint32_t both = matrix_operand(r, lane).fragments[i];
      for (int e = 0; e < 2; ++e) {
        (transposed ? matrix[pair + e][at] : matrix[at][pair + e]) = static_cast<uint16_t>(both >> 16 * e);
      }
    }
    for (int j = 0; j < 8; ++j) memcpy(matrix_operand(r, 8 * i + j).row, matrix[j], sizeof matrix[j]);
  }
  wake(r);
}

void multiply_matrices(float* d, const uint32_t* a, const uint32_t* b, MatrixElement element, Caller caller) {
  struct Operand {
    float* d;
    const uint32_t *a, *b;
    MatrixElement element;
  } mine{d, a, b, element};
  Rendezvous r;
  if (!meet_whole_warp("mma.sync", &mine, caller, r)) return;
  // Elements in a register: m16n8k16 and m16n8k8 differ in nothing else.
  const int packed = element == MatrixElement::kTf32 ? 1 : 2;
  float A[16][16], B[16][8], D[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const Operand& o = *static_cast<Operand*>(r.lane[lane]->operand);
    const int group = lane / 4, in_group = lane % 4;
    for (int e = 0; e < packed; ++e) {
      const int k = in_group * packed + e;
      for (int i = 0; i < 4; ++i) A[group + i % 2 * 8][k + i / 2 * 4 * packed] = element_value(o.a[i], e, element);
      for (int i = 0; i < 2; ++i) B[k + i * 4 * packed][group] = element_value(o.b[i], e, element);
    }
    for (int i = 0; i < 4; ++i) D[group + i / 2 * 8][in_group * 2 + i % 2] = o.d[i];
  }
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 8 * packed; ++k) {
      for (int j = 0; j < 8; ++j) D[i][j] += A[i][k] * B[k][j];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const Operand& o = *static_cast<Operand*>(r.lane[lane]->operand);
    for (int i = 0; i < 4; ++i) o.d[i] = D[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
  wake(r);
}

}  // namespace fastconv::emulator
