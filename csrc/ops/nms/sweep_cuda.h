// Lets the boxes that a chunk kept remove later boxes.
//
// A block has 256 later boxes and a share of the kept ones; where later boxes are many, they are neighbours
// of one group (order_cuda.h), and the share is all. First its threads ask which kept boxes meet the block's
// region at all, one test for 256 pairs; then each thread tests its box against those alone. In a dense scene
// of small boxes few remain.
#pragma once

#include "ops/nms/order_cuda.h"
#include "ops/nms/tile_cuda.h"

namespace fastrpn {
namespace {

constexpr int kSweepRound = 1024;       // most kept boxes looked at between two barriers
constexpr int kSweepSlice = 128;        // least of a block
constexpr int64_t kSweepBlocks = 1024;  // that a sweep should have

// How the boxes that a chunk keeps are dealt out among blocks.
struct Slices {
  unsigned count;
  int round;  // kept boxes that a block looks at between two barriers
};

// Where later boxes are few, several blocks share the kept ones of each 256.
Slices slices_of(int64_t blocks, int64_t chunk) {
  const int64_t most = ceil_div(chunk, int64_t(kSweepSlice));
  const int64_t count = max(int64_t(1), min(most, kSweepBlocks / blocks));
  const int64_t round = ceil_div(ceil_div(chunk, count), int64_t(32)) * 32;
  return {unsigned(count), int(min(round, int64_t(kSweepRound)))};
}

// Where the boxes of a block lie, and which groups they may be of.
template <typename C>
struct Region {
  Box<C> bounds;
  unsigned first_group, last_group;

  static __device__ Region empty() {
    const C inf = C(INFINITY);
    return {{inf, inf, -inf, -inf}, ~0u, 0};
  }
  // A NaN of the other is left out: such a box suppresses nothing and is not suppressed.
  __device__ void join(const Region& other) {
    bounds.x1 = min_of(other.bounds.x1, bounds.x1);
    bounds.y1 = min_of(other.bounds.y1, bounds.y1);
    bounds.x2 = max_of(other.bounds.x2, bounds.x2);
    bounds.y2 = max_of(other.bounds.y2, bounds.y2);
    first_group = min(first_group, other.first_group);
    last_group = max(last_group, other.last_group);
  }
  __device__ bool has_group(unsigned code) const { return first_group <= code && code <= last_group; }
  __device__ bool overlaps(const Box<C>& box) const {
    return box.x1 < bounds.x2 && bounds.x1 < box.x2 && box.y1 < bounds.y2 && bounds.y1 < box.y2;
  }
  __device__ Region from_lane(int flip) const {
    return {{__shfl_xor_sync(kAllLanes, bounds.x1, flip), __shfl_xor_sync(kAllLanes, bounds.y1, flip),
             __shfl_xor_sync(kAllLanes, bounds.x2, flip), __shfl_xor_sync(kAllLanes, bounds.y2, flip)},
            __shfl_xor_sync(kAllLanes, first_group, flip),
            __shfl_xor_sync(kAllLanes, last_group, flip)};
  }
};

// Called by a whole block: the union of its threads' regions.
template <typename C>
__device__ Region<C> join_block(const Region<C>& of_thread, Region<C> of_warps[kThreads / 32]) {
  Region<C> mine = Region<C>::empty();
  mine.join(of_thread);
  for (int flip = 1; flip < 32; flip *= 2) mine.join(mine.from_lane(flip));
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = mine;
  __syncthreads();
  for (int warp = 0; warp < kThreads / 32; ++warp) mine.join(of_warps[warp]);
  return mine;
}

// grid: x over boxes in the sweeps' order, one thread each, y over images, z over slices of the kept boxes.
template <typename C>
__global__ void __launch_bounds__(kThreads)
    nms_sweep_kernel(NmsArgs args, Workspace<C> w, Chunk<C> chunk, int round) {
  const int64_t image = blockIdx.y, start = image * args.n;
  const int num_kept = w.num_chunk_kept[image];
  if (num_kept == 0 || is_finished(args, w, image, chunk.begin + chunk.size)) return;
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t place = i >= args.n ? args.n : w.order == nullptr ? i : w.order[start + i];
  bool is_open =
      place >= chunk.begin + chunk.size && place < w.valid[image] && w.states[start + place] == kOpen;
  if (!__syncthreads_or(is_open)) return;

  __shared__ Staged<C, kSweepRound> staged;
  __shared__ Region<C> of_warps[kThreads / 32];
  __shared__ int count;
  const Box<C> box = is_open ? w.boxes[start + place].box : Box<C>{};
  const C area = box_area(box);
  const int64_t group = is_open ? w.group(start + place) : 0;
  const unsigned code = group_code(group);
  const Region<C> region = join_block(is_open ? Region<C>{box, code, code} : Region<C>::empty(), of_warps);

  for (int first = int(blockIdx.z) * round; first < num_kept; first += int(gridDim.z) * round) {
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    for (int k = first + int(threadIdx.x); k < first + round; k += kThreads) {
      Candidate<C> kept{};
      int64_t its_group = 0;
      bool is_near = false;
      if (k < num_kept) {
        const int64_t from = start + w.chunk_kept[image * chunk.size + k];
        kept = w.boxes[from];
        its_group = w.group(from);
        is_near = region.has_group(group_code(its_group)) &&
                  (!chunk.test.needs_overlap() || region.overlaps(kept.box));
      }
      const unsigned near = __ballot_sync(kAllLanes, is_near);
      int to = 0;
      if (threadIdx.x % 32 == 0 && near != 0) to = atomicAdd(&count, __popc(near));
      to = __shfl_sync(kAllLanes, to, 0) + __popc(near & ((1u << (threadIdx.x % 32)) - 1));
      if (is_near) {
        staged.boxes[to] = kept;
        staged.groups[to] = its_group;
      }
    }
    __syncthreads();
    for (int k = 0; k < count && is_open; ++k) {
      if (staged.suppresses(k, box, area, group, chunk.test)) {
        w.states[start + place] = kRemoved;
        is_open = false;
      }
    }
    if (!__syncthreads_or(is_open)) return;
  }
}

}  // namespace
}  // namespace fastrpn
