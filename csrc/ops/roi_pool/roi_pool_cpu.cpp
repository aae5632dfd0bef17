// roi_pool on the CPU: SIMD across channels.
//
// A bin's maximum is taken for a block of channels at once. A map that is channels last is read where it
// lies; of any other the part that a tile of RoIs reads is packed first (cpu/roi_tiles.h), and the pooled
// block is transposed into the output. Work: channels * (cells in bins + cells packed); a tile packs at most
// the map, and never more than its RoIs cover.
//
// Threads own (tile, block) pairs, or RoIs of a channels-last map; no result depends on the split.
// Numerics: each maximum takes its cells in raster order with `>`, as torchvision does: the first of equals
// wins, NaN never does. A maximum is exact in every type.
#include "cpu/roi_tiles.h"
#include "math/dispatch.h"
#include "ops/roi_pool/roi_pool.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {
namespace {

// Borders of a RoI's bins: rows [y_begin[ph], y_end[ph]), columns [x_begin[pw], x_end[pw]).
struct Bins {
  int64_t pooled_height, pooled_width;
  const int32_t *y_begin, *y_end, *x_begin, *x_end;

  Bins(const RoiPoolArgs& args, const int32_t* borders)
      : pooled_height(args.pooled_height),
        pooled_width(args.pooled_width),
        y_begin(borders),
        y_end(y_begin + pooled_height),
        x_begin(y_end + pooled_height),
        x_end(x_begin + pooled_width) {}
};

// Borders of all RoIs, the image each reads (-1: none) and the part of it.
template <typename T>
void plan(const RoiPoolArgs& args, int32_t* borders, int64_t* image_of, CellBox* region_of) {
  const int64_t ph = args.pooled_height, pw = args.pooled_width;
  Buffer<T> rois(5 * args.num_rois);
  widen_rois(args.rois, args.roi_dtype, args.num_rois, rois.data());
  for (int64_t n = 0; n < args.num_rois; ++n, borders += 2 * (ph + pw)) {
    const T* roi = rois.data() + 5 * n;
    image_of[n] = roi_image(roi, args.batch);
    if (image_of[n] < 0) continue;
    const auto fill = [&](T low, T high, int64_t size, int64_t pooled, int32_t* to) {
      const PoolAxis<T> axis = pool_axis(low, high, T(args.spatial_scale), pooled);
      for (int64_t i = 0; i < pooled; ++i) {
        int64_t begin, end;
        pool_bin(axis, i, size, &begin, &end);
        to[i] = int32_t(begin);
        to[pooled + i] = int32_t(end);
      }
    };
    fill(roi[2], roi[4], args.height, ph, borders);
    fill(roi[1], roi[3], args.width, pw, borders + 2 * ph);
    const Bins bins(args, borders);
    region_of[n] = {bins.y_begin[0], bins.y_end[ph - 1], bins.x_begin[0], bins.x_end[pw - 1]};
  }
}

// Indices in the lanes that load_widened gave the values.
template <typename T, typename Memory, int kCount>
inline void store_indices(const IndexVec<T> (&indices)[kCount], int32_t* to) {
  for (int k = 0; k < kCount; ++k) {
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      to[place_of_lane<kCount, Memory>(k, lane)] = int32_t(indices[k][lane]);
    }
  }
}

// A bin, cells [y_begin, y_end) x [x_begin, x_end), for kCount vectors of channels. A bin of NaNs only gives
// `lowest`.
template <int kCount, bool kArgmax, typename T, typename Memory>
FASTRPN_HOST void pool_bin(Cells<const Memory> cells, int64_t y_begin, int64_t y_end, int64_t x_begin,
                           int64_t x_end, int64_t width, T lowest, Memory* output, int32_t* argmax) {
  using Index = IndexVec<T>;
  const bool empty = y_end <= y_begin || x_end <= x_begin;
  Vec<T> best[kCount];
  Index at[kCount];
  for (int k = 0; k < kCount; ++k) {
    best[k] = splat(empty ? T(0) : lowest);
    at[k] = Index{} - 1;
  }
  for (int64_t y = y_begin; y < y_end; ++y) {
    const Memory* cell = cells.at(y, x_begin);
    for (int64_t x = x_begin; x < x_end; ++x, cell += cells.cell) {
      Vec<T> values[kCount];
      load_widened(cell, values);
      for (int k = 0; k < kCount; ++k) {
        if (kArgmax) at[k] = values[k] > best[k] ? Index{} + int32_t(y * width + x) : at[k];
        best[k] = values[k] > best[k] ? values[k] : best[k];
      }
    }
  }
  store_rounded(best, output);
  if (kArgmax) store_indices<T, Memory>(at, argmax);
}

// All bins of a RoI for `channels` channels, whole vectors; outputs: [bins][channels]. Bins outside, so that
// a cell's channels are read in one go: the map may lie far away in memory.
template <bool kArgmax, typename T, typename Memory>
FASTRPN_HOST void pool_bins(Cells<const Memory> cells, const Bins& bins, int64_t width, int64_t channels,
                            T lowest, Memory* output, int32_t* argmax) {
  constexpr int64_t kStep = kVectors<T> * kLanes<T>;
  for (int64_t ph = 0; ph < bins.pooled_height; ++ph) {
    for (int64_t pw = 0; pw < bins.pooled_width; ++pw) {
      const auto pool = [&](auto vectors, int64_t c) {
        pool_bin<decltype(vectors)::value, kArgmax, T>(
            cells.from_channel(c), bins.y_begin[ph], bins.y_end[ph], bins.x_begin[pw], bins.x_end[pw], width,
            lowest, output + c, kArgmax ? argmax + c : nullptr);
      };
      int64_t c = 0;
      for (; c + kStep <= channels; c += kStep) pool(Count<kVectors<T>>(), c);
      for (; c < channels; c += kLanes<T>) pool(Count<1>(), c);
      output += channels;
      if (kArgmax) argmax += channels;
    }
  }
}

// A single channel, any layout: for RoIs too large to pack.
template <typename T, typename Stored>
void pool_plainly(Cells<const Stored> cells, const Bins& bins, int64_t width, Stored* output, int32_t* argmax,
                  int64_t stride) {
  for (int64_t ph = 0; ph < bins.pooled_height; ++ph) {
    for (int64_t pw = 0; pw < bins.pooled_width; ++pw, output += stride) {
      const bool empty = bins.y_end[ph] <= bins.y_begin[ph] || bins.x_end[pw] <= bins.x_begin[pw];
      T best = empty ? T(0) : T(kLowest<Stored>);
      int32_t at = -1;
      for (int64_t y = bins.y_begin[ph]; y < bins.y_end[ph]; ++y) {
        for (int64_t x = bins.x_begin[pw]; x < bins.x_end[pw]; ++x) {
          const T value = widen(*cells.at(y, x));
          if (value > best) {
            best = value;
            at = int32_t(y * width + x);
          }
        }
      }
      *output = narrow<Stored>(best);
      if (argmax != nullptr) {
        *argmax = at;
        argmax += stride;
      }
    }
  }
}

// Everything that is fixed for one call.
template <typename T, typename Stored>
struct Call {
  const RoiPoolArgs& args;
  const MapLayout map_layout = MapLayout::of(args.channels, args.height, args.width, args.channels_last);
  const PooledLayout pooled = {args.channels, args.pooled_height * args.pooled_width, args.channels_last};
  const int64_t borders_of_a_roi = 2 * (args.pooled_height + args.pooled_width);
  Buffer<int32_t> borders{args.num_rois * borders_of_a_roi};
  Buffer<int64_t> image_of{args.num_rois};
  Buffer<CellBox> region_of{args.num_rois};

  explicit Call(const RoiPoolArgs& args) : args(args) {
    plan<T>(args, borders.data(), image_of.data(), region_of.data());
  }

  Bins bins_of(int64_t n) const { return Bins(args, borders.data() + n * borders_of_a_roi); }
  const Stored* map(int64_t image, int64_t channel) const {
    return static_cast<const Stored*>(args.features) + image * args.channels * args.height * args.width +
           channel * map_layout.channel;
  }
  Stored* output(int64_t offset) const { return static_cast<Stored*>(args.output) + offset; }
  int32_t* argmax(int64_t offset) const { return args.argmax == nullptr ? nullptr : args.argmax + offset; }

  void clear(int64_t n) const {
    const size_t size = size_t(pooled.roi_size());
    memset(static_cast<void*>(output(pooled.offset(n, 0))), 0, size * sizeof(Stored));
    if (args.argmax != nullptr) memset(argmax(pooled.offset(n, 0)), 0xff, size * sizeof(int32_t));
  }
};

template <typename T, typename Stored, bool kArgmax>
void pool_packed(const Call<T, Stored>& call, const ParallelFor& parallel_for) {
  const RoiPoolArgs& args = call.args;
  const PooledLayout& layout = call.pooled;
  const Tiling tiling(call.image_of.data(), call.region_of.data(), args.num_rois, args.batch,
                      fair_tile(args.num_rois, args.channels, parallel_for), kTileCells);
  for (int64_t i = tiling.num_active; i < args.num_rois; ++i) call.clear(tiling.order[i]);

  const auto pool_plain = [&](int64_t n, int64_t image, int64_t channel, int64_t channels) {
    for (int64_t c = channel; c < channel + channels; ++c) {
      const int64_t to = layout.offset(n, c);
      pool_plainly<T, Stored>({call.map(image, c), 0, call.map_layout.row, call.map_layout.cell},
                              call.bins_of(n), args.width, call.output(to), call.argmax(to),
                              layout.bin_stride());
    }
  };
  const auto pool_tile = [&](const Tile& tile, int64_t channel, int64_t channels, Cells<const T> cells) {
    if (!tile.packable()) return pool_plain(tiling.order[tile.begin], tile.map, channel, channels);
    Buffer<T> block(layout.bins * kBlock);
    Buffer<int32_t> argmax(kArgmax ? layout.bins * kBlock : 0);
    for (int64_t i = tile.begin; i < tile.end; ++i) {
      const int64_t n = tiling.order[i], to = layout.offset(n, channel);
      pool_bins<kArgmax>(cells, call.bins_of(n), args.width, kBlock, T(kLowest<Stored>), block.data(),
                         argmax.data());
      place(block.data(), channels, layout, call.output(to));
      if (kArgmax) place(argmax.data(), channels, layout, call.argmax(to));
    }
  };
  for_each_block<T>(
      tiling, call.region_of.data(), args.channels, parallel_for,
      [&](int64_t image, int64_t channel) { return call.map(image, channel); },
      [&](int64_t) { return call.map_layout; }, pool_tile);
}

// Channels last: features are read and results written in place.
template <typename T, typename Stored, bool kArgmax>
void pool_in_place(const Call<T, Stored>& call, const ParallelFor& parallel_for) {
  const RoiPoolArgs& args = call.args;
  parallel_for(args.num_rois, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      if (call.image_of[n] < 0) {
        call.clear(n);
        continue;
      }
      const int64_t to = call.pooled.offset(n, 0);
      const Cells<const Stored> cells = {call.map(call.image_of[n], 0), 0, call.map_layout.row,
                                         call.map_layout.cell};
      pool_bins<kArgmax>(cells, call.bins_of(n), args.width, args.channels, T(kLowest<Stored>),
                         call.output(to), call.argmax(to));
    }
  });
}

template <typename T, typename Stored, bool kArgmax>
void pool(const RoiPoolArgs& args, const ParallelFor& parallel_for) {
  const Call<T, Stored> call(args);
  if (args.channels_last && args.channels % kLanes<T> == 0) {
    return pool_in_place<T, Stored, kArgmax>(call, parallel_for);
  }
  pool_packed<T, Stored, kArgmax>(call, parallel_for);
}

template <typename Stored>
void pool(const RoiPoolArgs& args, const ParallelFor& parallel_for) {
  using T = compute_t<Stored>;
  args.argmax == nullptr ? pool<T, Stored, false>(args, parallel_for)
                         : pool<T, Stored, true>(args, parallel_for);
}

}  // namespace

void roi_pool_cpu(const RoiPoolArgs& args, const ParallelFor& all_threads) {
  const int64_t elements = args.num_rois * args.channels * args.pooled_height * args.pooled_width;
  const ParallelFor parallel_for = threads_for(elements, all_threads);
  dispatch(args.dtype, [&](auto tag) { pool<typename decltype(tag)::type>(args, parallel_for); });
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
