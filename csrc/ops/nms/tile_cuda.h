// 64 boxes at a time: which of them suppress a box, and which of them are kept.
#pragma once

#include "ops/nms/workspace_cuda.h"

namespace fastrpn {
namespace {

constexpr int kLanesPerColumn = 4;  // threads that share the tests of a box against a tile
constexpr int kTileThreads = kLanesPerColumn * kTileBoxes;

// Boxes in shared memory, with their groups.
template <typename C, int kCount>
struct Staged {
  Candidate<C> boxes[kCount];
  int64_t groups[kCount];

  __device__ void load(int to, const Workspace<C>& w, int64_t from) {
    boxes[to] = w.boxes[from];
    groups[to] = w.group(from);
  }
  __device__ bool suppresses(int row, const Box<C>& box, C area, int64_t group,
                             const IouTest<C>& test) const {
    const Box<C> other = boxes[row].box;
    return groups[row] == group && test(other, box_area(other), box, area);
  }
};

// Called by the lanes of a box, where it `exists`: which of a tile's first `end` boxes suppress it.
template <typename C>
__device__ uint64_t suppressors_in(const Staged<C, kTileBoxes>& tile, int end, const Box<C>& box, C area,
                                   int64_t group, const IouTest<C>& test) {
  uint64_t word = 0;
  for (int row = int(threadIdx.x) % kLanesPerColumn; row < end; row += kLanesPerColumn) {
    word |= uint64_t(tile.suppresses(row, box, area, group, test)) << row;
  }
  return word;
}

// Called by whole warps: what the lanes of a box have found together.
__device__ uint64_t join_lanes(uint64_t word) {
  for (int flip = 1; flip < kLanesPerColumn; flip *= 2) word |= __shfl_xor_sync(kAllLanes, word, flip);
  return word;
}

// Called by a warp: which boxes of a tile are kept. A lane has two of them: whether they are open, and which
// earlier ones of the tile suppress them. In each round the open boxes without an open suppressor are kept,
// then what they suppress is removed.
__device__ uint64_t decide_tile(const bool is_open[kTileBoxes], const uint64_t suppressors_of[kTileBoxes]) {
  const int lane = int(threadIdx.x) % 32;
  const uint64_t suppressors[] = {suppressors_of[lane], suppressors_of[lane + 32]};
  const auto of_all = [](bool low, bool high) {
    return __ballot_sync(kAllLanes, low) | uint64_t(__ballot_sync(kAllLanes, high)) << 32;
  };
  uint64_t open = of_all(is_open[lane], is_open[lane + 32]), kept = 0;
  while (open != 0) {
    const bool low = open >> lane & 1, high = open >> (lane + 32) & 1;
    const uint64_t free = of_all(low && !(suppressors[0] & open), high && !(suppressors[1] & open));
    kept |= free;
    open &= ~(free | of_all(low && (suppressors[0] & kept), high && (suppressors[1] & kept)));
  }
  return kept;
}

}  // namespace
}  // namespace fastrpn
