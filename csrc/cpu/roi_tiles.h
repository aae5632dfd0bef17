// What the RoI kernels on the CPU share. RoIs are sorted by the map they read (image, level) and cut into
// tiles. For a tile, the part of the map that its RoIs read is packed channel-minor, a block of channels at
// a time, so that SIMD runs across channels whatever the layout. Included once for each SIMD level.
#pragma once

#include <cstdint>

#include "cpu/buffer.h"
#include "cpu/parallel.h"
#include "cpu/transpose.h"
#include "cpu/vector.h"
#include "math/dtype.h"
#include "math/roi.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {
namespace {

constexpr int kBlock = kVectorBytes;              // channels packed together: four vectors of floats
constexpr int64_t kTileRois = 512;                // most RoIs of a tile: packing costs them a few percent
constexpr int64_t kMostCells = int64_t(1) << 17;  // most cells packed: more are read where they lie, slowly
constexpr int64_t kPackedCells = (int64_t(1) << 22) / kBlock;  // 16 MB of floats a thread
// Of several RoIs; a tile that is too large to pack has one alone.
constexpr int64_t kTileCells = kPackedCells < kMostCells ? kPackedCells : kMostCells;

// Vectors of a block that are worked on together; more would not fit the registers.
template <typename T>
constexpr int kVectors = kBlock / kLanes<T> < 4 ? kBlock / kLanes<T> : 4;

// A number of vectors, as a type.
template <int kValue>
struct Count {
  static constexpr int value = kValue;
};

// How far apart neighbours lie in memory, in elements.
struct MapLayout {
  int64_t channel, row, cell;

  static MapLayout of(int64_t channels, int64_t height, int64_t width, bool channels_last) {
    return channels_last ? MapLayout{1, width * channels, channels} : MapLayout{height * width, width, 1};
  }
};

// The layout of [num_rois, channels, bins], or channels last: [num_rois, bins, channels].
struct PooledLayout {
  int64_t channels, bins;
  bool channels_last;

  int64_t roi_size() const { return channels * bins; }
  int64_t bin_stride() const { return channels_last ? channels : 1; }
  int64_t offset(int64_t n, int64_t channel) const {
    return n * roi_size() + channel * (channels_last ? 1 : bins);
  }
};

// Cells of a map: rows [y_begin, y_end), columns [x_begin, x_end).
struct CellBox {
  int64_t y_begin, y_end, x_begin, x_end;

  bool empty() const { return y_end <= y_begin || x_end <= x_begin; }
  int64_t width() const { return x_end - x_begin; }
  int64_t cells() const { return empty() ? 0 : (y_end - y_begin) * width(); }
  CellBox united(const CellBox& other) const {
    if (empty()) return other;
    if (other.empty()) return *this;
    return {y_begin < other.y_begin ? y_begin : other.y_begin, y_end > other.y_end ? y_end : other.y_end,
            x_begin < other.x_begin ? x_begin : other.x_begin, x_end > other.x_end ? x_end : other.x_end};
  }
};

// Channels of a map or of a part of it, readable as cell(y, x)[channel]. Cell (0, 0) would have the index
// `start`, which is negative where the part begins further on: an index may be, a pointer may not.
template <typename T>
struct Cells {
  T* memory;
  int64_t start, row, cell;

  // A box of cells that lie `cell` elements apart, its rows one after the other.
  static Cells of_box(T* memory, const CellBox& box, int64_t cell) {
    const int64_t row = box.width() * cell;
    return {memory, -(box.y_begin * row + box.x_begin * cell), row, cell};
  }
  T* at(int64_t y, int64_t x) const { return memory + (start + y * row + x * cell); }
  Cells from_channel(int64_t channel) const { return {memory, start + channel, row, cell}; }
};

// RoIs order[begin] to order[end - 1] read map `map`, all within `box`.
struct Tile {
  int64_t map, begin, end;
  CellBox box;

  bool packable() const { return box.cells() <= kMostCells; }
};

// All RoIs in the order in which they are worked on.
struct Tiling {
  Buffer<int64_t> order;
  Buffer<Tile> tiles;
  int64_t num_tiles = 0;
  int64_t num_active = 0;  // the rest of `order` reads no map

  // map_of: [count], the map a RoI reads or -1; region_of: [count], what it reads there. A tile has at most
  // `most_rois` RoIs and, unless a RoI alone is larger, at most `most_cells` cells. Stable counting sort,
  // then cutting: O(count + maps).
  Tiling(const int64_t* map_of, const CellBox* region_of, int64_t count, int64_t maps, int64_t most_rois,
         int64_t most_cells)
      : order(count), tiles(count) {
    Buffer<int64_t> next(maps + 1);
    memset(next.data(), 0, sizeof(int64_t) * size_t(maps + 1));
    for (int64_t n = 0; n < count; ++n) {
      if (map_of[n] >= 0) ++next[map_of[n] + 1];
    }
    for (int64_t map = 0; map < maps; ++map) next[map + 1] += next[map];
    num_active = next[maps];
    for (int64_t n = 0; n < count; ++n) order[map_of[n] < 0 ? next[maps]++ : next[map_of[n]]++] = n;

    for (int64_t i = 0; i < num_active; ++i) {
      const int64_t map = map_of[order[i]];
      const CellBox& region = region_of[order[i]];
      if (num_tiles > 0) {
        Tile& last = tiles[num_tiles - 1];
        const CellBox box = last.box.united(region);
        if (last.map == map && i - last.begin < most_rois && box.cells() <= most_cells) {
          last = {map, last.begin, i + 1, box};
          continue;
        }
      }
      tiles[num_tiles++] = {map, i, i + 1, region};
    }
  }
};

// [count, 5] RoIs in the type the kernel computes in.
template <typename T>
inline void widen_rois(const void* rois, DType dtype, int64_t count, T* to) {
  for (int64_t i = 0; i < 5 * count; ++i) to[i] = widen_at<T>(rois, dtype, i);
}

// The stretch of each row of a tile's box that its RoIs touch: [2 * height of the box], begin and end.
inline void find_stretches(const Tile& tile, const int64_t* order, const CellBox* region_of,
                           int64_t* stretches) {
  const CellBox& box = tile.box;
  for (int64_t y = 0; y < box.y_end - box.y_begin; ++y) {
    stretches[2 * y] = box.x_end;
    stretches[2 * y + 1] = box.x_begin;
  }
  for (int64_t i = tile.begin; i < tile.end; ++i) {
    const CellBox& region = region_of[order[i]];
    if (region.empty()) continue;
    for (int64_t y = region.y_begin - box.y_begin; y < region.y_end - box.y_begin; ++y) {
      if (region.x_begin < stretches[2 * y]) stretches[2 * y] = region.x_begin;
      if (region.x_end > stretches[2 * y + 1]) stretches[2 * y + 1] = region.x_end;
    }
  }
}

// Packs `channels` channels of a map where the tile's RoIs read it, into [cell of the box][kBlock]; channels
// beyond are zero. `map` points at the first of the channels.
template <typename T, typename Stored>
Cells<const T> pack(const Stored* map, MapLayout layout, int64_t channels, const Tile& tile,
                    const int64_t* stretches, T* to) {
  const CellBox& box = tile.box;
  const auto packed = Cells<T>::of_box(to, box, kBlock);
  for (int64_t y = box.y_begin; y < box.y_end; ++y, stretches += 2) {
    const int64_t x_begin = stretches[0], count = stretches[1] - x_begin;
    if (count <= 0) continue;
    const Stored* from = map + y * layout.row + x_begin * layout.cell;
    T* cells = packed.at(y, x_begin);
    if (channels < kBlock) memset(cells, 0, size_t(count) * kBlock * sizeof(T));
    if (layout.channel != 1) {
      transpose(from, layout.channel, channels, count, cells, kBlock);
      continue;
    }
    for (int64_t x = 0; x < count; ++x) convert(from + x * layout.cell, channels, cells + x * kBlock);
  }
  return {to, packed.start, packed.row, packed.cell};
}

// Moves a pooled block, [bins][kBlock], into an output that is not channels last. Some channels at a time are
// transposed beside it and copied: a processor need not read memory that a copy overwrites line by line, as
// it does before the scattered stores of a transposition. Half types, of half the bytes, lose by it.
template <typename To, typename From>
void place_planes(const From* block, int64_t channels, int64_t bins, To* to) {
  constexpr int64_t kRoom =
      6400 / int64_t(sizeof(To));  // 32 channels of 7 x 7 floats; more would leave the L1
  const int64_t most = kIsHalf<To> ? 0 : kRoom / bins / kSquare * kSquare;
  if (most == 0) return transpose(block, kBlock, bins, channels, to, bins);
  To planes[kRoom];
  for (int64_t c = 0; c < channels; c += most) {
    const int64_t count = channels - c < most ? channels - c : most;
    transpose(block + c, kBlock, bins, count, planes, bins);
    memcpy(static_cast<void*>(to + c * bins), planes, size_t(count * bins) * sizeof(To));
  }
}

// Moves a pooled block, [bins][kBlock], to its place in the output, `to` being its first element.
template <typename To, typename From>
void place(const From* block, int64_t channels, const PooledLayout& layout, To* to) {
  if (!layout.channels_last) return place_planes(block, channels, layout.bins, to);
  for (int64_t bin = 0; bin < layout.bins; ++bin)
    convert(block + bin * kBlock, channels, to + bin * layout.channels);
}

// The way back: a block of a pooled tensor as [bins][kBlock]. Channels beyond are left as they are.
template <typename To, typename From>
void take(const From* from, int64_t channels, const PooledLayout& layout, To* block) {
  if (!layout.channels_last) return transpose(from, layout.bins, channels, layout.bins, block, kBlock);
  for (int64_t bin = 0; bin < layout.bins; ++bin)
    convert(from + bin * layout.channels, channels, block + bin * kBlock);
}

// Most RoIs of a tile such that every thread gets some.
inline int64_t fair_tile(int64_t num_rois, int64_t channels, const ParallelFor& parallel_for) {
  const int64_t blocks = (channels + kBlock - 1) / kBlock;
  const int64_t share = num_rois * blocks / (2 * parallel_for.num_threads) + 1;
  return share < kTileRois ? share : kTileRois;
}

// Calls visit(tile, channel, channels, cells) for each tile and block of channels, on many threads. cells
// are the packed features, with null memory if the tile is too large to pack.
// map_at(map, channel) points at a channel of a map, layout_of(map) says how it lies.
template <typename T, typename MapAt, typename LayoutOf, typename Visit>
void for_each_block(const Tiling& tiling, const CellBox* region_of, int64_t all_channels,
                    const ParallelFor& parallel_for, const MapAt& map_at, const LayoutOf& layout_of,
                    const Visit& visit) {
  const int64_t blocks = (all_channels + kBlock - 1) / kBlock;
  int64_t cells = 0, rows = 0;
  for (int64_t i = 0; i < tiling.num_tiles; ++i) {
    const Tile& tile = tiling.tiles[i];
    if (!tile.packable()) continue;
    if (tile.box.cells() > cells) cells = tile.box.cells();
    if (tile.box.y_end - tile.box.y_begin > rows) rows = tile.box.y_end - tile.box.y_begin;
  }
  parallel_for(tiling.num_tiles * blocks, 1, [&](int64_t begin, int64_t end) {
    Buffer<T> packed(cells * kBlock);
    Buffer<int64_t> stretches(2 * rows);
    for (int64_t unit = begin; unit < end; ++unit) {
      const Tile& tile = tiling.tiles[unit / blocks];
      const int64_t channel = unit % blocks * kBlock;
      const int64_t channels = all_channels - channel < kBlock ? all_channels - channel : kBlock;
      Cells<const T> source = {};
      if (tile.packable()) {
        find_stretches(tile, tiling.order.data(), region_of, stretches.data());
        source = pack(map_at(tile.map, channel), layout_of(tile.map), channels, tile, stretches.data(),
                      packed.data());
      }
      visit(tile, channel, channels, source);
    }
  });
}

}  // namespace
}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
