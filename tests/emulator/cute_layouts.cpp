// CuTe's own definitions of what wgmma reads and writes, as tables for test_hopper_layouts.py. Compiled by the host
// compiler against the headers of the nvidia-cutlass package; shares no code with this project.
#include <cuda_runtime.h>

#include <cute/tensor.hpp>
// After tensor.hpp, which they need.
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

// Element of the row-major 64 x columns tile that is register v of thread t.
extern "C" void cute_accumulators(int columns, int64_t* places) {
  if (columns == 64) accumulators<64>(places);
  if (columns == 128) accumulators<128>(places);
  if (columns == 256) accumulators<256>(places);
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
