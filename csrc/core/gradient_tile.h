// The deterministic backward of both RoI operators on CUDA: every element of the gradient has one owner, so
// there are no atomics, and the sum is always in RoI order.
//
// A block owns a tile of kTile x kTile cells for some channels, in shared memory; a thread owns one channel
// of it. The block finds the RoIs that touch the tile, a round of one RoI a thread at a time; then each
// thread walks over them in order, adds what they give its channel, and in the end the tile is written once.
#pragma once

#include "core/cuda_runtime.h"

namespace fastrpn {

constexpr int kTile = 8;
constexpr int64_t kMostBins = 1 << 24;  // of a RoI; forward has no larger ones
constexpr int kTileBytes = 32 << 10;    // shared memory of a tile

// Channels, and threads, of a block that sums in type C.
template <typename C>
constexpr int kTileChannels = kTileBytes / (kTile * kTile * int(sizeof(C)));

template <typename C>
struct GradientTile {
  // A column more than there are channels: the threads that write NCHW read down a column, and would all
  // meet in one bank of the memory.
  C sums[kTile * kTile][kTileChannels<C> + 1];
  unsigned touching[kTileChannels<C> / 32];  // RoIs of this round, a bit each
};

// Whether the cells [begin, end) of an axis reach into the tile that starts at `low`.
__device__ __forceinline__ bool touches_tile(int begin, int end, int low) {
  return begin < low + kTile && end > low;
}

inline int64_t tiles_of(int64_t height, int64_t width) {
  return ceil_div(height, int64_t(kTile)) * ceil_div(width, int64_t(kTile));
}

// Why a backward of that size cannot be launched, or null. `tiles`: of an image, on all its levels.
inline Status backward_limits(int64_t batch, int64_t channels, int64_t pooled_height, int64_t pooled_width,
                              int64_t tiles) {
  if (batch > kMaxGridYZ) return "more than 65535 images";
  if (channels > kMaxGridYZ * kTileChannels<double>) return "more than 4194240 channels";
  if (max(pooled_height, pooled_width) > kMostBins || pooled_height * pooled_width > kMostBins)
    return "more than 2^24 bins of a RoI";
  if (tiles > kMaxGridX) return "more than 2^37 cells of an image";
  return nullptr;
}

// Called by a whole block: calls is_touching(n) once for every RoI, by some thread, and then, by every thread
// with `is_busy` and in ascending order, add(n) for those that touch.
template <typename C, typename IsTouching, typename Add>
__device__ __forceinline__ void for_touching_rois(GradientTile<C>& tile, int64_t num_rois, bool is_busy,
                                                  const IsTouching& is_touching, const Add& add) {
  constexpr int kRound = kTileChannels<C>;
  const int thread = threadIdx.x;
  for (int cell = 0; cell < kTile * kTile; ++cell) tile.sums[cell][thread] = C(0);
  __syncthreads();  // other threads write the tile, even where there is no RoI
  for (int64_t first = 0; first < num_rois; first += kRound) {
    const int64_t mine = first + thread;
    const unsigned ballot = __ballot_sync(0xffffffffu, mine < num_rois && is_touching(mine));
    if (thread % 32 == 0) tile.touching[thread / 32] = ballot;
    __syncthreads();
    for (int word = 0; word < kRound / 32 && is_busy; ++word) {
      for (unsigned bits = tile.touching[word]; bits != 0; bits &= bits - 1) {
        add(first + word * 32 + __ffs(int(bits)) - 1);
      }
    }
    __syncthreads();
  }
}

// Called by a whole block when all is summed. `to` is the image's [channels, height, width], or channels
// last: neighbouring threads write neighbouring channels then, else neighbouring cells.
template <bool kChannelsLast, typename T, typename C>
__device__ __forceinline__ void write_tile(const GradientTile<C>& tile, int tile_y, int tile_x,
                                           int64_t first_channel, int64_t channels, int64_t height,
                                           int64_t width, T* to) {
  constexpr int kCells = kTile * kTile, kChannels = kTileChannels<C>;
  for (int i = threadIdx.x; i < kCells * kChannels; i += kChannels) {
    const int cell = kChannelsLast ? i / kChannels : i % kCells;
    const int lane = kChannelsLast ? i % kChannels : i / kCells;
    const int64_t y = tile_y + cell / kTile, x = tile_x + cell % kTile;
    const int64_t channel = first_channel + lane;
    if (y >= height || x >= width || channel >= channels) continue;
    const int64_t at = y * width + x;
    to[kChannelsLast ? at * channels + channel : channel * height * width + at] =
        narrow<T>(tile.sums[cell][lane]);
  }
}

}  // namespace fastrpn
