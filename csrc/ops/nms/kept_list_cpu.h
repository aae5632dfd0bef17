// Boxes in blocks of kLanes<T>, one coordinate after the other, so that a vector holds one coordinate of
// kLanes<T> boxes; and a list of kept ones.
#pragma once

#include <cmath>
#include <cstdint>

#include "cpu/buffer.h"
#include "cpu/interval.h"
#include "math/box.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {

// Lanes not yet set are NaN and suppress nothing. `bound` is for Suppression.
template <typename T>
struct BoxBlock {
  T x1[kLanes<T>], y1[kLanes<T>], x2[kLanes<T>], y2[kLanes<T>], bound[kLanes<T>];

  void clear() {
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      x1[lane] = y1[lane] = x2[lane] = y2[lane] = bound[lane] = NAN;
    }
  }

  // Whether no coordinate has its sign bit set.
  bool has_no_sign() const { return !any(signs<T>(load(x1), load(y1), load(x2), load(y2)) < 0); }

  Box<T> box(int lane) const { return {x1[lane], y1[lane], x2[lane], y2[lane]}; }

  void set(int lane, const Box<T>& box, T box_bound) {
    x1[lane] = box.x1;
    y1[lane] = box.y1;
    x2[lane] = box.x2;
    y2[lane] = box.y2;
    bound[lane] = box_bound;
  }
};

// In the order in which they were kept.
template <typename T>
class KeptList {
 public:
  explicit KeptList(int64_t capacity) : blocks_((capacity + kLanes<T> - 1) / kLanes<T>) {}

  int64_t size() const { return size_; }

  void append(const Box<T>& box) {
    BoxBlock<T>& block = blocks_[size_ / kLanes<T>];
    const int lane = int(size_ % kLanes<T>);
    if (lane == 0) block.clear();
    block.set(lane, box, 0);
    ++size_;
  }

  // Whether test(block) holds for some block.
  template <typename F>
  bool any_block(const F& test) const {
    const int64_t blocks = (size_ + kLanes<T> - 1) / kLanes<T>;
    for (int64_t b = 0; b < blocks; ++b) {
      if (test(blocks_[b])) return true;
    }
    return false;
  }

  // Calls visit(other) for the boxes from number `first` on, in order, but for some that do not meet `box`.
  template <typename F>
  void visit_neighbours(const Box<T>& box, int64_t first, const F& visit) const {
    for (int64_t i = first; i < size_;) {
      const BoxBlock<T>& block = blocks_[i / kLanes<T>];
      const int64_t end = smaller(size_, (i / kLanes<T> + 1) * kLanes<T>);
      if (meets(block, box)) {
        for (; i < end; ++i) visit(block.box(int(i % kLanes<T>)));
      }
      i = end;
    }
  }

 private:
  using V = Vec<T>;

  static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

  static bool meets(const BoxBlock<T>& block, const Box<T>& box) {
    const V w = min(load(block.x2), splat(box.x2)) - max(load(block.x1), splat(box.x1));
    const V h = min(load(block.y2), splat(box.y2)) - max(load(block.y1), splat(box.y1));
    return lanes_greater(min(w, h), V{}) != 0;
  }

  Buffer<BoxBlock<T>> blocks_;
  int64_t size_ = 0;
};

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
