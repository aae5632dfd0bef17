// Greedy suppression of one group: boxes that come in descending score order and all see each other.
//
// A candidate is kept unless a kept box before it suppresses it; that is the same set as the textbook loop's
// (which lets each kept box strike out later ones), but reads the kept boxes alone. All strategies give the
// same boxes; with n candidates, of which k are kept, these run, in this order:
//
// 1. threshold >= 1: none, all are kept. No IoU exceeds 1.
// 2. threshold < 0: `keep_exactly`, by the definition, n k / kLanes<T> divisions. The bounds of Suppression
//    need a threshold that boxes which do not meet stay below.
// 3. else first `keep_by_blocks`: kLanes<T> candidates at a time are compared with all kept boxes, n k /
//    kLanes<T> tests without a division or a branch. Nothing is faster while k is small, so it goes on until
//    32 kLanes<T> boxes are kept (512 floats with AVX-512), or all are decided: few boxes, a small max_kept
//    and scenes of much overlap end here.
// 4. `keep_by_grid` decides the rest: it finds the few kept boxes that can matter (grid_cpu.h), in O(n) for a
//    given threshold. It costs time to build; where it overtakes the blocks was measured.
// 5. Where 3 or 4 meet an area near underflow or overflow, for which no bound on rounding errors holds:
//    `keep_exactly`, from the start again.
#pragma once

#include <cstdint>

#include "cpu/buffer.h"
#include "ops/nms/grid_cpu.h"
#include "ops/nms/kept_list_cpu.h"
#include "ops/nms/suppression_cpu.h"

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
  bool found_extreme = false;
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
    if (list.any_block([&](const BoxBlock<T>& b) { return suppression.exactly(b, box) != 0; })) continue;
    list.append(box);
    kept[num_kept++] = uint32_t(i);
  }
  return num_kept;
}

// The boxes of a candidate block, from candidate `first` on, with their bounds.
template <typename Storage>
BoxBlock<compute_t<Storage>> load_block(const Candidates<Storage>& candidates, int64_t first,
                                        const Suppression<compute_t<Storage>>& suppression,
                                        bool* found_extreme) {
  using T = compute_t<Storage>;
  BoxBlock<T> block;
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    const bool here = first + lane < candidates.size;
    block.set(lane, here ? candidates[first + lane] : Box<T>{}, T(0));
  }
  *found_extreme |= suppression.set_bounds(block);
  return block;
}

// A box with its bound, for Suppression.
template <typename T>
struct Bounded {
  Box<T> box;
  T bound;
};

// Lanes of a block that one of the kept boxes suppresses. Nothing branches on a box but where rounding
// decides.
template <typename T, bool kAsIntegers>
uint32_t suppressed_lanes(const BoxBlock<T>& block, const Bounded<T>* kept, int64_t count,
                          const Suppression<T>& suppression) {
  Vec<T> greatest = splat(-FloatLimits<T>::max);
  for (int64_t k = 0; k < count; ++k) {
    greatest = max(suppression.template margin<kAsIntegers>(block, kept[k].box, kept[k].bound), greatest);
  }
  const auto verdict = suppression.judge(block, greatest);
  uint32_t lanes = verdict.sure;
  for (int64_t k = 0; k < count && (verdict.unsure & ~lanes) != 0; ++k) {
    lanes |= suppression.exactly(block, kept[k].box) & verdict.unsure;
  }
  return lanes;
}

// Decides a block of candidates at a time against all kept boxes, until there may be more than `capacity`.
// What becomes of a box cannot be predicted, and a wrong guess costs as much as ten boxes against a block: so
// no search ends early, but for the grid's.
template <typename Storage>
void keep_by_blocks(const Candidates<Storage>& candidates, const Suppression<compute_t<Storage>>& suppression,
                    int64_t capacity, int64_t max_kept, uint32_t* kept, Progress* progress) {
  using T = compute_t<Storage>;
  Buffer<Bounded<T>> list(capacity);
  int64_t size = 0, num_kept = 0, first = 0;
  for (; first < candidates.size && size + kLanes<T> <= capacity && num_kept < max_kept; first += kLanes<T>) {
    const BoxBlock<T> block = load_block(candidates, first, suppression, &progress->found_extreme);
    if (progress->found_extreme) return;
    const auto lanes =
        block.has_no_sign() ? suppressed_lanes<T, kComparesIntegers<T>> : suppressed_lanes<T, false>;
    const int64_t here = candidates.size - first < kLanes<T> ? candidates.size - first : kLanes<T>;
    uint32_t open = ((uint32_t(1) << here) - 1) & ~lanes(block, list.data(), size, suppression);
    uint32_t suppressed_by[kLanes<T>];  // for all that may be kept at once: only the choice itself is serial
    for (uint32_t rest = open; rest != 0; rest &= rest - 1) {
      const int lane = __builtin_ctz(rest);
      const Bounded<T> box = {block.box(lane), block.bound[lane]};
      suppressed_by[lane] = suppressed_lanes<T, false>(block, &box, 1, suppression);
    }
    while (open != 0 && num_kept < max_kept) {
      const int lane = __builtin_ctz(open);
      kept[num_kept++] = uint32_t(first + lane);
      open &= (open - 1) & ~suppressed_by[lane];
      list[size] = {block.box(lane), block.bound[lane]};
      size += block.bound[lane] >= 0;  // active
    }
  }
  progress->next = first < candidates.size ? first : candidates.size;
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
      if (is_extreme(area)) {
        progress->found_extreme = true;
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
  // Where comparing with all kept boxes is faster than a grid of them; measured.
  constexpr int64_t kFewKept = 32 * kLanes<compute_t<Storage>>;
  if (!(threshold < 1)) {
    // No IoU exceeds 1 (inter <= a, b also after rounding), and nothing exceeds NaN.
    const int64_t num_kept = candidates.size < max_kept ? candidates.size : max_kept;
    for (int64_t i = 0; i < num_kept; ++i) kept[i] = uint32_t(i);
    return num_kept;
  }
  if (threshold < 0) return keep_exactly(candidates, threshold, max_kept, kept);
  const Suppression<compute_t<Storage>> suppression(threshold);
  const int64_t most_kept = candidates.size < max_kept ? candidates.size : max_kept;
  Progress progress;
  keep_by_blocks(candidates, suppression,
                 (most_kept < kFewKept ? most_kept : kFewKept) + kLanes<compute_t<Storage>>, max_kept, kept,
                 &progress);
  // A grid costs time for each of its candidates, reached or not: first one of those that suffice if half of
  // them are kept.
  const int64_t likely_reached = max_kept < candidates.size / 4 ? 2 * max_kept : candidates.size;
  const int64_t ends[] = {likely_reached, candidates.size};
  for (const int64_t end : ends) {
    if (progress.found_extreme || progress.next >= end || progress.num_kept == max_kept) continue;
    const Candidates<Storage> first{candidates.boxes, candidates.rows, end};
    keep_by_grid(first, suppression, threshold, max_kept, kept, &progress);
  }
  if (progress.found_extreme) return keep_exactly(candidates, threshold, max_kept, kept);
  return progress.num_kept;
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
