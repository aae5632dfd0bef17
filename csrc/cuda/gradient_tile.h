// The deterministic backward of both RoI operators on CUDA: every element of the gradient has one owner, so
// there are no atomics, and the sum is always in RoI order, bin after bin.
//
// A block owns a tile of kSide x kSide cells for some channels, a thread one channel of it. Small tiles make
// many blocks, which a small map needs. In rounds of kRound RoIs:
//
// - scan: the threads find the RoIs that touch the tile, and which of their bins do, and queue them in order.
// - prepare: each thread looks up one of the next bins in the queue.
// - stage: their gradients are loaded side by side, whatever the layout, many loads in flight.
// - add: each thread adds what they give its channel.
//
// Cost: each gradient is read once by every tile that its bin touches, num_rois tests a block.
#pragma once

#include "cuda/runtime.h"

namespace fastrpn {

constexpr int64_t kMostBins = 1 << 24;  // of a RoI; forward has no larger ones
constexpr int kSide = 4;
constexpr int kCells = kSide * kSide;
constexpr int kAhead = 16;  // loads of a thread in flight
constexpr int kScan = 4;    // RoIs a thread looks at in a round

// Channels, and threads, of a block that sums in type C; and bins staged at once.
template <typename C>
constexpr int kTileChannels = 256 / int(sizeof(C));
template <typename C>
constexpr int kRound = kScan * kTileChannels<C>;

// The cells that a RoI reads; none if begin >= end.
struct alignas(16) CellSpan {
  int32_t y_begin, y_end, x_begin, x_end;
};

// The bins of a RoI that may touch a tile: rows [row, row + rows) and columns [column, column + columns).
struct BinWindow {
  int row, column, rows, columns;
};

template <typename C>
struct GradientStage {
  // A column more than there are channels: threads that write down a column would all meet in one bank.
  C grads[kTileChannels<C>][kTileChannels<C> + 1];
  int64_t from[kTileChannels<C>];  // where a staged bin's gradients lie, of channel 0
  int64_t end[kRound<C>];          // of the queue: bins up to and with those of its i-th RoI
  int roi[kRound<C>];              // counted from the round's first
  BinWindow window[kRound<C>];
  unsigned touching[kRound<C> / 32];  // RoIs of this round, a bit each
};

// Whether the cells [begin, end) of an axis reach into the tile that starts at `low`.
__device__ __forceinline__ bool touches_tile(int begin, int end, int low) {
  return begin < low + kSide && end > low;
}

__device__ __forceinline__ bool is_in_tile(int cell, int low) {
  return unsigned(cell - low) < unsigned(kSide);
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

inline int64_t tiles_of(int64_t height, int64_t width) {
  return ceil_div(height, int64_t(kSide)) * ceil_div(width, int64_t(kSide));
}

// Why a backward of that size cannot be launched, or null. `tiles`: of an image, on all its levels.
inline Status backward_limits(int64_t batch, int64_t channels, int64_t pooled_height, int64_t pooled_width,
                              int64_t tiles) {
  if (batch > kMaxGridYZ) return "more than 65535 images";
  if (channels > kMaxGridYZ * kTileChannels<double>) return "more than 2097120 channels";
  if (max(pooled_height, pooled_width) > kMostBins || pooled_height * pooled_width > kMostBins)
    return "more than 2^24 bins of a RoI";
  if (tiles > kMaxGridX) return "more than 2^35 cells of an image";
  return nullptr;
}

// Queues the RoIs of a round that touch the tile, in order; returns how many.
template <typename C, typename Source>
__device__ __forceinline__ int scan_round(GradientStage<C>& stage, const Source& source, int64_t first,
                                          int64_t num_rois) {
  constexpr int kThreads = kTileChannels<C>, kWarps = kThreads / 32;
  const int thread = threadIdx.x;
  bool mine[kScan];
#pragma unroll
  for (int k = 0; k < kScan; ++k) {
    const int64_t n = first + k * kThreads + thread;
    mine[k] = n < num_rois && source.touches(n);
  }
#pragma unroll
  for (int k = 0; k < kScan; ++k) {
    const unsigned ballot = __ballot_sync(kAllLanes, mine[k]);
    if (thread % 32 == 0) stage.touching[k * kWarps + thread / 32] = ballot;
  }
  __syncthreads();
  int before = 0;  // in the words looked at
#pragma unroll
  for (int word = 0; word < kScan * kWarps; ++word) {
    const unsigned bits = stage.touching[word];
    if (word % kWarps == thread / 32 && mine[word / kWarps]) {
      const int at = before + __popc(bits & ((1u << (thread % 32)) - 1));
      stage.roi[at] = word * 32 + thread % 32;
    }
    before += __popc(bits);
  }
  __syncthreads();
  for (int i = thread; i < before; i += kThreads) stage.window[i] = source.window(first + stage.roi[i]);
  __syncthreads();
  if (thread == 0) {
    int64_t end = 0;
    for (int i = 0; i < before; ++i) {
      stage.end[i] = end += int64_t(stage.window[i].rows) * stage.window[i].columns;
    }
  }
  __syncthreads();
  return before;
}

// Looks up bin `at` of the queue, for the stage's place `slot`; called by one thread.
template <typename C, typename Source>
__device__ __forceinline__ void prepare_bin(GradientStage<C>& stage, const Source& source, int64_t first,
                                            int queued, int64_t at, int slot) {
  int low = 0, high = queued - 1;  // the RoI: the first whose end is beyond
  while (low < high) {
    const int middle = (low + high) / 2;
    if (stage.end[middle] > at) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  const BinWindow& window = stage.window[low];
  const int i = int(at - (low == 0 ? 0 : stage.end[low - 1]));
  const int row = window.row + i / window.columns, column = window.column + i % window.columns;
  stage.from[slot] = source.prepare(first + stage.roi[low], row, column, slot);
}

// Where a value of a staged bin lies. One that does not exist has the place of the last, from where it may be
// loaded: a load that waits for no condition can be on its way with others.
struct StagePlace {
  int slot, lane;
  bool exists;
};

// Deals out the values of `count` bins, for each channel of the block, among its threads, and calls
// visit(place) for kAhead at a time, where place(k) is the k-th. Neighbouring threads take neighbouring
// channels, channels last, or else bins.
template <bool kChannelsLast, typename C, typename Visit>
__device__ __forceinline__ void for_places(int count, int64_t lanes, const Visit& visit) {
  constexpr int kThreads = kTileChannels<C>;
  const int thread = threadIdx.x;
  // Channels last, step i is slot i and lane `thread`; else the other way round.
  const int steps = kChannelsLast ? count : int(min(lanes, int64_t(kThreads)));
  const bool is_busy = thread < (kChannelsLast ? lanes : count);
  for (int first = 0; first < steps && is_busy; first += kAhead) {
    visit([&](int k) {
      const int step = min(first + k, steps - 1);
      return StagePlace{kChannelsLast ? step : thread, kChannelsLast ? thread : step, first + k < steps};
    });
  }
}

// Called by a whole block: all that the RoIs give the tile. `source` knows them:
// - touches(n): whether RoI n may touch the tile;
// - window(n): which of its bins may;
// - prepare(n, row, column, slot): called by one thread for a bin to be added; returns where its gradients
// lie;
// - load(stage, count): called by all, stages what the prepared bins give;
// - add(stage, slot): called by every thread whose channel exists.
template <typename C, typename Source>
__device__ __forceinline__ void add_all(GradientStage<C>& stage, Source& source, int64_t num_rois,
                                        bool is_busy) {
  constexpr int kStage = kTileChannels<C>;
  const int thread = threadIdx.x;
  for (int64_t first = 0; first < num_rois; first += kRound<C>) {
    const int queued = scan_round(stage, source, first, num_rois);
    const int64_t bins = queued == 0 ? 0 : stage.end[queued - 1];
    for (int64_t at = 0; at < bins; at += kStage) {
      const int count = int(min(bins - at, int64_t(kStage)));
      if (thread < count) prepare_bin(stage, source, first, queued, at + thread, thread);
      __syncthreads();
      source.load(stage, count);
      __syncthreads();
      for (int slot = 0; slot < count && is_busy; ++slot) source.add(stage, slot);
      __syncthreads();
    }
  }
}

// Where a block's tile lies in the gradient of one map.
template <typename T>
struct TileOutput {
  T* to;  // the image's [channels, height, width], or channels last
  int64_t channels, height, width;
  int y, x;

  // Writes the cells of one channel: sum(cell) for those on the map.
  template <bool kChannelsLast, typename Sum>
  __device__ __forceinline__ void write(int64_t channel, const Sum& sum) const {
#pragma unroll
    for (int cell = 0; cell < kCells; ++cell) {
      const int64_t row = y + cell / kSide, column = x + cell % kSide;
      if (row >= height || column >= width) continue;
      const int64_t at = row * width + column;
      to[kChannelsLast ? at * channels + channel : channel * height * width + at] = narrow<T>(sum(cell));
    }
  }
};

}  // namespace fastrpn
