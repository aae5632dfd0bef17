// roi_align on CUDA, forward and backward, over one map or the levels of a pyramid.
//
// taps: which cells every bin reads, with what weights (taps_cuda.h).
// forward: a block pools one RoI, a thread one bin for one pack of channels. Channels last: a pack is 16
//   bytes, neighbouring threads take neighbouring packs and a warp reads whole lines. NCHW: a pack is a few
//   planes, neighbouring threads take neighbouring bins. Cost: every cell of every bin's taps is read once.
// backward: as cuda/gradient_tile.h says, over the tiles of all levels at once; a RoI gives a cell of the
//   tile the gradients of the bins that read it, times their weights.
//
// Numerics: sums in float (float64: double), without FMA contraction, in the order of the cells, and
// rounded once. Equal to the CPU kernels bit for bit; they differ from torchvision's, which adds sample by
// sample, by rounding alone.
#include "cuda/gradient_tile.h"
#include "ops/roi_align/roi_align.h"
#include "ops/roi_align/taps_cuda.h"

namespace fastrpn {
namespace {

constexpr int kThreads = 256;

// grid: x over RoIs, y over (bin, pack of channels); in the order of the output.
template <typename T, int kPack, bool kChannelsLast>
__global__ void __launch_bounds__(kThreads)
    roi_align_forward_kernel(RoiAlignArgs args, TapTable<compute_t<T>> taps) {
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
        const T* cell = row + columns.cell[c] * cell_stride;
        const auto pack = load_channels<kPack, kChannelsLast>(cell, plane);
        const C weight = columns.weight[c];
        for (int k = 0; k < kPack; ++k) row_sum[k] += widen(pack.values[k]) * weight;
      }
      for (int k = 0; k < kPack; ++k) sum[k] += row_sum[k] * rows.weight[r];
    }
  }
  Pack<T, kPack> output;
  for (int k = 0; k < kPack; ++k) output.values[k] = narrow<T>(sum[k]);
  const int64_t to =
      kChannelsLast ? (n * (packs * bins) + item) * kPack : n * (packs * kPack * bins) + channel * bins + bin;
  store_channels<kPack, kChannelsLast>(output, static_cast<T*>(args.output) + to, bins);
}

// A staged bin: the weights of its taps in the tile, for the rows and columns of which there is one. A bin
// that has two taps of one cell is not plain, and is looked up again.
template <typename C>
struct alignas(16) AlignBin {
  C row_weight[kSide], column_weight[kSide];
  unsigned rows, columns;  // a bit each
  bool is_plain;
  int ph, pw;
  int64_t n;
};

// What the RoIs give a tile of one map (cuda/gradient_tile.h).
template <typename T, bool kChannelsLast>
struct AlignSource {
  using C = compute_t<T>;
  using Bin = AlignBin<C>;

  const TapTable<C>& taps;
  const T* grads;  // of the block's first channel
  int64_t channels, lanes;
  int map, tile_y, tile_x;
  Bin* bins;  // shared
  C sums[kCells];

  __device__ bool touches(int64_t n) const {
    const CellSpan span = taps.span[n];
    return taps.map[n] == map && touches_tile(span.y_begin, span.y_end, tile_y) &&
           touches_tile(span.x_begin, span.x_end, tile_x);
  }

  static __device__ void touching(const AxisTaps<C>& axis, int count, int low, int* first, int* size) {
    const auto touches = [&](int bin) {
      bool any = false;
      for (int k = axis.first[bin]; k < axis.first[bin + 1]; ++k) any |= is_in_tile(axis.cell[k], low);
      return any;
    };
    touching_bins(count, touches, first, size);
  }
  __device__ BinWindow window(int64_t n) const {
    BinWindow found;
    touching(taps.rows(n), taps.pooled_height, tile_y, &found.row, &found.rows);
    touching(taps.columns(n), taps.pooled_width, tile_x, &found.column, &found.columns);
    return found;
  }

  // The weights of a bin by cell of the tile; false if a cell has two.
  static __device__ bool spread(const AxisTaps<C>& axis, int bin, int low, C* weight, unsigned* cells) {
    bool is_plain = true;
    unsigned found = 0;
    for (int k = axis.first[bin]; k < axis.first[bin + 1]; ++k) {
      const int at = axis.cell[k] - low;
      if (unsigned(at) >= unsigned(kSide)) continue;
      is_plain &= (found >> at & 1) == 0;
      found |= 1u << at;
      weight[at] = axis.weight[k];
    }
    *cells = found;
    return is_plain;
  }
  __device__ int64_t prepare(int64_t n, int ph, int pw, int slot) const {
    Bin& bin = bins[slot];
    bin.is_plain = spread(taps.rows(n), ph, tile_y, bin.row_weight, &bin.rows);
    bin.is_plain &= spread(taps.columns(n), pw, tile_x, bin.column_weight, &bin.columns);
    bin.n = n;
    bin.ph = ph;
    bin.pw = pw;
    const int64_t all = int64_t(taps.pooled_height) * taps.pooled_width;
    return n * channels * all + (ph * taps.pooled_width + pw) * (kChannelsLast ? channels : 1);
  }

  __device__ void load(GradientStage<C>& stage, int count) const {
    const int64_t stride = kChannelsLast ? 1 : int64_t(taps.pooled_height) * taps.pooled_width;
    for_places<kChannelsLast, C>(count, lanes, [&](const auto& place) {
      T grad[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const auto [slot, lane, exists] = place(k);
        grad[k] = grads[stage.from[slot] + lane * stride];
      }
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const auto [slot, lane, exists] = place(k);
        if (exists) stage.grads[slot][lane] = widen(grad[k]);
      }
    });
  }

  __device__ void add(const GradientStage<C>& stage, int slot) {
    const Bin& bin = bins[slot];
    const C grad = stage.grads[slot][threadIdx.x];
    if (!bin.is_plain) return add_tap_by_tap(bin, grad);
#pragma unroll
    for (int dy = 0; dy < kSide; ++dy) {
      if ((bin.rows >> dy & 1) == 0) continue;
      const C weighted = grad * bin.row_weight[dy];
#pragma unroll
      for (int dx = 0; dx < kSide; ++dx) {
        if (bin.columns >> dx & 1) sums[dy * kSide + dx] += weighted * bin.column_weight[dx];
      }
    }
  }
  __device__ void add_tap_by_tap(const Bin& bin, C grad) {
    const AxisTaps<C> rows = taps.rows(bin.n), columns = taps.columns(bin.n);
    for (int r = rows.first[bin.ph]; r < rows.first[bin.ph + 1]; ++r) {
      if (!is_in_tile(rows.cell[r], tile_y)) continue;
      const C weighted = grad * rows.weight[r];
      for (int c = columns.first[bin.pw]; c < columns.first[bin.pw + 1]; ++c) {
        if (!is_in_tile(columns.cell[c], tile_x)) continue;
        const int at = (rows.cell[r] - tile_y) * kSide + columns.cell[c] - tile_x;
#pragma unroll
        for (int cell = 0; cell < kCells; ++cell) {  // so that sums stay in registers
          if (cell == at) sums[cell] += weighted * columns.weight[c];
        }
      }
    }
  }
};

// Where a level's tiles begin in the grid.
struct LevelTiles {
  unsigned first[kMaxRoiLevels + 1];
};

// grid: x over the tiles of all levels, y over groups of channels, z over images.
template <typename T, bool kChannelsLast>
__global__ void __launch_bounds__(kTileChannels<compute_t<T>>)
    roi_align_backward_kernel(RoiAlignBackwardArgs args, TapTable<compute_t<T>> taps, LevelTiles tiles) {
  using C = compute_t<T>;
  __shared__ GradientStage<C> stage;
  __shared__ AlignBin<C> bins[kTileChannels<C>];
  const RoiAlignArgs& forward = args.forward;
  int level = 0;
  while (blockIdx.x >= tiles.first[level + 1]) ++level;
  const int64_t height = forward.levels[level].height, width = forward.levels[level].width;
  const int tiles_x = ceil_div(int(width), kSide), index = int(blockIdx.x - tiles.first[level]);
  const int tile_y = index / tiles_x * kSide, tile_x = index % tiles_x * kSide;
  const int64_t channels = forward.channels, first_channel = int64_t(blockIdx.y) * kTileChannels<C>;
  const int64_t channel = first_channel + threadIdx.x;
  const int64_t roi_bins = int64_t(taps.pooled_height) * taps.pooled_width;
  const T* grads = static_cast<const T*>(args.grad_output) + first_channel * (kChannelsLast ? 1 : roi_bins);
  const int map = int(level * forward.batch + blockIdx.z);
  AlignSource<T, kChannelsLast> source{taps,   grads, channels, channels - first_channel, map, tile_y,
                                       tile_x, bins,  {}};
  add_all(stage, source, forward.num_rois, channel < channels);
  if (channel >= channels) return;
  T* to = static_cast<T*>(args.grad_features[level]) + blockIdx.z * channels * height * width;
  const TileOutput<T> output{to, channels, height, width, tile_y, tile_x};
  output.template write<kChannelsLast>(channel, [&](int cell) { return source.sums[cell]; });
}

template <typename T, int kPack, bool kChannelsLast>
Status launch_roi_align_forward(const RoiAlignArgs& args, const TapTable<compute_t<T>>& taps, Stream stream) {
  const int64_t items = args.channels / kPack * args.pooled_height * args.pooled_width;
  const dim3 grid(unsigned(args.num_rois), unsigned(ceil_div(items, int64_t(kThreads))));
  return FASTRPN_LAUNCH((roi_align_forward_kernel<T, kPack, kChannelsLast>), grid, kThreads, 0, stream, args,
                        taps);
}

int64_t tiles_of_levels(const RoiAlignArgs& forward, LevelTiles* tiles) {
  int64_t count = 0;
  for (int level = 0; level < forward.num_levels; ++level) {
    count += tiles_of(forward.levels[level].height, forward.levels[level].width);
    tiles->first[level + 1] = unsigned(count);
  }
  return count;
}

template <typename T, bool kChannelsLast>
Status launch_roi_align_backward(const RoiAlignBackwardArgs& args, const TapTable<compute_t<T>>& taps,
                                 const LevelTiles& tiles, Stream stream) {
  const RoiAlignArgs& forward = args.forward;
  constexpr int kChannels = kTileChannels<compute_t<T>>;
  const dim3 grid(tiles.first[forward.num_levels], unsigned(ceil_div(forward.channels, int64_t(kChannels))),
                  unsigned(forward.batch));
  if (grid.x == 0) return nullptr;
  return FASTRPN_LAUNCH((roi_align_backward_kernel<T, kChannelsLast>), grid, kChannels, 0, stream, args, taps,
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
    FASTRPN_TRY(launch_roi_align_taps(args, taps, stream));
    if (!args.channels_last) {
      return args.channels % kPlanes == 0 ? launch_roi_align_forward<T, kPlanes, false>(args, taps, stream)
                                          : launch_roi_align_forward<T, 1, false>(args, taps, stream);
    }
    return is_packable(args, kPack) ? launch_roi_align_forward<T, kPack, true>(args, taps, stream)
                                    : launch_roi_align_forward<T, 1, true>(args, taps, stream);
  });
}

size_t roi_align_backward_workspace_bytes(const RoiAlignBackwardArgs& args) {
  return workspace_bytes(args.forward);
}

Status roi_align_backward_cuda(const RoiAlignBackwardArgs& args, void* workspace, Stream stream) {
  const RoiAlignArgs& forward = args.forward;
  if (forward.batch * forward.channels == 0) return nullptr;
  LevelTiles tiles{};
  const int64_t count = tiles_of_levels(forward, &tiles);
  FASTRPN_TRY(
      backward_limits(forward.batch, forward.channels, forward.pooled_height, forward.pooled_width, count));
  return dispatch(forward.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    WorkspaceCursor cursor(workspace);
    const auto taps = lay_out_taps<compute_t<T>>(forward, cursor);
    FASTRPN_TRY(launch_roi_align_taps(forward, taps, stream));
    return forward.channels_last ? launch_roi_align_backward<T, true>(args, taps, tiles, stream)
                                 : launch_roi_align_backward<T, false>(args, taps, tiles, stream);
  });
}

}  // namespace fastrpn
