// The deterministic backward of both RoI operators on CUDA: every element of the gradient has one owner, so
// there are no atomics, and the sum is always in RoI order, bin after bin. gradient_tile.h says who owns
// what. A block works in rounds:
//
// - scan: the threads find the map's RoIs that touch the block's tile and queue them in order.
// - count: which of their bins touch it; where each RoI's bins end in the row of all.
// - prepare: a thread for each of the next kStage bins looks it up and finds the warps it concerns.
// - stage: their gradients are loaded side by side, whatever the layout, many loads in flight.
// - add: each lane adds to its channel what the bins that touch its warp's tile give, kTurns at a time.
//
// Cost: each gradient is read once by every block's tile that its bin touches; a block tests every RoI of its
// map (rois_by_map.h).
#pragma once

#include "cuda/gradient_tile.h"
#include "cuda/rois_by_map.h"

namespace fastrpn {

constexpr int kScan = 4;                         // RoIs a thread looks at between two barriers
constexpr int kQueue = kScan * 32 * kMostWarps;  // RoIs that wait
constexpr int kGroup = 64;                       // of which so many have their bins counted at once
constexpr int kTurns = 4;                        // bins that a warp adds at once
// Of blocks that sum in type C. Bins staged at once:
template <typename C>
constexpr int kStage = 256 / int(sizeof(C));
// Loads of a thread in flight, of each array:
template <typename C>
constexpr int kAhead = 32 / int(sizeof(C));
// The largest that a multiprocessor should hold, which leaves 80 registers a thread, or 128:
template <typename C>
constexpr int kBlocksAtOnce = sizeof(C) == sizeof(float) ? 3 : 2;

// The bins of a RoI that may touch a tile: rows [row, row + rows) and columns [column, column + columns).
struct alignas(16) BinWindow {
  int row, column, rows, columns;
};

template <typename C>
struct GradientStage {
  // The last row stands for no bin. A column more than there are channels, so that threads that write down a
  // column do not all meet in one bank.
  C grads[kStage<C> + 1][kTileChannels + 1];
  int64_t from[kStage<C>];  // where a staged bin's values of the block's channels begin
  Pack<uint8_t, kTurns> turns[kMostWarps][kStage<C> / kTurns];  // of each warp: its bins, in order
  uint8_t warps[kStage<C>];                                     // that a staged bin concerns, a bit each
  BinWindow window[kGroup];
  int end[kGroup];  // bins up to and with those of the group's i-th RoI
  int queue[kQueue];
  int found[kScan * kMostWarps];  // how many of 32 RoIs the scan found
};

// Whether the cells [begin, end) of an axis reach into [low, low + size).
__device__ __forceinline__ bool reaches(int begin, int end, int low, int size) {
  return begin < low + size && end > low;
}

// The sum of `value` over the lanes of a warp up to the calling one.
__device__ __forceinline__ int sum_up_to_lane(int value) {
  const int lane = threadIdx.x % 32;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(kAllLanes, value, step);
    if (lane >= step) value += other;
  }
  return value;
}

// Queues those RoIs of the next places that touch the tile, behind the `queued` first; returns how many there
// are. Places of up to 2^31 RoIs and of what a block looks at beyond fit 32 bits.
template <typename C>
__device__ __forceinline__ int scan_rois(GradientStage<C>& stage, const RoisByMap& rois,
                                         const GradientTile& tile, unsigned first, unsigned end, int queued) {
  static_assert(kScan * kMostWarps <= 32, "a lane each");
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const auto place = [&](int k) { return first + unsigned((k * warps + warp) * 32 + lane); };
  bool mine[kScan];
#pragma unroll
  for (int k = 0; k < kScan; ++k) {
    // Loads that wait for no condition are on their way together.
    const CellSpan span = rois.span[min(place(k), end - 1)];
    mine[k] = reaches(span.y_begin, span.y_end, tile.y, tile.shape.height()) &&
              reaches(span.x_begin, span.x_end, tile.x, tile.shape.width());
  }
  unsigned ballot[kScan];
#pragma unroll
  for (int k = 0; k < kScan; ++k) {
    ballot[k] = __ballot_sync(kAllLanes, mine[k] && place(k) < end);
    if (lane == 0) stage.found[k * warps + warp] = __popc(ballot[k]);
  }
  __syncthreads();
  const int found = lane < kScan * warps ? stage.found[lane] : 0;
  const int up_to = sum_up_to_lane(found);
#pragma unroll
  for (int k = 0; k < kScan; ++k) {
    const int before = __shfl_sync(kAllLanes, up_to - found, k * warps + warp);
    if (ballot[k] >> lane & 1) {
      stage.queue[queued + before + __popc(ballot[k] & ((1u << lane) - 1))] = rois.roi_at(place(k));
    }
  }
  __syncthreads();
  return queued + __shfl_sync(kAllLanes, up_to, 31);
}

// The bins of an axis from the first to the last that reaches into [low, low + size).
__device__ __forceinline__ void find_window(const int32_t* begins, int count, int low, int size, int* first,
                                            int* number) {
  int begin = count, end = 0;
  for (int bin = 0; bin < count; ++bin) {
    if (!reaches(begins[bin], begins[count + bin], low, size)) continue;
    begin = min(begin, bin);
    end = bin + 1;
  }
  *first = begin;
  *number = max(end - begin, 0);
}

// Counts the bins of up to kGroup RoIs of the queue that touch the tile; returns how many there are.
template <typename C>
__device__ __forceinline__ int count_bins(GradientStage<C>& stage, const BinTable& bins,
                                          const GradientTile& tile, int group, int queued) {
  constexpr int kEach = kGroup / 32;
  const int lane = threadIdx.x;
  static_assert(kGroup <= 32 * kLeastWarps, "a thread each");
  if (const int i = threadIdx.x; i < kGroup) {
    BinWindow window = {};
    if (group + i < queued) {
      const int n = stage.queue[group + i];
      find_window(bins.rows(n), bins.pooled_height, tile.y, tile.shape.height(), &window.row, &window.rows);
      find_window(bins.columns(n), bins.pooled_width, tile.x, tile.shape.width(), &window.column,
                  &window.columns);
    }
    stage.window[i] = window;
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    int sums[kEach], total = 0;
    for (int k = 0; k < kEach; ++k) {
      const BinWindow& window = stage.window[lane * kEach + k];
      sums[k] = total += window.rows * window.columns;
    }
    const int before = sum_up_to_lane(total) - total;
    for (int k = 0; k < kEach; ++k) stage.end[lane * kEach + k] = before + sums[k];
  }
  __syncthreads();
  return stage.end[kGroup - 1];
}

// The warps along an axis into whose tiles the cells [begin, end) reach, a bit each; the block's begins at
// `low` and is `size` long.
__device__ __forceinline__ unsigned warps_of(int begin, int end, int low, int size) {
  const int first = max(begin - low, 0) / kSide, last = (min(end - low, size) + kSide - 1) / kSide;
  return first < last ? (1u << last) - (1u << first) : 0;
}

// Looks up bin `at` of the group, for the stage's place `slot`.
template <bool kChannelsLast, typename C, typename Source>
__device__ __forceinline__ void prepare_bin(GradientStage<C>& stage, const BinTable& bins,
                                            const GradientTile& tile, const Source& source, int group, int at,
                                            int slot) {
  int i = 0;  // the RoI: the first whose end is beyond
#pragma unroll
  for (int step = kGroup / 2; step > 0; step /= 2) {
    if (stage.end[i + step - 1] <= at) i += step;
  }
  const BinWindow window = stage.window[i];
  if (i > 0) at -= stage.end[i - 1];
  const int row = window.row + at / window.columns, column = window.column + at % window.columns;
  const int64_t n = stage.queue[group + i];
  const int32_t *y = bins.rows(n) + row, *x = bins.columns(n) + column;
  const unsigned rows = warps_of(y[0], y[bins.pooled_height], tile.y, tile.shape.height());
  const unsigned columns = warps_of(x[0], x[bins.pooled_width], tile.x, tile.shape.width());
  unsigned warps = 0;
#pragma unroll
  for (int r = 0; r < kMostRows; ++r) {
    if (rows >> r & 1) warps |= columns << r * tile.shape.columns;
  }
  stage.warps[slot] = uint8_t(warps);
  const int64_t all = int64_t(bins.pooled_height) * bins.pooled_width, bin = row * bins.pooled_width + column;
  stage.from[slot] = kChannelsLast ? (n * all + bin) * tile.channels + tile.channel
                                   : (n * tile.channels + tile.channel) * all + bin;
  source.prepare(n, row, column, slot);
}

// Lists the staged bins that touch the calling warp's tile; returns how many there are. Behind them lie so
// many of none that they can be taken kTurns at a time.
template <typename C>
__device__ __forceinline__ int list_turns(GradientStage<C>& stage) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint8_t* turns = stage.turns[warp][0].values;
  int count = 0;
#pragma unroll
  for (int word = 0; word < kStage<C> / 32; ++word) {
    const bool mine = stage.warps[32 * word + lane] >> warp & 1;
    const unsigned bits = __ballot_sync(kAllLanes, mine);
    if (mine) turns[count + __popc(bits & ((1u << lane) - 1))] = uint8_t(32 * word + lane);
    count += __popc(bits);
  }
  if (count + lane < (count + kTurns - 1) / kTurns * kTurns) turns[count + lane] = uint8_t(kStage<C>);
  return count;
}

// Deals out the values of the staged bins, for each of the block's channels, among its threads, and calls
// visit(slot, lane) for kAhead at a time, where slot(k) and lane(k) are those of the k-th. Neighbouring
// threads take neighbouring channels, channels last, or else bins. No load waits for a condition, so that all
// are on their way together: a place where there is no bin stands for one that may be loaded.
template <bool kChannelsLast, typename C, typename Visit>
__device__ __forceinline__ void for_places(int count, const Visit& visit) {
  // Channels last, step i is slot i and the thread's lane; else the other way round.
  constexpr int kAcross = kChannelsLast ? kTileChannels : kStage<C>;
  static_assert(kStage<C> * kTileChannels % (32 * kMostWarps * kAhead<C>) == 0, "threads have equal shares");
  const int across = threadIdx.x % kAcross;
  const int steps = kChannelsLast ? count : across < count ? kTileChannels : 0;
#pragma unroll 1
  for (int first = threadIdx.x / kAcross * kAhead<C>; first < steps;
       first += blockDim.x / kAcross * kAhead<C>) {
    const auto step = [&](int k) { return first + k; };
    const auto same = [&](int) { return across; };
    if constexpr (kChannelsLast) {
      visit(step, same);
    } else {
      visit(same, step);
    }
  }
}

// Called by a whole block: all that the RoIs give the tile. `source` knows them:
// - prepare(n, row, column, slot): called by one thread for a bin to be added;
// - load(stage, count): called by all, stages what the prepared bins give;
// - add(stage, turn): called by all, adds kTurns staged bins to what the thread owns.
template <bool kChannelsLast, typename C, typename Source>
__device__ __forceinline__ void add_all(GradientStage<C>& stage, const BinTable& bins, const RoisByMap& rois,
                                        const GradientTile& tile, Source& source) {
  const int threads = tile.shape.threads(), warp = threadIdx.x / 32;
  const MapRois of_map = rois.of_map(tile.map);
  for (unsigned next = of_map.begin; next < of_map.end;) {
    int queued = 0;
    for (; next < of_map.end && queued + kScan * threads <= kQueue; next += kScan * threads) {
      queued = scan_rois(stage, rois, tile, next, of_map.end, queued);
    }
    for (int group = 0; group < queued; group += kGroup) {
      const int all = count_bins(stage, bins, tile, group, queued);
      for (int at = 0; at < all; at += kStage<C>) {
        const int count = min(all - at, kStage<C>);
        static_assert(kStage<C> <= 32 * kLeastWarps, "a thread each");
        if (const int slot = threadIdx.x; slot < count) {
          prepare_bin<kChannelsLast>(stage, bins, tile, source, group, at + slot, slot);
        } else if (slot < kStage<C>) {
          stage.warps[slot] = 0;
          stage.from[slot] = 0;  // a place that may be loaded
        }
        __syncthreads();
        const int turns = list_turns(stage);
        source.load(stage, count);
        __syncthreads();
#pragma unroll 1
        for (int turn = 0; turn * kTurns < turns; ++turn) source.add(stage, stage.turns[warp][turn]);
        __syncthreads();
      }
    }
  }
}

}  // namespace fastrpn
