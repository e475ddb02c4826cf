// im2col loads. Base pixels lie in a box that the map gives, `step` apart, and are counted along its dimensions, the
// innermost first, and on to the next image. A load takes a column of them, from the one at its coordinates on, and
// reads each pixel its offsets further on: zeros where that is outside the tensor.
#include "machine.h"

namespace fastconv::emulator {
namespace {

// The last coordinate of a base pixel along spatial dimension d.
int64_t last_base(const TensorMap& map, int d) {
  return static_cast<int64_t>(map.extent[d + 1]) - 1 + map.upper_corner[d];
}

}  // namespace

std::vector<unsigned char*> im2col_pixels(const BulkCopy& copy) {
  const TensorMap& map = copy.map;
  const int spatial = map.rank - 2;
  int64_t base[3] = {}, image = copy.coordinates[map.rank - 1];
  for (int d = 0; d < spatial; ++d) base[d] = copy.coordinates[d + 1];
  std::vector<unsigned char*> pixels;
  pixels.reserve(map.box[1]);
  while (pixels.size() < map.box[1]) {
    bool inside = image >= 0 && image < static_cast<int64_t>(map.extent[map.rank - 1]);
    int64_t offset =
        int64_t{copy.coordinates[0]} * map.element_bytes + image * static_cast<int64_t>(map.stride[map.rank - 2]);
    for (int d = 0; d < spatial; ++d) {
      const int64_t index = base[d] + copy.offsets[d];
      inside = inside && index >= 0 && index < static_cast<int64_t>(map.extent[d + 1]);
      offset += index * static_cast<int64_t>(map.stride[d]);
    }
    pixels.push_back(inside ? map.base + offset : nullptr);
    int d = 0;
    for (; d < spatial; ++d) {
      base[d] += map.step[d];
      if (base[d] <= last_base(map, d)) break;
      base[d] = map.lower_corner[d];
    }
    if (d == spatial) ++image;
  }
  return pixels;
}

void check_im2col(const BulkCopy& copy) {
  if (!machine().checking) return;
  const TensorMap& map = copy.map;
  const int64_t limit = int64_t{1} << 16 / (map.rank - 2);
  for (int d = 0; d < map.rank - 2; ++d) {
    const int64_t base = copy.coordinates[d + 1];
    if (base < map.lower_corner[d] || base > last_base(map, d)) {
      report("im2col-base", Site{0, copy.caller},
             "im2col load at {0}: coordinate " + std::to_string(d + 1) + " is " + std::to_string(base) +
                 ", and the box of base pixels goes from " + std::to_string(map.lower_corner[d]) + " to " +
                 std::to_string(last_base(map, d)));
    }
    if (copy.offsets[d] >= limit) {
      report("im2col-offset", Site{0, copy.caller},
             "im2col load at {0}: offset " + std::to_string(d) + " is " + std::to_string(copy.offsets[d]) +
                 ", not below " + std::to_string(limit) + ", for a tensor map of " + std::to_string(map.rank) +
                 " dimensions");
    }
  }
}

}  // namespace fastconv::emulator
