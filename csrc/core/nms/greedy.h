// Greedy suppression of one group: boxes that come in descending score order and all see each other.
//
// A candidate is kept unless a kept box before it suppresses it; that is the same set as the textbook loop's
// (which lets each kept box strike out later ones), but reads the kept boxes alone, kLanes<T> at a time, and
// stops at the first hit. Cost: at most candidates x kept / kLanes<T> block tests.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "core/nms/suppression.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {

// The boxes of one group: row `rows[i]` of `boxes` is the i-th candidate.
template <typename Storage>
struct Candidates {
  using T = compute_t<Storage>;
  const Storage* boxes;
  const uint32_t* rows;
  int64_t size;

  Box<T> operator[](int64_t i) const { return load_box(boxes, rows[i]); }
};

// Kept boxes in order, a block at a time.
template <typename T>
class KeptList {
 public:
  explicit KeptList(int64_t capacity) : blocks_((capacity + kLanes<T> - 1) / kLanes<T>) {}

  void append(const Box<T>& box, T bound) {
    const int lane = int(size_ % kLanes<T>);
    if (lane == 0) blocks_[num_blocks_++].clear();
    blocks_[num_blocks_ - 1].set(lane, box, bound);
    ++size_;
  }

  int64_t num_blocks() const { return num_blocks_; }
  const KeptBlock<T>& operator[](int64_t i) const { return blocks_[i]; }

 private:
  Buffer<KeptBlock<T>> blocks_;
  int64_t num_blocks_ = 0, size_ = 0;
};

// Writes the positions of the first `max_kept` kept candidates, ascending; returns how many.
template <typename Storage>
int64_t keep_exactly(const Candidates<Storage>& candidates, double threshold, int64_t max_kept,
                     uint32_t* kept) {
  using T = compute_t<Storage>;
  const Suppression<T> suppression(threshold);
  KeptList<T> list(candidates.size);
  int64_t num_kept = 0;
  for (int64_t i = 0; i < candidates.size && num_kept < max_kept; ++i) {
    const Box<T> box = candidates[i];
    bool hit = false;
    for (int64_t b = 0; b < list.num_blocks() && !hit; ++b) hit = suppression.exact_hit(list[b], box);
    if (hit) continue;
    list.append(box, 0);
    kept[num_kept++] = uint32_t(i);
  }
  return num_kept;
}

template <typename Storage>
int64_t keep_by_list(const Candidates<Storage>& candidates, double threshold, int64_t max_kept,
                     uint32_t* kept) {
  using T = compute_t<Storage>;
  const Suppression<T> suppression(threshold);
  KeptList<T> list(candidates.size);
  int64_t num_kept = 0;
  for (int64_t i = 0; i < candidates.size && num_kept < max_kept; ++i) {
    const Box<T> box = candidates[i];
    if (is_active(box)) {
      const T bound = suppression.bound(box);
      bool hit = false;
      for (int64_t b = 0; b < list.num_blocks() && !hit; ++b) hit = suppression.hit(list[b], box, bound);
      if (hit) continue;
      list.append(box, bound);
    }
    kept[num_kept++] = uint32_t(i);
  }
  return num_kept;
}

template <typename Storage>
int64_t keep_all(const Candidates<Storage>& candidates, int64_t max_kept, uint32_t* kept) {
  const int64_t num_kept = candidates.size < max_kept ? candidates.size : max_kept;
  for (int64_t i = 0; i < num_kept; ++i) kept[i] = uint32_t(i);
  return num_kept;
}

template <typename Storage>
bool has_tiny_area(const Candidates<Storage>& candidates) {
  using T = compute_t<Storage>;
  for (int64_t i = 0; i < candidates.size; ++i) {
    const Box<T> box = candidates[i];
    if (is_active(box) && box_area(box) < FloatLimits<T>::tiny_area) return true;
  }
  return false;
}

template <typename Storage>
int64_t greedy(const Candidates<Storage>& candidates, double threshold, int64_t max_kept, uint32_t* kept) {
  // No IoU exceeds 1 (inter <= a, b also after rounding), and nothing exceeds NaN.
  if (!(threshold < 1)) return keep_all(candidates, max_kept, kept);
  if (threshold < 0 || has_tiny_area(candidates)) return keep_exactly(candidates, threshold, max_kept, kept);
  return keep_by_list(candidates, threshold, max_kept, kept);
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
