// What the RoI kernels on the CPU share: RoIs are sorted by the map they read and cut into tiles; for a tile
// the part of the map that its RoIs read is packed channel-minor, a block of channels at a time, so that
// SIMD runs across channels whatever the layout. Included once for each SIMD level.
#pragma once

#include <cstdint>

#include "core/channel_block.h"
#include "core/dtype.h"
#include "core/roi_math.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {
namespace {

constexpr int kBlock = 32;                        // channels packed together
constexpr int64_t kTileRois = 128;                // most RoIs of a tile: packing costs a few percent
constexpr int64_t kTileCells = int64_t(1) << 17;  // most cells packed: 16 MB of floats for each thread

template <typename T, typename Stored>
inline void widen_rois_from(const void* rois, int64_t count, T* to) {
  const Stored* from = static_cast<const Stored*>(rois);
  for (int64_t i = 0; i < 5 * count; ++i) to[i] = T(widen(from[i]));
}

// [count, 5] RoIs in the type the kernel computes in.
template <typename T>
inline void widen_rois(const void* rois, DType dtype, int64_t count, T* to) {
  switch (dtype) {
    case DType::float16:
      return widen_rois_from<T, half_t>(rois, count, to);
    case DType::bfloat16:
      return widen_rois_from<T, bfloat16_t>(rois, count, to);
    case DType::float32:
      return widen_rois_from<T, float>(rois, count, to);
    case DType::float64:
      return widen_rois_from<T, double>(rois, count, to);
  }
}

// Cells of a map: rows [y_begin, y_end), columns [x_begin, x_end).
struct Region {
  int64_t y_begin, y_end, x_begin, x_end;

  bool empty() const { return y_end <= y_begin || x_end <= x_begin; }
  int64_t cells() const { return empty() ? 0 : (y_end - y_begin) * (x_end - x_begin); }
  Region united(const Region& other) const {
    if (empty()) return other;
    if (other.empty()) return *this;
    return {y_begin < other.y_begin ? y_begin : other.y_begin, y_end > other.y_end ? y_end : other.y_end,
            x_begin < other.x_begin ? x_begin : other.x_begin, x_end > other.x_end ? x_end : other.x_end};
  }
};

// RoIs order[begin] to order[end - 1] read map `map`, all within `box`.
struct Tile {
  int64_t map, begin, end;
  Region box;
};

struct Tiling {
  int64_t num_tiles;
  int64_t num_rois;    // that read a map; the rest of `order` takes no part
  int64_t most_cells;  // of any tile's box
};

// Stable counting sort by map, then cutting. map_of: [count], the map a RoI reads or -1; region_of: [count],
// what it reads there; order, tiles: room for `count`.
inline Tiling make_tiles(const int64_t* map_of, const Region* region_of, int64_t count, int64_t maps,
                         int64_t most_rois, int64_t* order, Tile* tiles) {
  Buffer<int64_t> next(maps + 1);
  memset(next, 0, sizeof(int64_t) * size_t(maps + 1));
  for (int64_t n = 0; n < count; ++n) {
    if (map_of[n] >= 0) ++next[map_of[n] + 1];
  }
  for (int64_t map = 0; map < maps; ++map) next[map + 1] += next[map];
  Tiling tiling = {0, next[maps], 0};
  for (int64_t n = 0; n < count; ++n) order[map_of[n] < 0 ? next[maps]++ : next[map_of[n]]++] = n;

  for (int64_t i = 0; i < tiling.num_rois; ++i) {
    const int64_t n = order[i];
    Tile* last = tiles + tiling.num_tiles - 1;
    const bool open = tiling.num_tiles > 0 && last->map == map_of[n] && i - last->begin < most_rois;
    const Region box = open ? last->box.united(region_of[n]) : region_of[n];
    if (open && box.cells() <= kTileCells) {
      *last = {last->map, last->begin, i + 1, box};
    } else {
      *++last = {map_of[n], i, i + 1, region_of[n]};
      ++tiling.num_tiles;
    }
    if (last->box.cells() > tiling.most_cells) tiling.most_cells = last->box.cells();
  }
  return tiling;
}

// How a map of the caller lies in memory; strides in elements.
struct MapLayout {
  int64_t channel, row, cell;
};

// Packs channels [0, channels) of `map` where the tile's RoIs read it: to[cell of the box][kBlock], channels
// beyond `channels` zero. Of each row only the stretch between the leftmost and the rightmost cell read.
// stretch: [2 * height of the box].
template <typename T, typename Stored>
void pack(const Stored* map, MapLayout layout, int64_t channels, const Tile& tile, const int64_t* order,
          const Region* region_of, int64_t* stretch, T* to) {
  const Region& box = tile.box;
  const int64_t height = box.y_end - box.y_begin, width = box.x_end - box.x_begin;
  for (int64_t y = 0; y < height; ++y) {
    stretch[2 * y] = box.x_end;
    stretch[2 * y + 1] = box.x_begin;
  }
  for (int64_t i = tile.begin; i < tile.end; ++i) {
    const Region& region = region_of[order[i]];
    if (region.empty()) continue;
    for (int64_t y = region.y_begin - box.y_begin; y < region.y_end - box.y_begin; ++y) {
      if (region.x_begin < stretch[2 * y]) stretch[2 * y] = region.x_begin;
      if (region.x_end > stretch[2 * y + 1]) stretch[2 * y + 1] = region.x_end;
    }
  }
  for (int64_t y = 0; y < height; ++y) {
    const int64_t x_begin = stretch[2 * y], cells = stretch[2 * y + 1] - x_begin;
    if (cells <= 0) continue;
    const Stored* from = map + (box.y_begin + y) * layout.row + x_begin * layout.cell;
    T* row = to + (y * width + x_begin - box.x_begin) * kBlock;
    if (channels < kBlock) memset(row, 0, size_t(cells) * kBlock * sizeof(T));
    if (layout.channel == 1) {
      for (int64_t x = 0; x < cells; ++x) {
        for (int64_t c = 0; c < channels; ++c) row[x * kBlock + c] = widen(from[x * layout.cell + c]);
      }
    } else {
      transpose(from, layout.channel, channels, cells, row, kBlock);
    }
  }
}

}  // namespace
}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
