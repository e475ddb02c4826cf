// Tensor maps as cuTensorMapEncodeTiled and cuTensorMapEncodeIm2col make them, or refuse to: the limits are those of
// the CUDA driver's documentation, without interleaved layouts.
#include <algorithm>
#include <string>

#include "engines.h"

namespace fastconv::emulator {
namespace {

std::string map_field(const char* name, int d, int64_t value) {
  return std::string(name) + " " + std::to_string(d) + " is " + std::to_string(value);
}

std::string refuse_tensor(void* base, int rank, const uint64_t* extent, const uint64_t* stride_bytes) {
  if (reinterpret_cast<uintptr_t>(base) % 16 != 0) return "the tensor does not start on a 16-byte boundary";
  for (int d = 0; d < rank; ++d) {
    if (extent[d] < 1 || extent[d] > uint64_t{1} << 32)
      return map_field("extent", d, static_cast<int64_t>(extent[d])) + ", not 1 to 2^32";
    if (d == 0) continue;
    if (stride_bytes[d - 1] % 16 != 0 || stride_bytes[d - 1] >= uint64_t{1} << 40) {
      return map_field("stride", d, static_cast<int64_t>(stride_bytes[d - 1])) +
             " bytes, not a multiple of 16 below 2^40";
    }
  }
  return "";
}

std::string refuse_row(uint32_t elements, int element_bytes, int swizzle_bytes) {
  const uint32_t row = elements * static_cast<uint32_t>(element_bytes);
  if (row % 16 != 0) return "a row of the box has " + std::to_string(row) + " bytes, not a multiple of 16";
  if (swizzle_bytes != 0 && row > static_cast<uint32_t>(swizzle_bytes)) {
    return "a row of the box has " + std::to_string(row) + " bytes, more than the swizzle's " +
           std::to_string(swizzle_bytes);
  }
  return "";
}

void fill_tensor_map(TensorMap& map, void* base, int element_bytes, int rank, const uint64_t* extent,
                     const uint64_t* stride_bytes, int swizzle_bytes) {
  map = TensorMap();
  map.magic = kTensorMapMagic;
  map.element_bytes = static_cast<uint16_t>(element_bytes);
  map.rank = static_cast<uint16_t>(rank);
  map.base = static_cast<unsigned char*>(base);
  map.swizzle_bytes = static_cast<uint32_t>(swizzle_bytes);
  std::copy_n(extent, rank, map.extent);
  std::copy_n(stride_bytes, rank - 1, map.stride);
  std::fill_n(map.box, rank, 1u);
}

}  // namespace

std::string encode_tensor_map(TensorMap& map, void* base, int element_bytes, int rank, const uint64_t* extent,
                              const uint64_t* stride_bytes, const uint32_t* box, int swizzle_bytes) {
  if (rank < 1 || rank > 5) return "a tensor map has 1 to 5 dimensions, not " + std::to_string(rank);
  std::string refusal = refuse_tensor(base, rank, extent, stride_bytes);
  if (!refusal.empty()) return refusal;
  for (int d = 0; d < rank; ++d) {
    if (box[d] < 1 || box[d] > 256) return map_field("box extent", d, box[d]) + ", not 1 to 256";
  }
  refusal = refuse_row(box[0], element_bytes, swizzle_bytes);
  if (!refusal.empty()) return refusal;
  fill_tensor_map(map, base, element_bytes, rank, extent, stride_bytes, swizzle_bytes);
  std::copy_n(box, rank, map.box);
  return "";
}

std::string encode_im2col_map(TensorMap& map, void* base, int element_bytes, int rank, const uint64_t* extent,
                              const uint64_t* stride_bytes, const int* lower_corner, const int* upper_corner,
                              uint32_t channels, uint32_t pixels, const uint32_t* step, int swizzle_bytes) {
  if (rank < 3 || rank > 5) return "an im2col tensor map has 3 to 5 dimensions, not " + std::to_string(rank);
  std::string refusal = refuse_tensor(base, rank, extent, stride_bytes);
  if (!refusal.empty()) return refusal;
  // The corners of all dimensions share 16 bits.
  const int64_t limit = int64_t{1} << (16 / (rank - 2) - 1);
  for (int d = 0; d < rank - 2; ++d) {
    const auto allowed = [&](int64_t corner) { return corner >= -limit && corner < limit; };
    const std::string range = ", not " + std::to_string(-limit) + " to " + std::to_string(limit - 1);
    if (!allowed(lower_corner[d])) return map_field("lower corner", d, lower_corner[d]) + range;
    if (!allowed(upper_corner[d])) return map_field("upper corner", d, upper_corner[d]) + range;
    const int64_t last = static_cast<int64_t>(extent[d + 1]) - 1 + upper_corner[d];
    if (lower_corner[d] > last) {
      return "the box of base pixels is empty along dimension " + std::to_string(d + 1) + ": from " +
             std::to_string(lower_corner[d]) + " to " + std::to_string(last);
    }
    if (step[d] < 1 || step[d] > 8) return map_field("element stride", d + 1, step[d]) + ", not 1 to 8";
  }
  if (channels < 1 || channels > 256) return std::to_string(channels) + " channels per pixel, not 1 to 256";
  if (pixels < 1 || pixels > 1024) return std::to_string(pixels) + " pixels per column, not 1 to 1024";
  refusal = refuse_row(channels, element_bytes, swizzle_bytes);
  if (!refusal.empty()) return refusal;
  fill_tensor_map(map, base, element_bytes, rank, extent, stride_bytes, swizzle_bytes);
  map.im2col = 1;
  map.box[0] = channels, map.box[1] = pixels;
  for (int d = 0; d < rank - 2; ++d) {
    map.lower_corner[d] = static_cast<int16_t>(lower_corner[d]);
    map.upper_corner[d] = static_cast<int16_t>(upper_corner[d]);
    map.step[d] = static_cast<uint8_t>(step[d]);
  }
  return "";
}

}  // namespace fastconv::emulator
