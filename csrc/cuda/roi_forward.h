// How the forwards of both RoI operators deal out their work. A block has one RoI and a slice of its
// channels, and goes through all bins: cells that neighbouring bins share come from the L1 cache, and blocks
// that run at the same time read the same slice of the map, which the L2 cache holds. A thread pools one bin
// for one pack of channels at a time. Channels last: neighbouring threads take neighbouring packs, so that a
// warp reads whole lines. NCHW: they take neighbouring bins, which share lines of a plane.
#pragma once

#include "cuda/roi.h"

namespace fastrpn {

constexpr int kForwardThreads = 224;  // seven warps: most pooled maps are 7 x 7 or 14 x 14
// Of a multiprocessor, at least. So the compiler has 72 registers a thread; unasked, it would rather spill.
constexpr int kForwardBlocksAtOnce = 4 * 224 / kForwardThreads;
constexpr int kCellsAhead = 2;  // cells of a bin's row that a thread loads side by side
// Packs of a block. Fewer would be too many blocks for the grid, unless there are few RoIs: then there should
// be kForwardBlocks, eight a multiprocessor, and at least 128 bytes, channels last, of a block: a line.
constexpr int kSlice = 32;
constexpr int kLeastSlice = 8;
constexpr int64_t kForwardBlocks = 1024;

struct RoiBlocks {
  dim3 grid, block;
  int slice;  // packs of channels of a block
};

// The grid is x over RoIs, which run first, and y over slices.
inline RoiBlocks roi_blocks(int64_t num_rois, int64_t packs, int64_t bins, bool channels_last) {
  int slice = kSlice;
  while (slice > kLeastSlice && num_rois * ceil_div(packs, int64_t(slice)) < kForwardBlocks) slice /= 2;
  const int64_t fast = channels_last ? min(packs, int64_t(slice)) : bins;
  const int64_t slow = channels_last ? bins : min(packs, int64_t(slice));
  const int64_t x = min(fast, int64_t(kForwardThreads));
  return {dim3(unsigned(num_rois), unsigned(ceil_div(packs, int64_t(slice)))),
          dim3(unsigned(x), unsigned(min(slow, kForwardThreads / x))), slice};
}

// Calls visit(bin, channel) for the bins and the first channels of the packs that the calling thread has.
template <int kPack, bool kChannelsLast, typename Visit>
__device__ __forceinline__ void for_bins(int bins, int64_t channels, int slice, const Visit& visit) {
  const int first = int(blockIdx.y) * slice;
  const int packs = min(slice, int(channels) / kPack - first);
  const int fast = kChannelsLast ? packs : bins, slow = kChannelsLast ? bins : packs;
  for (int y = threadIdx.y; y < slow; y += blockDim.y) {
    for (int x = threadIdx.x; x < fast; x += blockDim.x) {
      visit(kChannelsLast ? y : x, int64_t(first + (kChannelsLast ? x : y)) * kPack);
    }
  }
}

// Where the output of a RoI's bin and channel lies.
template <bool kChannelsLast>
__device__ __forceinline__ int64_t pooled_at(int64_t n, int64_t channels, int bins, int64_t channel,
                                             int bin) {
  return kChannelsLast ? (n * bins + bin) * channels + channel : (n * channels + channel) * bins + bin;
}

}  // namespace fastrpn
