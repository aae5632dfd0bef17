// roi_pool on CUDA, forward and backward.
//
// plan: the borders of every RoI's bins (plan_cuda.h).
// forward: as cuda/roi_forward.h says. Cost: every cell of every bin is read once.
// backward: as cuda/gradient_stage.h says; a RoI gives a cell the gradients of the bins whose maximum it is.
//   With the gradients the cells are staged in which the maxima lie, a byte each; sums are in shared memory.
//
// Numerics: maxima are exact; gradients are summed in float (float64: double) and rounded once. Equal to the
// CPU kernels bit for bit.
#include "cuda/gradient_stage.h"
#include "cuda/roi_forward.h"
#include "ops/roi_pool/plan_cuda.h"
#include "ops/roi_pool/roi_pool.h"

namespace fastrpn {
namespace {

// The maximum of one bin for kPack channels, and the cell in which it lies first; `features`: of the image,
// from the first of the channels on. Where an argmax is wanted, cells fit 32 bits.
template <int kPack, bool kChannelsLast, typename T, typename C>
__device__ __forceinline__ void pool_bin_of(const T* features, const RoiPoolArgs& args, unsigned cell_bytes,
                                            const CellSpan& bin, C (&best)[kPack], int32_t (&at)[kPack]) {
  const int last = bin.x_end - 1;
  for (int y = bin.y_begin; y < bin.y_end; ++y) {
    const int64_t row = bytes_before_row(y, args.width, cell_bytes);
    const unsigned first_cell = unsigned(y) * unsigned(args.width);
#pragma unroll 1
    for (int x = bin.x_begin; x <= last; x += kCellsAhead) {
      Pack<T, kPack> packs[kCellsAhead];
#pragma unroll
      for (int i = 0; i < kCellsAhead; ++i) {
        // Loads that wait for no condition are on their way together.
        packs[i] = load_channels<kPack, kChannelsLast>(features, row, min(x + i, last), cell_bytes,
                                                       args.height * args.width);
      }
#pragma unroll
      for (int i = 0; i < kCellsAhead; ++i) {
        for (int k = 0; k < kPack; ++k) {
          const C value = widen(packs[i].values[k]);
          if (value > best[k]) {  // not where a cell is looked at again
            best[k] = value;
            at[k] = int32_t(first_cell + unsigned(x + i));
          }
        }
      }
    }
  }
}

template <typename T, int kPack, bool kChannelsLast>
__global__ void __launch_bounds__(kForwardThreads, kForwardBlocksAtOnce)
    roi_pool_forward_kernel(RoiPoolArgs args, BinTable bins, int slice) {
  using C = compute_t<T>;
  const int64_t n = blockIdx.x, image = bins.map[n], plane = args.height * args.width;
  const int32_t *rows = bins.rows(n), *columns = bins.columns(n);
  const int roi_bins = bins.pooled_height * bins.pooled_width;
  const unsigned cell_bytes = bytes_of_cell<T, kChannelsLast>(args.channels);
  const T* features = static_cast<const T*>(args.features);
  if (image >= 0) features += image * args.channels * plane;
  for_bins<kPack, kChannelsLast>(roi_bins, args.channels, slice, [&](int bin, int64_t channel) {
    CellSpan cells = {};  // none, for a RoI that takes no part
    if (image >= 0) {
      const int ph = bin / bins.pooled_width, pw = bin % bins.pooled_width;
      cells = {rows[ph], rows[bins.pooled_height + ph], columns[pw], columns[bins.pooled_width + pw]};
    }
    const bool empty = cells.y_begin >= cells.y_end || cells.x_begin >= cells.x_end;
    C best[kPack];
    int32_t at[kPack];
    for (int k = 0; k < kPack; ++k) {
      best[k] = empty ? C(0) : C(kLowest<T>);
      at[k] = -1;
    }
    if (!empty) {
      pool_bin_of<kPack, kChannelsLast>(features + channel * (kChannelsLast ? 1 : plane), args, cell_bytes,
                                        cells, best, at);
    }
    const int64_t to = pooled_at<kChannelsLast>(n, args.channels, roi_bins, channel, bin);
    Pack<T, kPack> output;
    for (int k = 0; k < kPack; ++k) output.values[k] = narrow<T>(best[k]);
    store_channels<kPack, kChannelsLast>(output, static_cast<T*>(args.output) + to, roi_bins);
    if (args.argmax == nullptr) return;
    constexpr int kStore = kPack < 4 ? kPack : 4;  // 16 bytes, where there are as many
    for (int k = 0; k < kPack; k += kStore) {
      Pack<int32_t, kStore> of_cells;
      for (int i = 0; i < kStore; ++i) of_cells.values[i] = at[k + i];
      int32_t* at_to = args.argmax + to + (kChannelsLast ? k : int64_t(k) * roi_bins);
      store_channels<kStore, kChannelsLast>(of_cells, at_to, roi_bins);
    }
  });
}

// What the RoIs give a tile of an image's map (cuda/gradient_stage.h).
template <typename T, bool kChannelsLast>
struct PoolSource {
  using C = compute_t<T>;
  using Sums = C[kTileChannels];
  // Of a staged bin and each channel: the cell of the block's tile in which the maximum lies, row by row, or
  // kElsewhere. Nine words, an odd number, so that threads that write down a column do not meet in a bank.
  using Winners = uint8_t[kTileChannels + 4];
  static constexpr int kElsewhere = 255;
  static_assert(kMostWarps * kCells <= 128, "cells of a tile have seven bits");

  const GradientTile& tile;
  const T* grads;
  const int32_t* argmax;
  int channel_stride;      // of both
  uint64_t inverse_width;  // of the map
  Sums* sums;              // [cell of the block's tile], shared
  Winners* winners;        // [slot], shared

  __device__ void prepare(int64_t, int, int, int) const {}

  // The row is `behind` / width, by a product that is exact for the rows and columns of a tile. Whatever lies
  // elsewhere fails the comparisons.
  __device__ int cell_of(int32_t at) const {
    const unsigned behind = unsigned(at) - (unsigned(tile.y) * unsigned(tile.width) + unsigned(tile.x));
    const unsigned row = unsigned(behind * inverse_width >> 32);
    const unsigned column = behind + row * (0u - unsigned(tile.width));
    const unsigned rows = unsigned(min(tile.shape.height(), tile.height - tile.y));
    const unsigned columns = unsigned(min(tile.shape.width(), tile.width - tile.x));
    return row < rows && column < columns ? int(row) * tile.shape.width() + int(column) : kElsewhere;
  }

  __device__ void load(GradientStage<C>& stage, int count) const {
    for_places<kChannelsLast, C>(count, [&](const auto& slot, const auto& lane) {
      int32_t at[kAhead<C>];
      T grad[kAhead<C>];
#pragma unroll
      for (int k = 0; k < kAhead<C>; ++k) {
        const int64_t from = stage.from[slot(k)] + min(lane(k), tile.lanes - 1) * channel_stride;
        at[k] = argmax[from];
        grad[k] = grads[from];
      }
#pragma unroll
      for (int k = 0; k < kAhead<C>; ++k) {
        winners[slot(k)][lane(k)] = uint8_t(cell_of(at[k]));
        stage.grads[slot(k)][lane(k)] = widen(grad[k]);
      }
    });
  }

  // The sum that the thread has of a cell, counted from the warp's first.
  __device__ C& sum(int row, int column) const {
    const int cell = (tile.warp_y + row) * tile.shape.width() + tile.warp_x + column;
    return sums[cell][threadIdx.x % 32];
  }
  __device__ void add(const GradientStage<C>& stage, Pack<uint8_t, kTurns> turn) const {
    const int lane = threadIdx.x % 32;
    const int first = tile.warp_y * tile.shape.width() + tile.warp_x;
    const int within = (kSide - 1) * tile.shape.width() + kSide - 1;  // the bits of a cell in a warp's tile
    int cell[kTurns];
    C grad[kTurns];
#pragma unroll
    for (int k = 0; k < kTurns; ++k) {
      cell[k] = winners[turn.values[k]][lane];
      grad[k] = stage.grads[turn.values[k]][lane];
    }
#pragma unroll
    for (int k = 0; k < kTurns; ++k) {
      // Adding 0 changes no sum and costs less than a branch.
      const bool is_mine = ((cell[k] ^ first) & ~within) == 0;
      sums[is_mine ? cell[k] : first][lane] += is_mine ? grad[k] : C(0);
    }
  }
};

// grid: x over tiles of the map, y over groups of channels, z over images.
template <typename T, bool kChannelsLast>
__global__ void __launch_bounds__(32 * kMostWarps, kBlocksAtOnce<compute_t<T>>)
    roi_pool_backward_kernel(RoiPoolBackwardArgs args, BinTable bins, RoisByMap rois, TileShape shape) {
  using C = compute_t<T>;
  using Source = PoolSource<T, kChannelsLast>;
  FASTRPN_DYNAMIC_SHARED(typename Source::Sums, sums);
  __shared__ GradientStage<C> stage;
  __shared__ typename Source::Winners winners[kStage<C> + 1];
  static_assert(sizeof(stage) + sizeof(winners) + kMostWarps * kCells * sizeof(*sums) <= 48 << 10);
  const GradientTile tile(shape, int(blockIdx.z), args.height, args.width, args.channels, int(blockIdx.x),
                          int(blockIdx.y));
  const Source source{tile,
                      static_cast<const T*>(args.grad_output),
                      args.argmax,
                      kChannelsLast ? 1 : bins.pooled_height * bins.pooled_width,
                      uint64_t(~0u / unsigned(args.width)) + 1,
                      sums,
                      winners};
  for (int cell = 0; cell < kCells && tile.owns(); ++cell) source.sum(cell / kSide, cell % kSide) = C(0);
  if (threadIdx.x < kTileChannels) winners[kStage<C>][threadIdx.x] = Source::kElsewhere;
  add_all<kChannelsLast>(stage, bins, rois, tile, source);
  T* to = static_cast<T*>(args.grad_features) + blockIdx.z * args.channels * args.height * args.width;
  tile.write<kChannelsLast>(to, [&](int row, int column) { return source.sum(row, column); });
}

template <typename T, int kPack, bool kChannelsLast>
Status launch_roi_pool_forward(const RoiPoolArgs& args, const BinTable& bins, Stream stream) {
  const RoiBlocks blocks =
      roi_blocks(args.num_rois, args.channels / kPack, args.pooled_height * args.pooled_width, kChannelsLast);
  return FASTRPN_LAUNCH((roi_pool_forward_kernel<T, kPack, kChannelsLast>), blocks.grid, blocks.block, 0,
                        stream, args, bins, blocks.slice);
}

template <typename T, bool kChannelsLast>
Status launch_roi_pool_backward(const RoiPoolBackwardArgs& args, const BinTable& bins, const RoisByMap& rois,
                                TileShape shape, Stream stream) {
  const dim3 grid(unsigned(shape.tiles(args.height, args.width)),
                  unsigned(ceil_div(args.channels, int64_t(kTileChannels))), unsigned(args.batch));
  const size_t sums = size_t(kCells * 32 * shape.warps()) * sizeof(compute_t<T>);
  return FASTRPN_LAUNCH((roi_pool_backward_kernel<T, kChannelsLast>), grid, shape.threads(), sums, stream,
                        args, bins, rois, shape);
}

bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

size_t roi_pool_workspace_bytes(const RoiPoolArgs& args) {
  WorkspaceCursor cursor(nullptr);
  lay_out_bins(args, cursor);
  return cursor.bytes();
}

Status roi_pool_cuda(const RoiPoolArgs& args, void* workspace, Stream stream) {
  if (args.num_rois * args.channels * args.pooled_height * args.pooled_width == 0) return nullptr;
  FASTRPN_TRY(roi_limits(args.channels, args.num_rois, args.pooled_height, args.pooled_width));
  WorkspaceCursor cursor(workspace);
  const BinTable bins = lay_out_bins(args, cursor);
  FASTRPN_TRY(launch_roi_pool_plan(args, bins, stream));
  return dispatch(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int kPack = 16 / sizeof(T);
    const bool packs = args.channels % kPack == 0 && is_aligned(args.features) && is_aligned(args.output) &&
                       is_aligned(args.argmax);
    if (!args.channels_last) {
      return args.channels % kPlanes == 0 ? launch_roi_pool_forward<T, kPlanes, false>(args, bins, stream)
                                          : launch_roi_pool_forward<T, 1, false>(args, bins, stream);
    }
    return packs ? launch_roi_pool_forward<T, kPack, true>(args, bins, stream)
                 : launch_roi_pool_forward<T, 1, true>(args, bins, stream);
  });
}

size_t roi_pool_backward_workspace_bytes(const RoiPoolBackwardArgs& args) {
  WorkspaceCursor cursor(nullptr);
  const BinTable bins = lay_out_bins(args, cursor);
  lay_out_groups(bins, args.num_rois, args.batch, cursor);
  return cursor.bytes();
}

Status roi_pool_backward_cuda(const RoiPoolBackwardArgs& args, void* workspace, Stream stream) {
  if (args.batch * args.channels * args.height * args.width == 0) return nullptr;
  const auto tiles = [&](TileShape shape) { return shape.tiles(args.height, args.width); };
  const TileShape shape = choose_shape(args.batch, args.channels, tiles);
  FASTRPN_TRY(backward_limits(args.batch, args.channels, args.num_rois, args.pooled_height, args.pooled_width,
                              tiles(shape)));
  WorkspaceCursor cursor(workspace);
  const BinTable bins = lay_out_bins(args, cursor);
  const RoisByMap rois = lay_out_groups(bins, args.num_rois, args.batch, cursor);
  FASTRPN_TRY(launch_roi_pool_plan(args, bins, stream));
  FASTRPN_TRY(launch_roi_group(bins, rois, args.batch, stream));
  return dispatch(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return args.channels_last ? launch_roi_pool_backward<T, true>(args, bins, rois, shape, stream)
                              : launch_roi_pool_backward<T, false>(args, bins, rois, shape, stream);
  });
}

}  // namespace fastrpn
