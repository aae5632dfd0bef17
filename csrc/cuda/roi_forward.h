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
constexpr int kPlanes = 4;      // channels of a pack in NCHW: one look at the RoI's plan serves so many loads
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

// From a cell to the next, in bytes.
template <typename T, bool kChannelsLast>
__device__ __forceinline__ unsigned bytes_of_cell(int64_t channels) {
  return (kChannelsLast ? unsigned(channels) : 1) * unsigned(sizeof(T));
}

// Where a row of cells lies, in bytes.
__device__ __forceinline__ int64_t bytes_before_row(int y, int64_t width, unsigned cell_bytes) {
  int64_t bytes = y * width * cell_bytes;
  FASTRPN_OPAQUE(bytes);  // or the compiler multiplies 64 bits for each cell, not for each row
  return bytes;
}

// kCount channels of cell `x` of a row: side by side, or, in NCHW, each in its plane, `plane` elements apart.
template <int kCount, bool kChannelsLast, typename T>
__device__ __forceinline__ Pack<T, kCount> load_channels(const T* features, int64_t row, int x,
                                                         unsigned cell_bytes, int64_t plane) {
  const char* bytes = reinterpret_cast<const char*>(features) + row + uint64_t(unsigned(x)) * cell_bytes;
  const T* cell = reinterpret_cast<const T*>(bytes);
  if constexpr (kChannelsLast) {
    return *reinterpret_cast<const Pack<T, kCount>*>(cell);
  } else {
    Pack<T, kCount> pack;
#pragma unroll
    for (int k = 0; k < kCount; ++k) pack.values[k] = cell[k * plane];
    return pack;
  }
}

// Stores kCount channels of a bin; in NCHW they are `bins` elements apart.
template <int kCount, bool kChannelsLast, typename T>
__device__ __forceinline__ void store_channels(const Pack<T, kCount>& pack, T* to, int64_t bins) {
  if constexpr (kChannelsLast) {
    store_past_cache(pack, reinterpret_cast<Pack<T, kCount>*>(to));
  } else {
#pragma unroll
    for (int k = 0; k < kCount; ++k) store_past_cache(pack.values[k], to + k * bins);
  }
}

// Where the output of a RoI's bin and channel lies.
template <bool kChannelsLast>
__device__ __forceinline__ int64_t pooled_at(int64_t n, int64_t channels, int bins, int64_t channel,
                                             int bin) {
  return kChannelsLast ? (n * bins + bin) * channels + channel : (n * channels + channel) * bins + bin;
}

}  // namespace fastrpn
