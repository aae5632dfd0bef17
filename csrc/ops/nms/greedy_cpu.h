// Greedy suppression of one group: boxes that come in descending score order and all see each other.
//
// A candidate is kept unless a kept box before it suppresses it; that is the same set as the textbook loop's
// (which lets each kept box strike out later ones), but reads the kept boxes alone. All strategies give the
// same boxes; with n candidates, of which k are kept, these run, in this order:
//
// 1. threshold >= 1: none, all are kept. No IoU exceeds 1.
// 2. threshold < 0: `keep_exactly`, by the definition, n k / kLanes<T> divisions. The bounds of Suppression
//    need a threshold that boxes which do not meet stay below.
// 3. else first `keep_by_blocks`: kLanes<T> candidates at a time are compared with the kept boxes, at most
//    n k / kLanes<T> tests without a division or a branch. Nothing is faster while these are few, so it goes
//    on while a chunk of candidates takes fewer of them than a grid would be worth: few boxes, a small
//    max_kept and scenes of much overlap end here.
// 4. `keep_by_grid` decides the rest: it finds the few kept boxes that can matter (grid_cpu.h), in O(n) for a
//    given threshold.
// 5. Where 3 or 4 meet an area near underflow or overflow, for which no bound on rounding errors holds:
//    `keep_exactly`, from the start again.
#pragma once

#include <cstdint>

#include "cpu/buffer.h"
#include "ops/nms/chunk_cpu.h"
#include "ops/nms/grid_cpu.h"
#include "ops/nms/kept_list_cpu.h"
#include "ops/nms/suppression_cpu.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {

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

// Keeps what the candidates of a chunk leave of each other. Returns how many tests of a block it took.
template <typename T>
int64_t keep_of_chunk(const Chunk<T>& chunk, const Suppression<T>& suppression, int64_t max_kept,
                      KeptOfBlocks<T>& kept) {
  const int64_t earlier = kept.num_active;
  int64_t tests = 0;
  for (int64_t b = 0; b < chunk.blocks(); ++b) {
    const BoxBlock<T>& block = chunk.block(b);
    tests += kept.num_active - earlier;
    uint32_t open = chunk.open_lanes(b, kept.active.data() + earlier, kept.num_active - earlier, suppression);
    uint32_t suppressed_by[kLanes<T>];  // of all that may be kept: only the choice itself is serial
    for (uint32_t rest = open; rest != 0; rest &= rest - 1) {
      const int lane = __builtin_ctz(rest);
      const Bounded<T> box = {block.box(lane), block.bound[lane]};
      suppressed_by[lane] = suppressed_lanes<T, false>(block, &box, 1, suppression);
    }
    while (open != 0 && kept.count < max_kept) {
      const int lane = __builtin_ctz(open);
      open &= (open - 1) & ~suppressed_by[lane];
      kept.add(chunk.position(b * kLanes<T> + lane), {block.box(lane), block.bound[lane]});
    }
  }
  return tests;
}

// Decides a chunk of candidates at a time, until a grid is likely to be faster. Kept boxes of earlier chunks
// come in batches, after each of which the chunk loses those it suppresses: what becomes of one box cannot be
// predicted, and a wrong guess costs as much as ten tests, so nothing within a batch depends on a result.
template <typename Storage>
void keep_by_blocks(const Candidates<Storage>& candidates, const Suppression<compute_t<Storage>>& suppression,
                    int64_t max_kept, uint32_t* positions, Progress* progress) {
  using T = compute_t<Storage>;
  constexpr int64_t kBatch = 64;
  // A grid takes about as long for one candidate as so many tests of a block; measured.
  constexpr int64_t kGridTests = 16 * Chunk<T>::kCapacity;
  KeptOfBlocks<T> kept(positions, candidates.size < max_kept ? candidates.size : max_kept);
  Chunk<T> chunk;
  int64_t next = 0, tests = 0;
  while (next < candidates.size && kept.count < max_kept && tests < kGridTests) {
    progress->found_extreme |= chunk.load(candidates, next, suppression);
    if (progress->found_extreme) return;
    next += chunk.size();
    const int64_t earlier = kept.num_active;
    tests = 0;
    for (int64_t k = 0; k < earlier; k += kBatch) {
      const int64_t batch = earlier - k < kBatch ? earlier - k : kBatch;
      tests += chunk.blocks() * batch;
      chunk.remove_suppressed(kept.active.data() + k, batch, suppression);
    }
    tests += keep_of_chunk(chunk, suppression, max_kept, kept);
    // Those of the next chunk, if as many are kept again.
    const int64_t expected = (kept.num_active - earlier) * kept.num_active / kLanes<T>;
    if (tests < expected) tests = expected;
  }
  progress->next = next;
  progress->num_kept = kept.count;
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
  if (!(threshold < 1)) {
    // No IoU exceeds 1 (inter <= a, b also after rounding), and nothing exceeds NaN.
    const int64_t num_kept = candidates.size < max_kept ? candidates.size : max_kept;
    for (int64_t i = 0; i < num_kept; ++i) kept[i] = uint32_t(i);
    return num_kept;
  }
  if (threshold < 0) return keep_exactly(candidates, threshold, max_kept, kept);
  const Suppression<compute_t<Storage>> suppression(threshold);
  Progress progress;
  keep_by_blocks(candidates, suppression, max_kept, kept, &progress);
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
