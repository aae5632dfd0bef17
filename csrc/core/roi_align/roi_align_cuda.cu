// roi_align on CUDA, forward and backward, over one map or the levels of a pyramid.
//
// taps: which cells every bin reads, with what weights (roi_align_taps.h).
// forward: a block pools one RoI, a thread one bin for one pack of channels. Channels last: a pack is 16
//   bytes, neighbouring threads take neighbouring packs and a warp reads whole lines. NCHW: neighbouring
//   threads take neighbouring bins of one channel. Cost: every cell of every bin's taps is read once.
// backward: as core/gradient_tile.h says, over the tiles of all levels at once; a RoI gives a cell of the
//   tile the gradients of the bins that read it, times their weights.
//
// Numerics: sums in float (float64: double), without FMA contraction, in the order of the cells, and
// rounded once. Equal to the CPU kernels bit for bit; they differ from torchvision's, which adds sample by
// sample, by rounding alone.
#include "core/gradient_tile.h"
#include "core/roi_align/roi_align.h"
#include "core/roi_align/roi_align_taps.h"

namespace fastrpn {
namespace {

constexpr int kThreads = 256;

// grid: x over RoIs, y over (bin, pack of channels); in the order of the output.
template <typename T, int kPack, bool kChannelsLast>
__global__ void __launch_bounds__(kThreads) forward_kernel(RoiAlignArgs args, Taps<compute_t<T>> taps) {
  using C = compute_t<T>;
  const int64_t n = blockIdx.x;
  const int bins = taps.pooled_height * taps.pooled_width;
  const int packs = int(args.channels) / kPack;
  const int item = int(blockIdx.y) * kThreads + int(threadIdx.x);
  if (item >= packs * bins) return;
  const int bin = kChannelsLast ? item / packs : item % bins;
  const int64_t channel = (kChannelsLast ? item % packs : item / bins) * kPack;

  C sum[kPack] = {};
  const int map = taps.map[n];
  if (map >= 0) {
    const int batch = int(args.batch);
    const RoiAlignLevel& level = args.levels[map / batch];
    const int64_t cell_stride = kChannelsLast ? args.channels : 1;
    const int64_t plane = level.height * level.width;
    const T* features = static_cast<const T*>(level.features) + map % batch * args.channels * plane +
                        channel * (kChannelsLast ? 1 : plane);
    const AxisTaps<C> rows = taps.rows(n), columns = taps.columns(n);
    const int ph = bin / taps.pooled_width, pw = bin % taps.pooled_width;
    const int first_column = columns.first[pw], last_column = columns.first[pw + 1];
    for (int r = rows.first[ph]; r < rows.first[ph + 1]; ++r) {
      const T* row = features + rows.cell[r] * level.width * cell_stride;
      C row_sum[kPack] = {};
      for (int c = first_column; c < last_column; ++c) {
        const auto pack = *reinterpret_cast<const Pack<T, kPack>*>(row + columns.cell[c] * cell_stride);
        const C weight = columns.weight[c];
        for (int k = 0; k < kPack; ++k) row_sum[k] += widen(pack.values[k]) * weight;
      }
      for (int k = 0; k < kPack; ++k) sum[k] += row_sum[k] * rows.weight[r];
    }
  }
  Pack<T, kPack> output;
  for (int k = 0; k < kPack; ++k) output.values[k] = narrow<T>(sum[k]);
  static_cast<Pack<T, kPack>*>(args.output)[n * (packs * bins) + item] = output;
}

// Where a level's tiles begin in the grid.
struct Tiles {
  unsigned first[kMaxRoiLevels + 1];
};

// What the RoIs give a tile of one map (core/gradient_tile.h).
template <typename T, int kSide, bool kChannelsLast>
struct AlignSource {
  using C = compute_t<T>;
  using Tile = GradientTile<C, kSide>;
  // Of a staged bin, on both axes: its taps from the first to the last that is in the tile.
  struct Bin {
    int64_t taps;
    int row_begin, row_end, column_begin, column_end;
  };

  const Taps<C>& taps;
  const T* grads;  // of the block's first channel
  int64_t channels, lanes;
  int map, tile_y, tile_x;
  Bin* bins;  // [kStage], shared

  __device__ bool touches(int64_t n) const {
    if (taps.map[n] != map) return false;
    const AxisTaps<C> rows = taps.rows(n), columns = taps.columns(n);
    return touches_tile<kSide>(*rows.begin, *rows.end, tile_y) &&
           touches_tile<kSide>(*columns.begin, *columns.end, tile_x);
  }
  static __device__ bool is_inside(int cell, int low) { return unsigned(cell - low) < unsigned(kSide); }

  // The taps of a bin on an axis from the first to the last in the tile; none: begin == end.
  static __device__ void clip(const AxisTaps<C>& axis, int bin, int low, int* begin, int* end) {
    *begin = axis.first[bin];
    *end = axis.first[bin + 1];
    while (*begin < *end && !is_inside(axis.cell[*begin], low)) ++*begin;
    while (*end > *begin && !is_inside(axis.cell[*end - 1], low)) --*end;
  }
  static __device__ void touching(const AxisTaps<C>& axis, int count, int low, int* first, int* size) {
    const auto touches = [&](int bin) {
      int begin, end;
      clip(axis, bin, low, &begin, &end);
      return begin < end;
    };
    touching_bins(count, touches, first, size);
  }
  __device__ BinWindow window(int64_t n) const {
    BinWindow found;
    touching(taps.rows(n), taps.pooled_height, tile_y, &found.row, &found.rows);
    touching(taps.columns(n), taps.pooled_width, tile_x, &found.column, &found.columns);
    return found;
  }

  __device__ int64_t prepare(int64_t n, int ph, int pw, int slot) {
    Bin& bin = bins[slot];
    bin.taps = n * (taps.most_rows + taps.most_columns);
    clip(taps.rows(n), ph, tile_y, &bin.row_begin, &bin.row_end);
    clip(taps.columns(n), pw, tile_x, &bin.column_begin, &bin.column_end);
    const int64_t all = int64_t(taps.pooled_height) * taps.pooled_width;
    return n * channels * all + (ph * taps.pooled_width + pw) * (kChannelsLast ? channels : 1);
  }

  __device__ void stage(Tile& tile, int count) const {
    const int64_t all = int64_t(taps.pooled_height) * taps.pooled_width;
    load_stage<kChannelsLast>(tile, count, grads, kChannelsLast ? 1 : all, lanes,
                              [&](int slot, int lane, T value) { tile.grads[slot][lane] = widen(value); });
  }

  __device__ void add(Tile& tile, int slot) const {
    const Bin bin = bins[slot];
    const int32_t* row_cell = taps.cell + bin.taps;
    const C* row_weight = taps.weight + bin.taps;
    const int32_t* column_cell = row_cell + taps.most_rows;
    const C* column_weight = row_weight + taps.most_rows;
    const C grad = tile.grads[slot][threadIdx.x];
    for (int r = bin.row_begin; r < bin.row_end; ++r) {
      const int dy = row_cell[r] - tile_y;
      if (unsigned(dy) >= unsigned(kSide)) continue;
      const C weighted = grad * row_weight[r];
      for (int c = bin.column_begin; c < bin.column_end; ++c) {
        const int dx = column_cell[c] - tile_x;
        if (unsigned(dx) >= unsigned(kSide)) continue;
        tile.sums[dy * kSide + dx][threadIdx.x] += weighted * column_weight[c];
      }
    }
  }
};

// grid: x over the tiles of all levels, y over groups of channels, z over images.
template <typename T, int kSide, bool kChannelsLast>
__global__ void __launch_bounds__(kTileChannels<compute_t<T>>)
    backward_kernel(RoiAlignBackwardArgs args, Taps<compute_t<T>> taps, Tiles tiles) {
  using C = compute_t<T>;
  using Source = AlignSource<T, kSide, kChannelsLast>;
  __shared__ GradientTile<C, kSide> tile;
  __shared__ typename Source::Bin bins[kStage];
  const RoiAlignArgs& forward = args.forward;
  int level = 0;
  while (blockIdx.x >= tiles.first[level + 1]) ++level;
  const int height = int(forward.levels[level].height), width = int(forward.levels[level].width);
  const int tiles_x = ceil_div(width, kSide), index = int(blockIdx.x - tiles.first[level]);
  const int tile_y = index / tiles_x * kSide, tile_x = index % tiles_x * kSide;
  if (threadIdx.x == 0) {
    tile.y = tile_y;
    tile.x = tile_x;
  }
  const int64_t first_channel = int64_t(blockIdx.y) * kTileChannels<C>, channels = forward.channels;
  const int64_t roi_bins = int64_t(taps.pooled_height) * taps.pooled_width;
  const T* grads = static_cast<const T*>(args.grad_output) + first_channel * (kChannelsLast ? 1 : roi_bins);
  Source source{taps,   grads,  channels, channels - first_channel, int(level * forward.batch + blockIdx.z),
                tile_y, tile_x, bins};
  sum_tile(tile, source, forward.num_rois, int64_t(threadIdx.x) < source.lanes);
  T* to = static_cast<T*>(args.grad_features[level]) + blockIdx.z * channels * height * width;
  write_tile<kChannelsLast>(tile, first_channel, channels, height, width, to);
}

template <typename T, int kPack, bool kChannelsLast>
Status launch_forward(const RoiAlignArgs& args, const Taps<compute_t<T>>& taps, Stream stream) {
  const int64_t items = args.channels / kPack * args.pooled_height * args.pooled_width;
  const dim3 grid(unsigned(args.num_rois), unsigned(ceil_div(items, int64_t(kThreads))));
  return FASTRPN_LAUNCH((forward_kernel<T, kPack, kChannelsLast>), grid, kThreads, 0, stream, args, taps);
}

int64_t tiles_of_levels(const RoiAlignArgs& forward, int side, Tiles* tiles) {
  int64_t count = 0;
  for (int level = 0; level < forward.num_levels; ++level) {
    count += tiles_of(forward.levels[level].height, forward.levels[level].width, side);
    tiles->first[level + 1] = unsigned(count);
  }
  return count;
}

template <typename T, int kSide, bool kChannelsLast>
Status launch_backward(const RoiAlignBackwardArgs& args, const Taps<compute_t<T>>& taps, Stream stream) {
  const RoiAlignArgs& forward = args.forward;
  Tiles tiles{};
  const int64_t count = tiles_of_levels(forward, kSide, &tiles);
  if (count == 0) return nullptr;
  constexpr int kChannels = kTileChannels<compute_t<T>>;
  const dim3 grid(unsigned(count), unsigned(ceil_div(forward.channels, int64_t(kChannels))),
                  unsigned(forward.batch));
  return FASTRPN_LAUNCH((backward_kernel<T, kSide, kChannelsLast>), grid, kChannels, 0, stream, args, taps,
                        tiles);
}

// Whether packs of 16 bytes may be read and written.
bool is_packable(const RoiAlignArgs& args, int64_t pack) {
  const auto is_aligned = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  bool packable = args.channels % pack == 0 && is_aligned(args.output);
  for (int level = 0; level < args.num_levels; ++level) packable &= is_aligned(args.levels[level].features);
  return packable;
}

size_t workspace_bytes(const RoiAlignArgs& args) {
  WorkspaceCursor cursor(nullptr);
  args.dtype == DType::float64 ? (void)lay_out_taps<double>(args, cursor)
                               : (void)lay_out_taps<float>(args, cursor);
  return cursor.bytes();
}

}  // namespace

size_t roi_align_workspace_bytes(const RoiAlignArgs& args) { return workspace_bytes(args); }

Status roi_align_cuda(const RoiAlignArgs& args, void* workspace, Stream stream) {
  const int64_t roi_size = args.channels * args.pooled_height * args.pooled_width;
  if (args.num_rois * roi_size == 0) return nullptr;
  if (args.num_rois > kMaxGridX) return "roi_align: 2^31 RoIs or more";
  if (ceil_div(roi_size, int64_t(kThreads)) > kMaxGridYZ)
    return "roi_align: more than 16776960 outputs for a RoI";
  return dispatch(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int kPack = 16 / sizeof(T);
    WorkspaceCursor cursor(workspace);
    const auto taps = lay_out_taps<compute_t<T>>(args, cursor);
    FASTRPN_TRY(launch_taps(args, taps, stream));
    if (!args.channels_last) return launch_forward<T, 1, false>(args, taps, stream);
    return is_packable(args, kPack) ? launch_forward<T, kPack, true>(args, taps, stream)
                                    : launch_forward<T, 1, true>(args, taps, stream);
  });
}

size_t roi_align_backward_workspace_bytes(const RoiAlignBackwardArgs& args) {
  return workspace_bytes(args.forward);
}

Status roi_align_backward_cuda(const RoiAlignBackwardArgs& args, void* workspace, Stream stream) {
  const RoiAlignArgs& forward = args.forward;
  if (forward.batch * forward.channels == 0) return nullptr;
  Tiles tiles{};
  const int64_t count = tiles_of_levels(forward, kLargeSide, &tiles);
  FASTRPN_TRY(
      backward_limits(forward.batch, forward.channels, forward.pooled_height, forward.pooled_width, count));
  return dispatch(forward.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    WorkspaceCursor cursor(workspace);
    const auto taps = lay_out_taps<compute_t<T>>(forward, cursor);
    FASTRPN_TRY(launch_taps(forward, taps, stream));
    if (wants_small_tiles<compute_t<T>>(forward.batch, forward.channels, count)) {
      return forward.channels_last ? launch_backward<T, kSmallSide, true>(args, taps, stream)
                                   : launch_backward<T, kSmallSide, false>(args, taps, stream);
    }
    return forward.channels_last ? launch_backward<T, kLargeSide, true>(args, taps, stream)
                                 : launch_backward<T, kLargeSide, false>(args, taps, stream);
  });
}

}  // namespace fastrpn
