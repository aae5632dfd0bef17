// Decides small groups, each in one block, and brings what all groups kept into order of score.
//
// segment: a segment is what the order by group has of one code: one group, seldom several. A block takes the
//   small segments that begin among its 64 slots, one behind the other, and decides them by tiles of 64:
//   against the boxes it has kept, then within the tile. So no pair of two groups is tested, but for those
//   that share a code or a block.
// merge: one block an image writes the kept rows by descending score, up to max_output.
//
// Cost: for a segment of m boxes of which k are kept at most m (k + 64) / 2 tests, m / 64 rounds in a row.
#pragma once

#include "cuda/scan.h"
#include "ops/nms/order_cuda.h"
#include "ops/nms/tile_cuda.h"

namespace fastrpn {
namespace {

constexpr int kMergeThreads = 1024;
constexpr int kMergeEach = 16;  // places of a thread in a round

// Called by a whole block, which has found no segment yet: the slots of the small segments that begin among
// its first 64.
template <typename C>
__device__ void find_segments(const NmsArgs& args, const Workspace<C>& w, int64_t image, int* begin,
                              int* end) {
  const int bits = position_bits(args), slot = int(blockIdx.x) * kTileBoxes + int(threadIdx.x);
  const uint64_t* keys = w.sorted_keys + image * args.n;
  if (threadIdx.x == 0) *begin = INT32_MAX, *end = 0;
  __syncthreads();
  if (threadIdx.x < kTileBoxes && slot < w.valid[image]) {
    const bool is_first = slot == 0 || keys[slot] >> bits != keys[slot - 1] >> bits;
    const int size = int(w.sizes[image * kCodes + (keys[slot] >> bits) % kCodes]);
    if (is_first && size <= largest_segment(args)) {
      atomicMin(begin, slot);
      atomicMax(end, slot + size);
    }
  }
  __syncthreads();
}

// grid: x over tiles of slots, y over images. Four threads a box of a tile.
template <typename C>
__global__ void __launch_bounds__(kTileThreads)
    nms_segment_kernel(NmsArgs args, Workspace<C> w, IouTest<C> test) {
  __shared__ int begin, end;
  __shared__ Staged<C, kTileBoxes> tile;
  __shared__ Staged<C, kTileThreads> kept;
  __shared__ bool is_open[kTileBoxes];
  __shared__ uint64_t suppressors[kTileBoxes], found;
  const int64_t image = blockIdx.y, start = image * args.n;
  find_segments(args, w, image, &begin, &end);
  if (begin >= end) return;
  const int column = int(threadIdx.x) / kLanesPerColumn, lane = int(threadIdx.x) % kLanesPerColumn;
  uint32_t* kept_places = w.segment_kept + start + begin;
  int num_kept = 0;
  for (int first = begin; first < end; first += kTileBoxes) {
    const bool exists = first + column < end;
    const int64_t place = exists ? w.order[start + first + column] : 0;
    const Box<C> box = exists ? w.boxes[start + place].box : Box<C>{};
    const C area = box_area(box);
    const int64_t group = exists ? w.group(start + place) : 0;
    if (exists && lane == 0) tile.load(column, w, start + place);
    bool hit = false;
    for (int from = 0; from < num_kept; from += kTileThreads) {
      const int count = min(num_kept - from, kTileThreads);
      __syncthreads();  // all have read what was staged before, and written the places they kept
      if (int(threadIdx.x) < count) kept.load(threadIdx.x, w, start + kept_places[from + threadIdx.x]);
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
    if (threadIdx.x < 32) {
      const uint64_t decided = decide_tile(is_open, suppressors);
      if (threadIdx.x == 0) found = decided;
    }
    __syncthreads();
    if (exists && lane == 0) {
      const bool is_kept = found >> column & 1;
      w.states[start + place] = is_kept ? kKept : kRemoved;
      if (is_kept) kept_places[num_kept + __popcll(found & ((1ull << column) - 1))] = uint32_t(place);
    }
    num_kept += __popcll(found);
  }
}

// One block an image.
template <typename C>
__global__ void __launch_bounds__(kMergeThreads) nms_merge_kernel(NmsArgs args, Workspace<C> w) {
  __shared__ int of_warps[kMergeThreads / 32];
  const int64_t image = blockIdx.x, start = image * args.n, valid = w.valid[image];
  int64_t written = 0;
  for (int64_t first = 0; first < valid && written < args.max_output; first += kMergeThreads * kMergeEach) {
    const int64_t mine = first + int(threadIdx.x) * kMergeEach;
    unsigned kept = 0;
    for (int k = 0; k < kMergeEach; ++k) {
      kept |= unsigned(mine + k < valid && w.states[start + mine + k] == kKept) << k;
    }
    int all;
    int64_t to = written + sum_before(__popc(kept), of_warps, &all);
    for (; kept != 0 && to < args.max_output; kept &= kept - 1) {
      args.indices[image * args.max_output + to++] = w.sorted_rows[start + mine + __ffs(int(kept)) - 1];
    }
    written += all;
  }
  if (threadIdx.x == 0) args.kept[image] = min(written, args.max_output);
}

}  // namespace
}  // namespace fastrpn
