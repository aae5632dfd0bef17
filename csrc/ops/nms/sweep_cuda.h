// Lets the boxes that a chunk kept remove later boxes.
//
// A block has 256 later boxes and a share of the kept ones; where later boxes are many, they lie side by side
// (order_cuda.h), and the share is all. First its threads ask which kept boxes meet the block's span of x at
// all, one test for 256 pairs; then each thread tests its box against those alone. In a dense scene of small
// boxes few remain.
#pragma once

#include "ops/nms/tile_cuda.h"

namespace fastrpn {
namespace {

constexpr int kSweepRound = 1024;       // most kept boxes looked at between two barriers
constexpr int kSweepSlice = 128;        // least of a block
constexpr int64_t kSweepBlocks = 1024;  // that a sweep should have

// The grid's z: where later boxes are few, several blocks share the kept ones of each 256.
unsigned sweep_slices(int64_t blocks, int64_t chunk) {
  return unsigned(max(int64_t(1), min(ceil_div(chunk, int64_t(kSweepSlice)), kSweepBlocks / blocks)));
}

// From the least x1 to the largest x2 of some boxes. A NaN of the other is left out: such a box suppresses
// nothing and is not suppressed.
template <typename C>
struct Span {
  C low = C(INFINITY), high = C(-INFINITY);

  __device__ void join(C other_low, C other_high) {
    low = min_of(other_low, low);
    high = max_of(other_high, high);
  }
  __device__ bool meets(const Box<C>& box) const { return box.x1 < high && low < box.x2; }
};

// Called by a whole block: the union of its threads' boxes that are `counted`.
template <typename C>
__device__ Span<C> span_of_block(const Box<C>& box, bool counted) {
  __shared__ C lows[kThreads / 32], highs[kThreads / 32];
  Span<C> span;
  if (counted) span.join(box.x1, box.x2);
  for (int flip = 1; flip < 32; flip *= 2) {
    span.join(__shfl_xor_sync(kAllLanes, span.low, flip), __shfl_xor_sync(kAllLanes, span.high, flip));
  }
  if (threadIdx.x % 32 == 0) {
    lows[threadIdx.x / 32] = span.low;
    highs[threadIdx.x / 32] = span.high;
  }
  __syncthreads();
  for (int warp = 0; warp < kThreads / 32; ++warp) span.join(lows[warp], highs[warp]);
  return span;
}

// grid: x over boxes in the sweeps' order, one thread each, y over images, z over slices of the kept boxes.
template <typename C>
__global__ void __launch_bounds__(kThreads) nms_sweep_kernel(NmsArgs args, Workspace<C> w, Chunk<C> chunk) {
  const int64_t image = blockIdx.y, start = image * args.n;
  const int num_kept = w.num_chunk_kept[image];
  if (num_kept == 0 || is_finished(args, w, image, chunk.begin + chunk.size)) return;
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t place = i >= args.n ? args.n : w.order == nullptr ? i : w.order[start + i];
  bool is_open =
      place >= chunk.begin + chunk.size && place < w.valid[image] && w.states[start + place] == kOpen;
  if (!__syncthreads_or(is_open)) return;

  __shared__ Staged<C, kSweepRound> staged;
  __shared__ int count;
  const Box<C> box = is_open ? w.boxes[start + place].box : Box<C>{};
  const C area = box_area(box);
  const int64_t group = is_open ? w.group(start + place) : 0;
  const Span<C> span = span_of_block(box, is_open);
  const int share = ceil_div(int(chunk.size), 32 * int(gridDim.z)) * 32, round = min(share, kSweepRound);
  for (int first = int(blockIdx.z) * round; first < num_kept; first += int(gridDim.z) * round) {
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    for (int k = first + int(threadIdx.x); k < first + round; k += kThreads) {
      const int64_t from = start + (k < num_kept ? w.chunk_kept[image * chunk.size + k] : 0);
      const Candidate<C> kept = w.boxes[from];
      const bool is_near = k < num_kept && (!chunk.test.needs_overlap() || span.meets(kept.box));
      const unsigned near = __ballot_sync(kAllLanes, is_near);
      int to = 0;
      if (threadIdx.x % 32 == 0 && near != 0) to = atomicAdd(&count, __popc(near));
      to = __shfl_sync(kAllLanes, to, 0) + __popc(near & ((1u << (threadIdx.x % 32)) - 1));
      if (is_near) {
        staged.boxes[to] = kept;
        staged.groups[to] = w.group(from);
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
