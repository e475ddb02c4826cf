// CuTe's own definitions of what wgmma reads and writes, as tables for test_hopper_layouts.py. Compiled by the host
// compiler against the headers of the nvidia-cutlass package; shares no code with this project.
#include <cuda_runtime.h>

#include <cute/tensor.hpp>
// After tensor.hpp, which they need.
#include <cute/atom/copy_traits_sm90.hpp>
#include <cute/atom/mma_traits_sm90_gmma.hpp>

using namespace cute;

namespace {

using Element = cute::bfloat16_t;

// Offsets in bytes of the elements of a (rows, 64) tile.
template <int kRows>
void k_major(int64_t* offsets) {
  const auto layout = as_position_independent_swizzle_layout(
      tile_to_shape(SM90::GMMA::Layout_K_SW128_Atom<Element>{}, Shape<Int<kRows>, _64>{}));
  for (int mn = 0; mn < kRows; ++mn) {
    for (int k = 0; k < 64; ++k) offsets[mn * 64 + k] = int64_t(layout(mn, k)) * 2;
  }
}

// As TMA leaves it: all of K for 64 rows, then for the next 64.
template <int kRows>
void mn_major(int64_t* offsets) {
  const auto layout = as_position_independent_swizzle_layout(
      tile_to_shape(SM90::GMMA::Layout_MN_SW128_Atom<Element>{}, Shape<Int<kRows>, _64>{}, Step<_2, _1>{}));
  for (int mn = 0; mn < kRows; ++mn) {
    for (int k = 0; k < 64; ++k) offsets[mn * 64 + k] = int64_t(layout(mn, k)) * 2;
  }
}

template <int kColumns>
void accumulators(int64_t* places) {
  const auto layout = SM90::GMMA::CLayout_64xN<kColumns>{};
  for (int thread = 0; thread < 128; ++thread) {
    for (int v = 0; v < kColumns / 2; ++v) {
      const int place = layout(thread, v);  // column-major: row + 64 * column
      places[thread * (kColumns / 2) + v] = place % 64 * kColumns + place / 64;
    }
  }
}

// As tf32: rows of 32 floats.
template <int kRows>
void k_major_tf32(int64_t* offsets) {
  const auto layout = as_position_independent_swizzle_layout(
      tile_to_shape(SM90::GMMA::Layout_K_SW128_Atom<cute::tfloat32_t>{}, Shape<Int<kRows>, _32>{}));
  for (int mn = 0; mn < kRows; ++mn) {
    for (int k = 0; k < 32; ++k) offsets[mn * 32 + k] = int64_t(layout(mn, k)) * 4;
  }
}

// Where half h of register r of a lane goes: (lane that passes the row's address) * 8 + element.
template <class Instruction>
void stored_halves(int matrices, int64_t* places) {
  using Traits = Copy_Traits<Instruction>;
  const typename Traits::SrcLayout from{};
  const typename Traits::DstLayout to{};
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 2 * matrices; ++i) {
      const int bit = from(lane, 16 * i);
      for (int target = 0; target < 8 * matrices; ++target) {
        for (int element = 0; element < 8; ++element) {
          if (int(to(target, 16 * element)) == bit) places[lane * 2 * matrices + i] = target * 8 + element;
        }
      }
    }
  }
}

// Leading and stride offsets in 16-byte units, and the layout type; the address is left out.
template <SM90::GMMA::Major kMajor, class Layout>
uint64_t descriptor(Layout layout) {
  const auto tile = make_tensor(make_smem_ptr(static_cast<Element*>(nullptr)), layout);
  return SM90::GMMA::make_gmma_desc<kMajor>(tile).desc_;
}

}  // namespace

extern "C" void cute_operand(int mn, int rows, int64_t* offsets) {
  if (rows == 64) mn ? mn_major<64>(offsets) : k_major<64>(offsets);
  if (rows == 128) mn ? mn_major<128>(offsets) : k_major<128>(offsets);
  if (rows == 256) mn ? mn_major<256>(offsets) : k_major<256>(offsets);
}

extern "C" void cute_operand_tf32(int rows, int64_t* offsets) {
  if (rows == 64) k_major_tf32<64>(offsets);
  if (rows == 128) k_major_tf32<128>(offsets);
  if (rows == 256) k_major_tf32<256>(offsets);
}

extern "C" void cute_stored(int matrices, int transposed, int64_t* places) {
  if (matrices == 1) {
    transposed ? stored_halves<SM90_U16x2_STSM_T>(1, places) : stored_halves<SM90_U32x1_STSM_N>(1, places);
  } else if (matrices == 2) {
    transposed ? stored_halves<SM90_U16x4_STSM_T>(2, places) : stored_halves<SM90_U32x2_STSM_N>(2, places);
  } else {
    transposed ? stored_halves<SM90_U16x8_STSM_T>(4, places) : stored_halves<SM90_U32x4_STSM_N>(4, places);
  }
}

// Element of the row-major 64 x columns tile that is register v of thread t.
extern "C" void cute_accumulators(int columns, int64_t* places) {
  if (columns == 64) accumulators<64>(places);
  if (columns == 128) accumulators<128>(places);
  if (columns == 256) accumulators<256>(places);
}

extern "C" uint64_t cute_descriptor_tf32() {
  const auto layout = tile_to_shape(SM90::GMMA::Layout_K_SW128_Atom<cute::tfloat32_t>{}, Shape<_128, _32>{});
  const auto part = composition(layout, make_tile(make_layout(_128{}), make_layout(_8{})));
  const auto tile = make_tensor(make_smem_ptr(static_cast<cute::tfloat32_t*>(nullptr)), part);
  return SM90::GMMA::make_gmma_desc<SM90::GMMA::Major::K>(tile).desc_;
}

// Of one instruction's 16 elements of K in a (128, 64) tile.
extern "C" uint64_t cute_descriptor(int mn) {
  if (mn) {
    const auto layout = tile_to_shape(SM90::GMMA::Layout_MN_SW128_Atom<Element>{}, Shape<_128, _64>{}, Step<_2, _1>{});
    return descriptor<SM90::GMMA::Major::MN>(composition(layout, make_tile(make_layout(_128{}), make_layout(_16{}))));
  }
  const auto layout = tile_to_shape(SM90::GMMA::Layout_K_SW128_Atom<Element>{}, Shape<_128, _64>{});
  return descriptor<SM90::GMMA::Major::K>(composition(layout, make_tile(make_layout(_128{}), make_layout(_16{}))));
}
