// Greedy suppression of one group: boxes that come in descending score order and all see each other.
//
// A candidate is kept unless a kept box before it suppresses it; that is the same set as the textbook loop's
// (which lets each kept box strike out later ones), but reads the kept boxes alone, kLanes<T> at a time, and
// stops at the first hit. While few are kept that is a plain list: n x kept / kLanes<T> block tests. Beyond,
// a grid (grid.h) finds the few that can matter: O(n) for a given threshold in (0, 1).
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "core/nms/grid.h"
#include "core/nms/kept_list.h"
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

// What is known of one group while its candidates are taken in order.
struct Progress {
  int64_t next = 0;      // candidates before this are decided
  int64_t num_kept = 0;  // kept[0 .. num_kept) are the positions of the kept ones
  bool found_tiny = false;
};

// Any boxes and any threshold, by the definition.
template <typename Storage>
int64_t keep_exactly(const Candidates<Storage>& candidates, double threshold, int64_t max_kept,
                     uint32_t* kept) {
  using T = compute_t<Storage>;
  const Suppression<T> suppression(threshold);
  KeptList<T> list(candidates.size);
  int64_t num_kept = 0;
  for (int64_t i = 0; i < candidates.size && num_kept < max_kept; ++i) {
    const Box<T> box = candidates[i];
    if (list.any_block([&](const KeptBlock<T>& b) { return suppression.exact_hit(b, box); })) continue;
    list.append(box, 0);
    kept[num_kept++] = uint32_t(i);
  }
  return num_kept;
}

// Compares with all kept boxes, until there are `capacity` of them.
template <typename Storage>
void keep_by_list(const Candidates<Storage>& candidates, const Suppression<compute_t<Storage>>& suppression,
                  int64_t capacity, int64_t max_kept, uint32_t* kept, Progress* progress) {
  using T = compute_t<Storage>;
  KeptList<T> list(capacity);
  int64_t i = 0, num_kept = 0;
  for (; i < candidates.size && num_kept < max_kept; ++i) {
    const Box<T> box = candidates[i];
    const T area = active_area(box);
    if (area > 0) {
      if (area < FloatLimits<T>::tiny_area) {
        progress->found_tiny = true;
        return;
      }
      const T bound = suppression.bound(area);
      if (list.any_block([&](const KeptBlock<T>& b) { return suppression.hit(b, box, bound); })) continue;
      if (list.size() == capacity) break;
      list.append(box, bound);
    }
    kept[num_kept++] = uint32_t(i);
  }
  progress->next = i;
  progress->num_kept = num_kept;
}

// Goes on with a grid of the kept boxes.
template <typename Storage>
void keep_by_grid(const Candidates<Storage>& candidates, const Suppression<compute_t<Storage>>& suppression,
                  double threshold, int64_t max_kept, uint32_t* kept, Progress* progress) {
  using T = compute_t<Storage>;
  const int64_t n = candidates.size;
  Buffer<Box<T>> boxes(n);
  for (int64_t i = 0; i < n; ++i) boxes[i] = candidates[i];
  KeptGrid<T> grid(boxes.data(), n, threshold);
  int64_t num_kept = progress->num_kept;
  for (int64_t k = 0; k < num_kept; ++k) {
    const Box<T>& box = boxes[kept[k]];
    const T area = active_area(box);
    if (area > 0) grid.insert(kept[k], box, suppression.bound(area));
  }
  for (int64_t i = progress->next; i < n && num_kept < max_kept; ++i) {
    grid.prefetch(i);
    const Box<T>& box = boxes[i];
    const T area = active_area(box);
    if (area > 0) {
      if (area < FloatLimits<T>::tiny_area) {
        progress->found_tiny = true;
        return;
      }
      const T bound = suppression.bound(area);
      if (grid.hit(i, suppression, box, bound)) continue;
      grid.insert(i, box, bound);
    }
    kept[num_kept++] = uint32_t(i);
  }
  progress->next = n;
  progress->num_kept = num_kept;
}

// Writes the positions of the first `max_kept` kept candidates, ascending; returns how many.
template <typename Storage>
int64_t greedy(const Candidates<Storage>& candidates, double threshold, int64_t max_kept, uint32_t* kept) {
  // Where the list is faster than building a grid; measured.
  constexpr int64_t kFewCandidates = 1024, kFewKept = 128, kFewWanted = 512;
  if (!(threshold < 1)) {
    // No IoU exceeds 1 (inter <= a, b also after rounding), and nothing exceeds NaN.
    const int64_t num_kept = candidates.size < max_kept ? candidates.size : max_kept;
    for (int64_t i = 0; i < num_kept; ++i) kept[i] = uint32_t(i);
    return num_kept;
  }
  if (threshold < 0) return keep_exactly(candidates, threshold, max_kept, kept);
  const Suppression<compute_t<Storage>> suppression(threshold);
  const int64_t capacity = candidates.size <= kFewCandidates ? candidates.size
                           : max_kept <= kFewWanted          ? max_kept
                                                             : kFewKept;
  Progress progress;
  keep_by_list(candidates, suppression, capacity, max_kept, kept, &progress);
  // A grid costs time for each of its candidates, reached or not: first one of those that suffice if half of
  // them are kept.
  const int64_t likely_reached = max_kept < candidates.size / 4 ? 2 * max_kept : candidates.size;
  const int64_t ends[] = {likely_reached, candidates.size};
  for (const int64_t end : ends) {
    if (progress.found_tiny || progress.next >= end || progress.num_kept == max_kept) continue;
    const Candidates<Storage> first{candidates.boxes, candidates.rows, end};
    keep_by_grid(first, suppression, threshold, max_kept, kept, &progress);
  }
  // Areas near underflow: no bound on rounding errors holds.
  if (progress.found_tiny) return keep_exactly(candidates, threshold, max_kept, kept);
  return progress.num_kept;
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
