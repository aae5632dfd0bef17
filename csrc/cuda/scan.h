// Prefix sums over a block.
#pragma once

#include "cuda/runtime.h"

namespace fastrpn {
namespace {

// Called by a whole block of kWarps warps: the sum of the threads before, and of all.
template <int kWarps>
__device__ int sum_before(int mine, int (&of_warps)[kWarps], int* all) {
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  int running = mine;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(kAllLanes, running, step);
    if (lane >= step) running += other;
  }
  __syncthreads();  // all have read the last sums
  if (lane == 31) of_warps[warp] = running;
  __syncthreads();
  int before = running - mine, sum = 0;
  for (int other = 0; other < kWarps; ++other) {
    if (other < warp) before += of_warps[other];
    sum += of_warps[other];
  }
  *all = sum;
  return before;
}

}  // namespace
}  // namespace fastrpn
