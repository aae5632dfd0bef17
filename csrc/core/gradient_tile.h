// The deterministic backward of both RoI operators on CUDA: every element of the gradient has one owner, so
// there are no atomics, and the sum is always in RoI order, bin after bin.
//
// A block owns a tile of kSide x kSide cells for some channels, in shared memory; a thread owns one channel
// of it. In rounds of kRound RoIs:
//   scan:    the threads find the RoIs that touch the tile, and which of their bins do, and queue them in
//   order. stage:   the gradients of the next kStage queued bins are loaded at once, side by side in memory
//   whatever
//            the layout, many loads in flight.
//   add:     each thread adds what they give its channel.
// In the end the tile is written once. Small maps are cut into small tiles, to have blocks for all of the
// GPU.
//
// Cost: each gradient is read once by every tile that its bin touches, num_rois tests a block.
#pragma once

#include "core/cuda_runtime.h"

namespace fastrpn {

constexpr int64_t kMostBins = 1 << 24;  // of a RoI; forward has no larger ones
constexpr int kLargeSide = 8, kSmallSide = 4;
constexpr int64_t kEnoughBlocks = 1024;  // that a grid of large tiles should have
constexpr int kStage = 32;               // bins staged at once
constexpr int kAhead = 8;                // loads of a thread in flight
constexpr int kScan = 4;                 // RoIs a thread looks at in a round

// Channels, and threads, of a block that sums in type C.
template <typename C>
constexpr int kTileChannels = 256 / int(sizeof(C));
template <typename C>
constexpr int kRound = kScan * kTileChannels<C>;

// The bins of a RoI that may touch a tile: rows [row, row + rows) and columns [column, column + columns).
struct BinWindow {
  int row, column, rows, columns;
};

template <typename C, int kSide>
struct GradientTile {
  // A column more than there are channels: threads that walk down a column would all meet in one bank.
  C sums[kSide * kSide][kTileChannels<C> + 1];
  C grads[kStage][kTileChannels<C> + 1];
  unsigned touching[kRound<C> / 32];  // RoIs of this round, a bit each
  int64_t end[kRound<C>];             // of the queue: bins up to and with those of its i-th RoI
  int roi[kRound<C>];                 // counted from the round's first
  BinWindow window[kRound<C>];
  int64_t from[kStage];  // where a staged bin's gradients lie, of channel 0
  int y, x;              // first cell
};

// Whether the cells [begin, end) of an axis reach into the tile that starts at `low`.
template <int kSide>
__device__ __forceinline__ bool touches_tile(int begin, int end, int low) {
  return begin < low + kSide && end > low;
}

// The bins i of [0, count) from the first to the last for which touches(i).
template <typename Touches>
__device__ __forceinline__ void touching_bins(int count, const Touches& touches, int* first, int* size) {
  int begin = 0, end = count;
  while (begin < end && !touches(begin)) ++begin;
  while (end > begin && !touches(end - 1)) --end;
  *first = begin;
  *size = end - begin;
}

inline int64_t tiles_of(int64_t height, int64_t width, int side) {
  return ceil_div(height, int64_t(side)) * ceil_div(width, int64_t(side));
}

// Why a backward of that size cannot be launched, or null. `tiles`: large ones of an image, on all its
// levels.
inline Status backward_limits(int64_t batch, int64_t channels, int64_t pooled_height, int64_t pooled_width,
                              int64_t tiles) {
  if (batch > kMaxGridYZ) return "more than 65535 images";
  if (channels > kMaxGridYZ * kTileChannels<double>) return "more than 2097120 channels";
  if (max(pooled_height, pooled_width) > kMostBins || pooled_height * pooled_width > kMostBins)
    return "more than 2^24 bins of a RoI";
  if (tiles > kMaxGridX) return "more than 2^37 cells of an image";
  return nullptr;
}

template <typename C>
bool wants_small_tiles(int64_t batch, int64_t channels, int64_t large_tiles) {
  return batch * ceil_div(channels, int64_t(kTileChannels<C>)) * large_tiles < kEnoughBlocks;
}

// Queues the RoIs of a round that touch the tile, in order; returns how many.
template <typename C, int kSide, typename Source>
__device__ __forceinline__ int scan_round(GradientTile<C, kSide>& tile, const Source& source, int64_t first,
                                          int64_t num_rois) {
  constexpr int kThreads = kTileChannels<C>, kWarps = kThreads / 32;
  const int thread = threadIdx.x;
  bool mine[kScan];
  for (int k = 0; k < kScan; ++k) {
    const int64_t n = first + k * kThreads + thread;
    mine[k] = n < num_rois && source.touches(n);
  }
  for (int k = 0; k < kScan; ++k) {
    const unsigned ballot = __ballot_sync(0xffffffffu, mine[k]);
    if (thread % 32 == 0) tile.touching[k * kWarps + thread / 32] = ballot;
  }
  __syncthreads();
  int before = 0;  // in the words looked at
  for (int word = 0; word < kScan * kWarps; ++word) {
    const unsigned bits = tile.touching[word];
    if (word % kWarps == thread / 32 && mine[word / kWarps]) {
      const int at = before + __popc(bits & ((1u << (thread % 32)) - 1));
      tile.roi[at] = word * 32 + thread % 32;
      tile.window[at] = source.window(first + tile.roi[at]);
    }
    before += __popc(bits);
  }
  __syncthreads();
  if (thread == 0) {
    int64_t end = 0;
    for (int i = 0; i < before; ++i) {
      tile.end[i] = end += int64_t(tile.window[i].rows) * tile.window[i].columns;
    }
  }
  __syncthreads();
  return before;
}

// Prepares bin `at` of the queue as number `slot` of the stage; called by one thread.
template <typename C, int kSide, typename Source>
__device__ __forceinline__ void prepare_bin(GradientTile<C, kSide>& tile, Source& source, int64_t first,
                                            int queued, int64_t at, int slot) {
  int low = 0, high = queued - 1;  // the RoI: the first whose end is beyond
  while (low < high) {
    const int middle = (low + high) / 2;
    if (tile.end[middle] > at) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  const BinWindow& window = tile.window[low];
  const int i = int(at - (low == 0 ? 0 : tile.end[low - 1]));
  const int row = window.row + i / window.columns, column = window.column + i % window.columns;
  tile.from[slot] = source.prepare(first + tile.roi[low], row, column, slot);
}

// Loads from[slot] of `count` bins and all channels of the block, `stride` apart, and calls put(slot, lane,
// value). Neighbouring threads take neighbouring channels, channels last, or else neighbouring bins.
template <bool kChannelsLast, typename C, int kSide, typename T, typename Put>
__device__ __forceinline__ void load_stage(const GradientTile<C, kSide>& tile, int count, const T* data,
                                           int64_t stride, int64_t lanes, const Put& put) {
  constexpr int kThreads = kTileChannels<C>;
  for (int first = 0; first < kStage; first += kAhead) {
    T value[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int i = (first + k) * kThreads + int(threadIdx.x);
      const int slot = kChannelsLast ? i / kThreads : i % kStage;
      const int lane = kChannelsLast ? i % kThreads : i / kStage;
      value[k] = T();
      if (slot < count && lane < lanes) value[k] = data[tile.from[slot] + lane * stride];
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int i = (first + k) * kThreads + int(threadIdx.x);
      put(kChannelsLast ? i / kThreads : i % kStage, kChannelsLast ? i % kThreads : i / kStage, value[k]);
    }
    if (kChannelsLast && first + kAhead >= count) break;
  }
}

// Called by a whole block: all that the RoIs give the tile. `source` knows them:
//   touches(n):                      whether RoI n may touch the tile
//   window(n):                       which of its bins may
//   prepare(n, row, column, slot):   called by one thread before that bin is added; returns from
//   stage(tile, count):              called by all, loads what the bins of the stage give
//   add(tile, slot):                 called by every thread whose channel exists
template <typename C, int kSide, typename Source>
__device__ __forceinline__ void sum_tile(GradientTile<C, kSide>& tile, Source& source, int64_t num_rois,
                                         bool is_busy) {
  const int thread = threadIdx.x;
  for (int cell = 0; cell < kSide * kSide; ++cell) tile.sums[cell][thread] = C(0);
  __syncthreads();  // other threads write the tile, even where there is no RoI
  for (int64_t first = 0; first < num_rois; first += kRound<C>) {
    const int queued = scan_round(tile, source, first, num_rois);
    const int64_t bins = queued == 0 ? 0 : tile.end[queued - 1];
    for (int64_t at = 0; at < bins; at += kStage) {
      const int count = int(min(bins - at, int64_t(kStage)));
      if (thread < count) prepare_bin(tile, source, first, queued, at + thread, thread);
      __syncthreads();
      source.stage(tile, count);
      __syncthreads();
      for (int slot = 0; slot < count && is_busy; ++slot) source.add(tile, slot);
      __syncthreads();
    }
  }
}

// Called by a whole block when all is summed. `to` is the image's [channels, height, width], or channels
// last: neighbouring threads write neighbouring channels then, else neighbouring cells.
template <bool kChannelsLast, typename T, typename C, int kSide>
__device__ __forceinline__ void write_tile(const GradientTile<C, kSide>& tile, int64_t first_channel,
                                           int64_t channels, int64_t height, int64_t width, T* to) {
  constexpr int kCells = kSide * kSide, kChannels = kTileChannels<C>;
  for (int i = threadIdx.x; i < kCells * kChannels; i += kChannels) {
    const int cell = kChannelsLast ? i / kChannels : i % kCells;
    const int lane = kChannelsLast ? i % kChannels : i / kCells;
    const int64_t y = tile.y + cell / kSide, x = tile.x + cell % kSide;
    const int64_t channel = first_channel + lane;
    if (y >= height || x >= width || channel >= channels) continue;
    const int64_t at = y * width + x;
    to[kChannelsLast ? at * channels + channel : channel * height * width + at] =
        narrow<T>(tile.sums[cell][lane]);
  }
}

}  // namespace fastrpn
