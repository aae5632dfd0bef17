// Decides small groups, each in one block, and brings what all groups kept into order of score.
//
// segment: a segment has the places of one code: one group, seldom several. Its block finds them, in order,
//   and decides them by tiles of 64: against the boxes it has kept, then within the tile. So no pair of two
//   groups is tested, but for those that share a code. A large one it leaves to the chunks.
// merge: one block an image writes the kept rows by descending score, up to max_output.
//
// Cost: for a segment of m boxes of which k are kept at most m (k + 64) / 2 tests, m / 64 rounds in a row;
// n bytes read to find it.
#pragma once

#include "cuda/scan.h"
#include "ops/nms/order_cuda.h"
#include "ops/nms/tile_cuda.h"

namespace fastrpn {
namespace {

constexpr int kMergeThreads = 1024;

// Called by a whole block: put(rank, place) for the first `most` of the places that are chosen, in their
// order, and returns how many those are. In a round each thread has the 32 places of one word.
template <int kBlock, typename IsChosen, typename Put>
__device__ int64_t compact(int64_t places, int64_t most, const IsChosen& is_chosen, const Put& put) {
  __shared__ int of_warps[kBlock / 32];
  const int lane = int(threadIdx.x) % 32;
  int64_t found = 0;
  for (int64_t first = 0; first < places && found < most; first += 32 * kBlock) {
    const int64_t of_warp = first + 32 * (int64_t(threadIdx.x) - lane);
    unsigned mine = 0;
#pragma unroll 8  // loads side by side, in few registers
    for (int k = 0; k < 32; ++k) {
      const int64_t place = of_warp + 32 * k + lane;
      const unsigned word = __ballot_sync(kAllLanes, place < places && is_chosen(place));
      if (k == lane) mine = word;
    }
    int all;
    int64_t rank = found + sum_before(__popc(mine), of_warps, &all);
    for (; mine != 0 && rank < most; mine &= mine - 1) {
      put(rank++, of_warp + 32 * lane + __ffs(int(mine)) - 1);
    }
    found += all;
  }
  return min(found, most);
}

// grid: x over codes, y over images. Four threads a box of a tile.
template <typename C>
__global__ void __launch_bounds__(kTileThreads)
    nms_segment_kernel(NmsArgs args, Workspace<C> w, IouTest<C> test) {
  static_assert(kTileThreads == kCodes, "a thread for each code");
  __shared__ int of_warps[kTileThreads / 32];
  __shared__ Staged<C, kTileBoxes> tile;
  __shared__ Staged<C, kTileThreads> kept;
  __shared__ bool is_open[kTileBoxes];
  __shared__ uint64_t suppressors[kTileBoxes], found;
  const int64_t image = blockIdx.y, start = image * args.n;
  const int thread = threadIdx.x, code = blockIdx.x;
  const unsigned* sizes = w.sizes + image * kCodes;
  const int size = int(sizes[code]);
  const bool is_large = size > largest_segment(args);
  if (is_large && thread == 0) args.kept[image] = 0;  // its chunks have something to do
  if (size == 0 || is_large) return;
  int begin;
  sum_before(thread < code ? int(sizes[thread]) : 0, of_warps, &begin);
  uint32_t* places = w.segments + start + begin;  // what is kept overwrites what was read
  compact<kTileThreads>(
      w.valid[image], size, [&](int64_t place) { return w.codes[start + place] == code; },
      [&](int64_t rank, int64_t place) { places[rank] = uint32_t(place); });
  __syncthreads();  // the places are written
  const int column = thread / kLanesPerColumn, lane = thread % kLanesPerColumn;
  int num_kept = 0;
  for (int first = 0; first < size; first += kTileBoxes) {
    const bool exists = first + column < size;
    const int64_t place = exists ? places[first + column] : 0;
    const Box<C> box = exists ? w.boxes[start + place].box : Box<C>{};
    const C area = box_area(box);
    const int64_t group = exists ? w.group(start + place) : 0;
    if (exists && lane == 0) tile.load(column, w, start + place);
    bool hit = false;
    for (int from = 0; from < num_kept; from += kTileThreads) {
      const int count = min(num_kept - from, kTileThreads);
      __syncthreads();  // all have read what was staged before, and written the places they kept
      if (thread < count) kept.load(thread, w, start + places[from + thread]);
      __syncthreads();
      for (int k = lane; k < count && exists && !hit; k += kLanesPerColumn) {
        hit = kept.suppresses(k, box, area, group, test);
      }
    }
    __syncthreads();  // the tile is staged
    const uint64_t word = join_lanes(exists ? suppressors_in(tile, column, box, area, group, test) : 0);
    hit = join_lanes(hit) != 0;
    if (lane == 0) {
      is_open[column] = exists && !hit;
      suppressors[column] = word;
    }
    __syncthreads();
    if (thread < 32) {
      const uint64_t decided = decide_tile(is_open, suppressors);
      if (thread == 0) found = decided;
    }
    __syncthreads();
    if (exists && lane == 0) {
      const bool is_kept = found >> column & 1;
      w.states[start + place] = is_kept ? kKept : kRemoved;
      if (is_kept) places[num_kept + __popcll(found & ((1ull << column) - 1))] = uint32_t(place);
    }
    num_kept += __popcll(found);
  }
}

// One block an image.
template <typename C>
__global__ void __launch_bounds__(kMergeThreads) nms_merge_kernel(NmsArgs args, Workspace<C> w) {
  const int64_t image = blockIdx.x, start = image * args.n;
  const int64_t count = compact<kMergeThreads>(
      w.valid[image], args.max_output, [&](int64_t place) { return w.states[start + place] == kKept; },
      [&](int64_t rank, int64_t place) {
        args.indices[image * args.max_output + rank] = w.sorted_rows[start + place];
      });
  if (threadIdx.x == 0) args.kept[image] = count;
}

}  // namespace
}  // namespace fastrpn
