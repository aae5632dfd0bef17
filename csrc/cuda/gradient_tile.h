// Who owns what in the backward of the RoI operators on CUDA (gradient_stage.h).
//
// A warp owns a tile of kSide x kSide cells for 32 channels, a lane one channel of it. A block has two to
// eight neighbouring tiles of the same channels, and reads each gradient once for all of them.
//
// Blocks are as large as leaves kGradientBlocks of them. Large ones read less: at 2,000 RoIs of 7 x 7 on
// 200 x 272 cells a gradient of roi_pool is read 5.0 times by tiles of 4 x 4 and 2.1 times by 8 x 16, on
// 38 x 50 cells 1.5 and 1.2 times; in NCHW they also use more of each sector of 32 bytes. Small ones spread:
// on 38 x 50 cells a tile in the middle has many times the bins of one at the edge, and of an H100's
// multiprocessors the busiest would have 2.7 times the mean to do with 8 x 16, 1.2 times with 4 x 8.
#pragma once

#include "cuda/roi.h"

namespace fastrpn {

constexpr int kSide = 4;
constexpr int kCells = kSide * kSide;
constexpr int kTileChannels = kChannelsOfBlock;
constexpr int kMostRows = 2, kMostColumns = 4;  // of warps in a block
constexpr int kMostWarps = kMostRows * kMostColumns;
constexpr int kLeastWarps = 4;             // those of them that own no tile help to load
constexpr int64_t kGradientBlocks = 1024;  // that a launch should have: eight a multiprocessor

// How a block's warps lie, and so its tile.
struct TileShape {
  int rows, columns;

  FASTRPN_HD_MEMBER int warps() const { return rows * columns; }
  FASTRPN_HD_MEMBER int threads() const { return 32 * max(warps(), kLeastWarps); }
  FASTRPN_HD_MEMBER int height() const { return rows * kSide; }
  FASTRPN_HD_MEMBER int width() const { return columns * kSide; }
  int64_t tiles(int64_t map_height, int64_t map_width) const {
    return ceil_div(map_height, int64_t(height())) * ceil_div(map_width, int64_t(width()));
  }
};

// The largest of which there are blocks enough. tiles(shape): of an image, on all its levels.
template <typename Tiles>
TileShape choose_shape(int64_t batch, int64_t channels, const Tiles& tiles) {
  const int64_t copies = batch * ceil_div(channels, int64_t(kTileChannels));
  for (const TileShape shape : {TileShape{kMostRows, kMostColumns}, TileShape{2, 2}}) {
    if (tiles(shape) * copies >= kGradientBlocks) return shape;
  }
  return {1, 2};
}

// Why a backward of that size cannot be launched, or null. `tiles`: of an image, on all its levels.
inline Status backward_limits(int64_t batch, int64_t channels, int64_t num_rois, int64_t pooled_height,
                              int64_t pooled_width, int64_t tiles) {
  if (batch > kMaxGridYZ) return "more than 65535 images";
  if (tiles > kMaxGridX) return "more than 2^38 cells of an image";
  return roi_limits(channels, num_rois, pooled_height, pooled_width);
}

// What a block owns, and in it the calling thread.
struct GradientTile {
  TileShape shape;
  int map, height, width;     // level * batch + image, and its size
  int y, x;                   // the first cell
  int warp_y, warp_x;         // that of the thread's warp, counted from there
  int64_t channels, channel;  // of the map, and the first of the block's
  int lanes;                  // how many it has

  // The `index`-th tile of a map, and the `group`-th kTileChannels of its channels.
  __device__ GradientTile(TileShape shape, int map, int64_t height, int64_t width, int64_t channels,
                          int index, int group)
      : shape(shape), map(map), height(int(height)), width(int(width)), channels(channels) {
    const int across = ceil_div(this->width, shape.width());
    y = index / across * shape.height();
    x = index % across * shape.width();
    warp_y = int(threadIdx.x) / 32 / shape.columns * kSide;
    warp_x = int(threadIdx.x) / 32 % shape.columns * kSide;
    channel = int64_t(group) * kTileChannels;
    lanes = int(min(channels - channel, int64_t(kTileChannels)));
  }

  // Whether the thread's warp owns a tile.
  __device__ bool owns() const { return warp_y < shape.height(); }

  // Writes the thread's cells to `to`, the gradient of an image: sum(row, column) of those on the map,
  // counted from the warp's first.
  template <bool kChannelsLast, typename T, typename Sum>
  __device__ __forceinline__ void write(T* to, const Sum& sum) const {
    const int lane = threadIdx.x % 32;
    if (!owns() || lane >= lanes) return;
    const int64_t first_row = y + warp_y, first_column = x + warp_x;
    const int64_t cell_stride = kChannelsLast ? channels : 1, row_stride = width * cell_stride;
    to += (channel + lane) * (kChannelsLast ? 1 : height * row_stride);
    to += first_row * row_stride + first_column * cell_stride;
#pragma unroll
    for (int row = 0; row < kSide; ++row) {
      if (first_row + row >= height) continue;
#pragma unroll
      for (int column = 0; column < kSide; ++column) {
        if (first_column + column >= width) continue;
        to[row * row_stride + column * cell_stride] = narrow<T>(sum(row, column));
      }
    }
  }
};

}  // namespace fastrpn
