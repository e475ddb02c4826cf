// The band of input rows that a block of outputs needs, as the microkernel wants it: NHWC, accumulate type, padded with
// zeros, upsampled. Rows stay in their slots from block to block, so that each is transposed, widened or copied once
// per thread however many taps and output rows share it.
//
//   slot:  | zeros | column w, channels c0 .. c1 | column w+1 ... | zeros |      pitch elements per column
#pragma once

#include "conv_task.h"
#include "pixel_runs.h"

namespace fastconv::cpu::FASTCONV_ISA {

// What the rows of a band have in common.
struct BandShape {
  int64_t origin = 0;   // column offset of the leftmost tap
  int64_t columns = 0;  // of the upsampled input, padding included
  int64_t pitch = 0;    // elements per column: channels, or more where that would alias in the cache
  int64_t slots = 0;
  int64_t row_elements() const { return columns * pitch; }
};

template <class T>
class InputRows {
 public:
  using Acc = accumulate_t<T>;

  // `memory`: (slots + 1) rows; `keys`: two numbers per slot.
  InputRows(const SimplifiedTask& task, const BandShape& shape, Acc* memory, int64_t* keys)
      : t_(task), shape_(shape), memory_(memory), keys_(keys), stamps_(keys + shape.slots) {
    for (int64_t i = 0; i < shape.slots; ++i) {
      keys_[i] = kEmpty;
      stamps_[i] = 0;
    }
  }

  // Which rows come next: image n, upsampled columns from w on, channels [c, c + channels). Forgets the rows held when
  // that differs from before.
  void select(int64_t n, int64_t w, int64_t c, int64_t channels) {
    if (n == n_ && w == w_ && c == c_ && channels == channels_) return;
    n_ = n;
    w_ = w;
    c_ = c;
    channels_ = channels;
    for (int64_t i = 0; i < shape_.slots; ++i) keys_[i] = kEmpty;
  }

  // table[p * taps + r] = the row that tap r of output row p0 + p reads.
  void fetch(int64_t p0, int64_t rows, const int64_t* dh, int64_t taps, const Acc** table) {
    ++stamp_;
    for (int64_t i = 0; i < rows * taps; ++i) {
      const int64_t h = (p0 + i / taps) * t_.step_h + dh[i % taps];
      const bool outside = h < 0 || h >= t_.x.size[2] * t_.scale_h;
      table[i] = outside ? zero_row() : find(h / t_.scale_h);
    }
    for (int64_t i = 0; i < rows * taps; ++i) {
      if (table[i]) continue;
      const int64_t row = ((p0 + i / taps) * t_.step_h + dh[i % taps]) / t_.scale_h;
      table[i] = find(row);  // another tap may just have brought it
      if (!table[i]) table[i] = load(row);
    }
  }

 private:
  static constexpr int64_t kEmpty = -1;

  const Acc* find(int64_t row) {
    for (int64_t i = 0; i < shape_.slots; ++i) {
      if (keys_[i] != row) continue;
      stamps_[i] = stamp_;
      return memory_ + i * shape_.row_elements();
    }
    return nullptr;
  }

  const Acc* load(int64_t row) {
    int64_t slot = 0;
    while (stamps_[slot] == stamp_) ++slot;  // slots suffice for the rows of one block
    keys_[slot] = row;
    stamps_[slot] = stamp_;
    Acc* dst = memory_ + slot * shape_.row_elements();
    fill(row, dst);
    return dst;
  }

  const Acc* zero_row() {
    Acc* row = memory_ + shape_.slots * shape_.row_elements();
    if (!zero_ready_) clear(row, shape_.columns);
    zero_ready_ = true;
    return row;
  }

  void clear(Acc* dst, int64_t columns) const {
    if (columns > 0) __builtin_memset(dst, 0, static_cast<size_t>(columns * shape_.pitch) * sizeof(Acc));
  }

  void fill(int64_t row, Acc* dst) const {
    const int64_t width = t_.x.size[3] * t_.scale_w;
    const int64_t first = w_ < 0 ? (w_ < -shape_.columns ? shape_.columns : -w_) : 0;  // leading zeros
    int64_t last = width - w_;
    last = last > shape_.columns ? shape_.columns : last < first ? first : last;
    clear(dst, first);
    clear(dst + last * shape_.pitch, shape_.columns - last);
    if (first >= last) return;
    const int64_t stored = (w_ + first) / t_.scale_w, count = (w_ + last - 1) / t_.scale_w - stored + 1;
    const T* src = t_.x.template as<const T>() + t_.x.offset(n_, c_, row, stored);
    if (t_.scale_w == 1) {
      load_pixels(src, t_.x.stride[3], t_.x.stride[1], count, channels_, dst + first * shape_.pitch, shape_.pitch);
      return;
    }
    // Upsampling: the stored columns go to the end of their stretch and are spread from the left; a column is never
    // overwritten before its last copy is made, because as many columns remain to be written as to be read or more.
    Acc* from = dst + (last - count) * shape_.pitch;
    load_pixels(src, t_.x.stride[3], t_.x.stride[1], count, channels_, from, shape_.pitch);
    for (int64_t i = first; i < last; ++i) {
      const Acc* pixel = from + ((w_ + i) / t_.scale_w - stored) * shape_.pitch;
      Acc* to = dst + i * shape_.pitch;
      if (pixel != to) load_run(pixel, 1, channels_, to);
    }
  }

  const SimplifiedTask& t_;
  const BandShape shape_;
  Acc* memory_;
  int64_t* keys_;
  int64_t* stamps_;
  int64_t stamp_ = 0;
  int64_t n_ = -1, w_ = 0, c_ = 0, channels_ = 0;
  bool zero_ready_ = false;
};

}  // namespace fastconv::cpu::FASTCONV_ISA
