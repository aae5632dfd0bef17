// roi_align backward on the CPU: the transpose of the forward's weighted sums.
//
// A thread owns a block of channels of a map, sums the gradients of its RoIs in their order in a packed copy
// of the part of the map they touch, and writes the map once. So each element of the result has one owner,
// and the sum does not depend on the number of threads or on the layout. Work: channels * (cells in
// patches + cells of the maps). Half types are summed in float and rounded once.
#include "cpu/roi_tiles.h"
#include "math/dispatch.h"
#include "ops/roi_align/plan_cpu.h"
#include "ops/roi_align/roi_align.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {
namespace {

// Adds all bins of a RoI for kVectors vectors of channels. grad: [bins][kBlock].
template <typename T>
void add_bins(const T* grad, AxisTaps<T> rows, AxisTaps<T> columns, const RoiAlignArgs& args, Cells<T> sums) {
  for (int64_t ph = 0; ph < args.pooled_height; ++ph) {
    const Tap<T>* const last_row = rows.end(ph);
    for (int64_t pw = 0; pw < args.pooled_width; ++pw, grad += kBlock) {
      const Tap<T>*const first = columns.begin(pw), *const last = columns.end(pw);
      for (const Tap<T>* r = rows.begin(ph); r < last_row; ++r) {
        const int64_t row = sums.start + r->cell * sums.row;
        Vec<T> weighted[kVectors<T>];
        for (int k = 0; k < kVectors<T>; ++k) weighted[k] = load(grad + k * kLanes<T>) * r->weight;
        for (const Tap<T>* c = first; c < last; ++c) {
          T* cell = sums.memory + (row + c->cell * sums.cell);
          const T weight = c->weight;  // before the sums are written, which might be it
          for (int k = 0; k < kVectors<T>; ++k) {
            T* to = cell + k * kLanes<T>;
            store<T>(load(to) + weighted[k] * weight, to);
          }
        }
      }
    }
  }
}

template <typename T, typename Stored>
struct BackwardCall {
  const RoiAlignBackwardArgs& args;
  const AlignPlan<T>& plan;
  const Tiling& tiling;
  const PooledLayout pooled = plan.pooled();

  const Stored* grad(int64_t n, int64_t channel) const {
    return static_cast<const Stored*>(args.grad_output) + pooled.offset(n, channel);
  }
  Cells<Stored> result(int64_t map, int64_t channel) const {
    const MapLayout layout = plan.layout_of(map);
    void* features = args.grad_features[map / args.forward.batch];
    return {static_cast<Stored*>(features) + plan.offset_in_level(map, channel), 0, layout.row, layout.cell};
  }

  // Zeros in some channels of a map.
  void clear(int64_t map, int64_t channel, int64_t channels) const {
    const RoiAlignLevel& level = plan.level_of(map);
    const int64_t cells = level.height * level.width;
    if (cells == 0) return;  // the level may be null
    const Cells<Stored> to = result(map, channel);
    const int64_t pieces = args.forward.channels_last ? cells : 1;
    const int64_t size = args.forward.channels_last ? channels : channels * cells;
    for (int64_t i = 0; i < pieces; ++i) {
      memset(static_cast<void*>(to.memory + i * to.cell), 0, size_t(size) * sizeof(Stored));
    }
  }

  // Sums a block of channels of the RoIs of a tile, and writes what they touched.
  void add_packed(const Tile& tile, int64_t channel, int64_t channels) const {
    const CellBox& box = tile.box;
    Buffer<T> packed(box.cells() * kBlock), block(pooled.bins * kBlock);
    memset(packed.data(), 0, size_t(box.cells()) * kBlock * sizeof(T));
    memset(block.data(), 0, size_t(pooled.bins) * kBlock * sizeof(T));
    const auto sums = Cells<T>::of_box(packed.data(), box, kBlock);
    for (int64_t i = tile.begin; i < tile.end; ++i) {
      const int64_t n = tiling.order[i];
      take(grad(n, channel), channels, pooled, block.data());
      for (int c = 0; c < kBlock; c += kVectors<T> * kLanes<T>) {
        add_bins<T>(block.data() + c, plan.rows(n), plan.columns(n), args.forward, sums.from_channel(c));
      }
    }
    const Cells<Stored> to = result(tile.map, channel);
    for (int64_t y = box.y_begin; y < box.y_end; ++y) {
      unpack(sums.at(y, box.x_begin), box.width(), channels, to.at(y, box.x_begin), to.cell,
             plan.layout_of(tile.map).channel);
    }
  }

  // Cells [count][kBlock] to where they belong.
  static void unpack(const T* from, int64_t count, int64_t channels, Stored* to, int64_t cell_stride,
                     int64_t channel_stride) {
    if (channel_stride != 1) return transpose(from, kBlock, count, channels, to, channel_stride);
    for (int64_t x = 0; x < count; ++x) convert(from + x * kBlock, channels, to + x * cell_stride);
  }

  // The same for a single channel of a part too large to pack.
  void add_plainly(const Tile& tile, int64_t channel) const {
    const CellBox& box = tile.box;
    Buffer<T> plane(box.cells());
    memset(plane.data(), 0, size_t(box.cells()) * sizeof(T));
    const auto sums = Cells<T>::of_box(plane.data(), box, 1);
    for (int64_t i = tile.begin; i < tile.end; ++i) {
      const int64_t n = tiling.order[i];
      const AxisTaps<T> rows = plan.rows(n), columns = plan.columns(n);
      const Stored* from = grad(n, channel);
      for (int64_t ph = 0; ph < args.forward.pooled_height; ++ph) {
        for (int64_t pw = 0; pw < args.forward.pooled_width; ++pw, from += pooled.bin_stride()) {
          for (const Tap<T>* r = rows.begin(ph); r < rows.end(ph); ++r) {
            const T weighted = widen(*from) * r->weight;
            for (const Tap<T>* c = columns.begin(pw); c < columns.end(pw); ++c) {
              *sums.at(r->cell, c->cell) += weighted * c->weight;
            }
          }
        }
      }
    }
    const Cells<Stored> to = result(tile.map, channel);
    for (int64_t y = box.y_begin; y < box.y_end; ++y) {
      for (int64_t x = box.x_begin; x < box.x_end; ++x) *to.at(y, x) = narrow<Stored>(*sums.at(y, x));
    }
  }
};

template <typename Stored>
void scatter(const RoiAlignBackwardArgs& args, const ParallelFor& parallel_for) {
  using T = compute_t<Stored>;
  const RoiAlignArgs& forward = args.forward;
  const AlignPlan<T> plan(forward, parallel_for);
  const int64_t maps = forward.num_levels * forward.batch;
  const int64_t blocks = (forward.channels + kBlock - 1) / kBlock;
  // One tile for each map.
  const Tiling tiling(plan.map_of(), plan.region_of(), forward.num_rois, maps, INT64_MAX, INT64_MAX);
  Buffer<const Tile*> tile_of(maps);
  for (int64_t map = 0; map < maps; ++map) tile_of[map] = nullptr;
  for (int64_t i = 0; i < tiling.num_tiles; ++i) tile_of[tiling.tiles[i].map] = &tiling.tiles[i];
  const BackwardCall<T, Stored> call = {args, plan, tiling};

  // Blocks outside, so that every thread gets some of the largest level.
  parallel_for(blocks * maps, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t map = unit % maps, channel = unit / maps * kBlock;
      const int64_t channels = forward.channels - channel < kBlock ? forward.channels - channel : kBlock;
      call.clear(map, channel, channels);
      const Tile* tile = tile_of[map];
      if (tile == nullptr) continue;
      if (tile->packable()) {
        call.add_packed(*tile, channel, channels);
      } else {
        for (int64_t c = channel; c < channel + channels; ++c) call.add_plainly(*tile, c);
      }
    }
  });
}

}  // namespace

void roi_align_backward_cpu(const RoiAlignBackwardArgs& args, const ParallelFor& all_threads) {
  const RoiAlignArgs& forward = args.forward;
  int64_t cells = forward.num_rois * forward.pooled_height * forward.pooled_width;
  for (int level = 0; level < forward.num_levels; ++level) {
    cells += forward.batch * forward.levels[level].height * forward.levels[level].width;
  }
  const int64_t elements = cells * forward.channels;
  const ParallelFor parallel_for = threads_for(elements, all_threads);
  dispatch(args.forward.dtype, [&](auto tag) { scatter<typename decltype(tag)::type>(args, parallel_for); });
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
