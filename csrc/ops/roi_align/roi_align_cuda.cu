// roi_align on CUDA, forward and backward, over one map or the levels of a pyramid.
//
// forward: as cuda/roi_forward.h says. A block finds the taps of its RoI first, or one kernel those of all
//   RoIs before (taps_cuda.h). Cost: every cell of every bin's taps is read once.
// backward: as cuda/gradient_stage.h says, over the tiles of all levels at once; a RoI gives a cell the
//   gradients of the bins that read it, times their weights. Sums are in registers.
//
// Numerics: sums in float (float64: double), without FMA contraction, in the order of the cells, and
// rounded once. Equal to the CPU kernels bit for bit; they differ from torchvision's, which adds sample by
// sample, by rounding alone.
#include "cuda/gradient_stage.h"
#include "ops/roi_align/bins_cuda.h"
#include "ops/roi_align/roi_align.h"
#include "ops/roi_align/taps_cuda.h"

namespace fastrpn {
namespace {

// The block finds its RoI's taps.
template <typename T, int kPack, bool kChannelsLast>
__global__ void __launch_bounds__(kForwardThreads, kForwardBlocksAtOnce)
    roi_align_forward_kernel(RoiAlignArgs args, int slice) {
  using C = compute_t<T>;
  FASTRPN_DYNAMIC_SHARED(Tap<C>, taps);
  const int rows = int(args.pooled_height), bins = rows + int(args.pooled_width);
  const int most = 2 * int(args.sampling_ratio);
  const BlockTaps<C> block = {taps, reinterpret_cast<int*>(taps + bins * most), most};
  const PlacedRoi<C> roi(args, blockIdx.x);
  if (roi.map >= 0) find_block_taps(args, roi, block);
  __syncthreads();
  align_bins<kPack, kChannelsLast, T>(args, slice, roi.map, block, block.behind(rows));
}

// They are in the table.
template <typename T, int kPack, bool kChannelsLast>
__global__ void __launch_bounds__(kForwardThreads, kForwardBlocksAtOnce)
    roi_align_table_kernel(RoiAlignArgs args, int slice, TapTable<compute_t<T>> table) {
  const int64_t n = blockIdx.x;
  align_bins<kPack, kChannelsLast, T>(args, slice, table.bins.map[n], table.rows(n), table.columns(n));
}

// A staged bin: the weights of its taps in the block's tile, for the rows and columns of which there is one.
template <typename C>
struct AlignBin {
  Pack<C, kSide> row_weight[kMostRows], column_weight[kMostColumns];
  unsigned rows, columns;  // a bit each
};

// What the RoIs give a tile of one map (cuda/gradient_stage.h).
template <typename T, bool kChannelsLast>
struct AlignSource {
  using C = compute_t<T>;

  const GradientTile& tile;
  const TapTable<C>& taps;
  const T* grads;
  int channel_stride;
  AlignBin<C>* bins;  // [slot], shared
  C sums[kCells];

  // The weights of a bin by cell of the tile, which begins at `low`; returns which cells have one.
  static __device__ unsigned spread(const AxisTaps<C>& axis, int bin, int low, int size, C* weight) {
    unsigned found = 0;
    const Tap<C>* const end = axis.end(bin);
    for (const Tap<C>* tap = axis.begin(bin); tap < end; ++tap) {
      const int at = tap->cell - low;
      if (unsigned(at) >= unsigned(size)) continue;
      found |= 1u << at;
      weight[at] = tap->weight;
    }
    return found;
  }
  __device__ void prepare(int64_t n, int row, int column, int slot) const {
    AlignBin<C>& bin = bins[slot];
    bin.rows = spread(taps.rows(n), row, tile.y, tile.shape.height(), bin.row_weight[0].values);
    bin.columns = spread(taps.columns(n), column, tile.x, tile.shape.width(), bin.column_weight[0].values);
  }

  __device__ void load(GradientStage<C>& stage, int count) const {
    for_places<kChannelsLast, C>(count, [&](const auto& slot, const auto& lane) {
      T grad[kAhead<C>];
#pragma unroll
      for (int k = 0; k < kAhead<C>; ++k) {
        grad[k] = grads[stage.from[slot(k)] + min(lane(k), tile.lanes - 1) * channel_stride];
      }
#pragma unroll
      for (int k = 0; k < kAhead<C>; ++k) stage.grads[slot(k)][lane(k)] = widen(grad[k]);
    });
  }

  __device__ void add(const GradientStage<C>& stage, Pack<uint8_t, kTurns> turn) {
#pragma unroll
    for (int k = 0; k < kTurns; ++k) {
      const AlignBin<C>& bin = bins[turn.values[k]];
      const C grad = stage.grads[turn.values[k]][threadIdx.x % 32];
      const unsigned rows = bin.rows >> tile.warp_y, columns = bin.columns >> tile.warp_x;
      const auto row_weight = bin.row_weight[tile.warp_y / kSide];
      const auto column_weight = bin.column_weight[tile.warp_x / kSide];
#pragma unroll
      for (int dy = 0; dy < kSide; ++dy) {
        if ((rows >> dy & 1) == 0) continue;
        const C weighted = grad * row_weight.values[dy];
#pragma unroll
        for (int dx = 0; dx < kSide; ++dx) {
          if (columns >> dx & 1) sums[dy * kSide + dx] += weighted * column_weight.values[dx];
        }
      }
    }
  }
};

// Where a level's tiles begin in the grid; behind the last level all tiles lie before.
struct LevelTiles {
  unsigned first[kMaxRoiLevels + 1];
};

// grid: x over the tiles of all levels, y over groups of channels, z over images.
template <typename T, bool kChannelsLast>
__global__ void __launch_bounds__(32 * kMostWarps, kBlocksAtOnce<compute_t<T>>)
    roi_align_backward_kernel(RoiAlignBackwardArgs args, TapTable<compute_t<T>> taps, RoisByMap rois,
                              LevelTiles tiles, TileShape shape) {
  using C = compute_t<T>;
  __shared__ GradientStage<C> stage;
  __shared__ AlignBin<C> staged[kStage<C> + 1];
  const RoiAlignArgs& forward = args.forward;
  int level = 0;
  unsigned first = 0;
#pragma unroll
  for (int i = 1; i < kMaxRoiLevels; ++i) {
    if (blockIdx.x < tiles.first[i]) continue;
    level = i;
    first = tiles.first[i];
  }
  const int64_t height = forward.levels[level].height, width = forward.levels[level].width;
  const int map = int(level * forward.batch + blockIdx.z);
  const GradientTile tile(shape, map, height, width, forward.channels, int(blockIdx.x - first),
                          int(blockIdx.y));
  const int channel_stride = kChannelsLast ? 1 : taps.bins.pooled_height * taps.bins.pooled_width;
  AlignSource<T, kChannelsLast> source{tile,           taps,   static_cast<const T*>(args.grad_output),
                                       channel_stride, staged, {}};
  if (threadIdx.x == 0) staged[kStage<C>].rows = 0;
  add_all<kChannelsLast>(stage, taps.bins, rois, tile, source);
  T* to = static_cast<T*>(args.grad_features[level]) + blockIdx.z * forward.channels * height * width;
  tile.write<kChannelsLast>(to, [&](int row, int column) { return source.sums[row * kSide + column]; });
}

template <typename T, int kPack, bool kChannelsLast>
Status launch_roi_align_forward(const RoiAlignArgs& args, void* workspace, Stream stream) {
  using C = compute_t<T>;
  const RoiBlocks blocks =
      roi_blocks(args.num_rois, args.channels / kPack, args.pooled_height * args.pooled_width, kChannelsLast);
  if (const int64_t bytes = block_taps_bytes<C>(args); bytes > 0) {
    return FASTRPN_LAUNCH((roi_align_forward_kernel<T, kPack, kChannelsLast>), blocks.grid, blocks.block,
                          size_t(bytes), stream, args, blocks.slice);
  }
  WorkspaceCursor cursor(workspace);
  const auto table = lay_out_taps<C>(args, cursor);
  FASTRPN_TRY(launch_roi_align_taps(args, table, stream));
  return FASTRPN_LAUNCH((roi_align_table_kernel<T, kPack, kChannelsLast>), blocks.grid, blocks.block, 0,
                        stream, args, blocks.slice, table);
}

LevelTiles tiles_of_levels(const RoiAlignArgs& forward, TileShape shape) {
  LevelTiles tiles = {};
  for (int i = 0; i < kMaxRoiLevels; ++i) {
    const RoiAlignLevel& level = forward.levels[i];
    tiles.first[i + 1] =
        tiles.first[i] + (i < forward.num_levels ? unsigned(shape.tiles(level.height, level.width)) : 0);
  }
  return tiles;
}

template <typename T, bool kChannelsLast>
Status launch_roi_align_backward(const RoiAlignBackwardArgs& args, const TapTable<compute_t<T>>& taps,
                                 const RoisByMap& rois, TileShape shape, Stream stream) {
  const RoiAlignArgs& forward = args.forward;
  const LevelTiles tiles = tiles_of_levels(forward, shape);
  const dim3 grid(tiles.first[kMaxRoiLevels], unsigned(ceil_div(forward.channels, int64_t(kTileChannels))),
                  unsigned(forward.batch));
  if (grid.x == 0) return nullptr;
  return FASTRPN_LAUNCH((roi_align_backward_kernel<T, kChannelsLast>), grid, shape.threads(), 0, stream, args,
                        taps, rois, tiles, shape);
}

// Whether packs of 16 bytes may be read and written.
bool is_packable(const RoiAlignArgs& args, int64_t pack) {
  const auto is_aligned = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  bool packable = args.channels % pack == 0 && is_aligned(args.output);
  for (int level = 0; level < args.num_levels; ++level) packable &= is_aligned(args.levels[level].features);
  return packable;
}

// Lays out the taps of any type; their bins.
BinTable lay_out_plan(const RoiAlignArgs& args, WorkspaceCursor& cursor) {
  return args.dtype == DType::float64 ? lay_out_taps<double>(args, cursor).bins
                                      : lay_out_taps<float>(args, cursor).bins;
}

}  // namespace

size_t roi_align_workspace_bytes(const RoiAlignArgs& args) {
  const bool is_double = args.dtype == DType::float64;
  if ((is_double ? block_taps_bytes<double>(args) : block_taps_bytes<float>(args)) > 0) return 0;
  WorkspaceCursor cursor(nullptr);
  lay_out_plan(args, cursor);
  return cursor.bytes();
}

Status roi_align_cuda(const RoiAlignArgs& args, void* workspace, Stream stream) {
  if (args.num_rois * args.channels * args.pooled_height * args.pooled_width == 0) return nullptr;
  FASTRPN_TRY(roi_limits(args.channels, args.num_rois, args.pooled_height, args.pooled_width));
  return dispatch(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int kPack = 16 / sizeof(T);
    if (!args.channels_last) {
      return args.channels % kPlanes == 0
                 ? launch_roi_align_forward<T, kPlanes, false>(args, workspace, stream)
                 : launch_roi_align_forward<T, 1, false>(args, workspace, stream);
    }
    return is_packable(args, kPack) ? launch_roi_align_forward<T, kPack, true>(args, workspace, stream)
                                    : launch_roi_align_forward<T, 1, true>(args, workspace, stream);
  });
}

size_t roi_align_backward_workspace_bytes(const RoiAlignBackwardArgs& args) {
  WorkspaceCursor cursor(nullptr);
  const BinTable bins = lay_out_plan(args.forward, cursor);
  lay_out_groups(bins, args.forward.num_rois, args.forward.num_levels * args.forward.batch, cursor);
  return cursor.bytes();
}

Status roi_align_backward_cuda(const RoiAlignBackwardArgs& args, void* workspace, Stream stream) {
  const RoiAlignArgs& forward = args.forward;
  if (forward.batch * forward.channels == 0) return nullptr;
  const auto tiles = [&](TileShape shape) {
    int64_t count = 0;
    for (int level = 0; level < forward.num_levels; ++level) {
      count += shape.tiles(forward.levels[level].height, forward.levels[level].width);
    }
    return count;
  };
  const TileShape shape = choose_shape(forward.batch, forward.channels, tiles);
  FASTRPN_TRY(backward_limits(forward.batch, forward.channels, forward.num_rois, forward.pooled_height,
                              forward.pooled_width, tiles(shape)));
  return dispatch(forward.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    WorkspaceCursor cursor(workspace);
    const auto taps = lay_out_taps<compute_t<T>>(forward, cursor);
    const int64_t maps = forward.num_levels * forward.batch;
    const RoisByMap rois = lay_out_groups(taps.bins, forward.num_rois, maps, cursor);
    FASTRPN_TRY(launch_roi_align_taps(forward, taps, stream));
    FASTRPN_TRY(launch_roi_group(taps.bins, rois, maps, stream));
    return forward.channels_last ? launch_roi_align_backward<T, true>(args, taps, rois, shape, stream)
                                 : launch_roi_align_backward<T, false>(args, taps, rois, shape, stream);
  });
}

}  // namespace fastrpn
