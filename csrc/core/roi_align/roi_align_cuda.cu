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

// Whether one of a bin's cells on an axis is in the tile that starts at `low`.
template <typename C>
__device__ __forceinline__ bool bin_touches_tile(const AxisTaps<C>& taps, int bin, int low) {
  for (int k = taps.first[bin]; k < taps.first[bin + 1]; ++k) {
    if (unsigned(taps.cell[k] - low) < unsigned(kTile)) return true;
  }
  return false;
}

// Where a level's tiles begin in the grid.
struct Tiles {
  unsigned first[kMaxRoiLevels + 1];
};

// grid: x over the tiles of all levels, y over groups of channels, z over images.
template <typename T, bool kChannelsLast>
__global__ void __launch_bounds__(kTileChannels<compute_t<T>>)
    backward_kernel(RoiAlignBackwardArgs args, Taps<compute_t<T>> taps, Tiles tiles) {
  using C = compute_t<T>;
  __shared__ GradientTile<C> tile;
  const RoiAlignArgs& forward = args.forward;
  int level = 0;
  while (blockIdx.x >= tiles.first[level + 1]) ++level;
  const int height = int(forward.levels[level].height), width = int(forward.levels[level].width);
  const int tiles_x = ceil_div(width, kTile), index = int(blockIdx.x - tiles.first[level]);
  const int tile_y = index / tiles_x * kTile, tile_x = index % tiles_x * kTile;
  const int map = int(level * forward.batch + blockIdx.z);
  const int64_t first_channel = int64_t(blockIdx.y) * kTileChannels<C>;
  const int64_t channels = forward.channels, channel = first_channel + threadIdx.x;
  const int64_t bins = int64_t(taps.pooled_height) * taps.pooled_width;

  const auto is_touching = [&](int64_t n) {
    if (taps.map[n] != map) return false;
    const AxisTaps<C> rows = taps.rows(n), columns = taps.columns(n);
    return touches_tile(*rows.begin, *rows.end, tile_y) && touches_tile(*columns.begin, *columns.end, tile_x);
  };
  const auto add = [&](int64_t n) {
    const AxisTaps<C> rows = taps.rows(n), columns = taps.columns(n);
    const T* grads = static_cast<const T*>(args.grad_output) + n * channels * bins +
                     (kChannelsLast ? channel : channel * bins);
    for (int ph = 0; ph < taps.pooled_height; ++ph) {
      if (!bin_touches_tile(rows, ph, tile_y)) continue;
      for (int pw = 0; pw < taps.pooled_width; ++pw) {
        if (!bin_touches_tile(columns, pw, tile_x)) continue;
        const C grad = widen(grads[(ph * taps.pooled_width + pw) * (kChannelsLast ? channels : 1)]);
        for (int r = rows.first[ph]; r < rows.first[ph + 1]; ++r) {
          const int dy = rows.cell[r] - tile_y;
          if (unsigned(dy) >= unsigned(kTile)) continue;
          const C weighted = grad * rows.weight[r];
          for (int c = columns.first[pw]; c < columns.first[pw + 1]; ++c) {
            const int dx = columns.cell[c] - tile_x;
            if (unsigned(dx) >= unsigned(kTile)) continue;
            tile.sums[dy * kTile + dx][threadIdx.x] += weighted * columns.weight[c];
          }
        }
      }
    }
  };
  for_touching_rois(tile, forward.num_rois, channel < channels, is_touching, add);
  T* to = static_cast<T*>(args.grad_features[level]) + blockIdx.z * channels * height * width;
  write_tile<kChannelsLast>(tile, tile_y, tile_x, first_channel, channels, height, width, to);
}

template <typename T, int kPack, bool kChannelsLast>
Status launch_forward(const RoiAlignArgs& args, const Taps<compute_t<T>>& taps, Stream stream) {
  const int64_t items = args.channels / kPack * args.pooled_height * args.pooled_width;
  const dim3 grid(unsigned(args.num_rois), unsigned(ceil_div(items, int64_t(kThreads))));
  return FASTRPN_LAUNCH((forward_kernel<T, kPack, kChannelsLast>), grid, kThreads, 0, stream, args, taps);
}

template <typename T, bool kChannelsLast>
Status launch_backward(const RoiAlignBackwardArgs& args, const Taps<compute_t<T>>& taps, Stream stream) {
  const RoiAlignArgs& forward = args.forward;
  Tiles tiles{};
  for (int level = 0; level < forward.num_levels; ++level) {
    tiles.first[level + 1] =
        tiles.first[level] + unsigned(tiles_of(forward.levels[level].height, forward.levels[level].width));
  }
  constexpr int kChannels = kTileChannels<compute_t<T>>;
  const dim3 grid(tiles.first[forward.num_levels], unsigned(ceil_div(forward.channels, int64_t(kChannels))),
                  unsigned(forward.batch));
  if (grid.x == 0) return nullptr;
  return FASTRPN_LAUNCH((backward_kernel<T, kChannelsLast>), grid, kChannels, 0, stream, args, taps, tiles);
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
  int64_t tiles = 0;
  for (int level = 0; level < forward.num_levels; ++level) {
    tiles += tiles_of(forward.levels[level].height, forward.levels[level].width);
  }
  FASTRPN_TRY(
      backward_limits(forward.batch, forward.channels, forward.pooled_height, forward.pooled_width, tiles));
  return dispatch(forward.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    WorkspaceCursor cursor(workspace);
    const auto taps = lay_out_taps<compute_t<T>>(forward, cursor);
    FASTRPN_TRY(launch_taps(forward, taps, stream));
    return forward.channels_last ? launch_backward<T, true>(args, taps, stream)
                                 : launch_backward<T, false>(args, taps, stream);
  });
}

}  // namespace fastrpn
