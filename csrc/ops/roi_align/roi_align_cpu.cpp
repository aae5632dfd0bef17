// roi_align on the CPU: SIMD across channels.
//
// A bin is a weighted sum over a small patch of cells (plan_cpu.h), taken for a block of channels at
// once. A map that is channels last is read where it lies; of any other the part that a tile of RoIs reads
// is packed first (cpu/roi_tiles.h), and the pooled block is transposed into the output. Levels of a
// pyramid are maps like images of a batch. Work: channels * (cells in patches + cells packed).
//
// Threads own (tile, block) pairs, or RoIs of a channels-last map; no result depends on the split.
// Numerics: sums in float (double for float64), in the order of the cells; they differ from torchvision's,
// which adds sample by sample, by rounding alone.
#include "cpu/roi_tiles.h"
#include "math/dispatch.h"
#include "ops/roi_align/plan_cpu.h"
#include "ops/roi_align/roi_align.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {
namespace {

// A bin for kCount vectors of channels.
template <int kCount, typename T, typename Stored>
FASTRPN_HOST void align_bin(Cells<const Stored> cells, AxisTaps<T> rows, int64_t ph, AxisTaps<T> columns,
                            int64_t pw, Stored* output) {
  Vec<T> sum[kCount] = {};
  const Tap<T>*const last_row = rows.end(ph), *const first = columns.begin(pw), *const last = columns.end(pw);
  for (const Tap<T>* r = rows.begin(ph); r < last_row; ++r) {
    const int64_t row = cells.start + r->cell * cells.row;
    Vec<T> row_sum[kCount] = {};
    for (const Tap<T>* c = first; c < last; ++c) {
      const Stored* cell = cells.memory + (row + c->cell * cells.cell);
      Vec<T> values[kCount];
      load_widened(cell, values);
      for (int k = 0; k < kCount; ++k) row_sum[k] += values[k] * c->weight;
    }
    for (int k = 0; k < kCount; ++k) sum[k] += row_sum[k] * r->weight;
  }
  store_rounded(sum, output);
}

// All bins of a RoI for `channels` channels, whole vectors; output: [bins][channels]. Bins outside, so that
// a cell's channels are read in one go: the map may lie far away in memory.
template <typename T, typename Stored>
FASTRPN_HOST void align_bins(Cells<const Stored> cells, AxisTaps<T> rows, AxisTaps<T> columns,
                             const RoiAlignArgs& args, int64_t channels, Stored* output) {
  constexpr int64_t kStep = kVectors<T> * kLanes<T>;
  for (int64_t ph = 0; ph < args.pooled_height; ++ph) {
    for (int64_t pw = 0; pw < args.pooled_width; ++pw, output += channels) {
      int64_t c = 0;
      for (; c + kStep <= channels; c += kStep) {
        align_bin<kVectors<T>>(cells.from_channel(c), rows, ph, columns, pw, output + c);
      }
      for (; c < channels; c += kLanes<T>) {
        align_bin<1>(cells.from_channel(c), rows, ph, columns, pw, output + c);
      }
    }
  }
}

// A single channel, any layout: for RoIs too large to pack.
template <typename T, typename Stored>
void align_plainly(Cells<const Stored> cells, AxisTaps<T> rows, AxisTaps<T> columns, const RoiAlignArgs& args,
                   Stored* output, int64_t stride) {
  for (int64_t ph = 0; ph < args.pooled_height; ++ph) {
    for (int64_t pw = 0; pw < args.pooled_width; ++pw, output += stride) {
      T sum = 0;
      for (const Tap<T>* r = rows.begin(ph); r < rows.end(ph); ++r) {
        T row_sum = 0;
        for (const Tap<T>* c = columns.begin(pw); c < columns.end(pw); ++c) {
          row_sum += widen(*cells.at(r->cell, c->cell)) * c->weight;
        }
        sum += row_sum * r->weight;
      }
      *output = narrow<Stored>(sum);
    }
  }
}

// Everything that is fixed for one call.
template <typename T, typename Stored>
struct Call {
  const RoiAlignArgs& args;
  const AlignPlan<T> plan;
  const PooledLayout pooled = plan.pooled();

  Call(const RoiAlignArgs& args, const ParallelFor& parallel_for) : args(args), plan(args, parallel_for) {}

  const Stored* map(int64_t map, int64_t channel) const {
    return static_cast<const Stored*>(plan.level_of(map).features) + plan.offset_in_level(map, channel);
  }
  Cells<const Stored> cells(int64_t map, int64_t channel) const {
    const MapLayout layout = plan.layout_of(map);
    return {this->map(map, channel), 0, layout.row, layout.cell};
  }
  Stored* output(int64_t n, int64_t channel) const {
    return static_cast<Stored*>(args.output) + pooled.offset(n, channel);
  }
  void clear(int64_t n) const {
    memset(static_cast<void*>(output(n, 0)), 0, size_t(pooled.roi_size()) * sizeof(Stored));
  }
};

template <typename T, typename Stored>
void align_packed(const Call<T, Stored>& call, const ParallelFor& parallel_for) {
  const RoiAlignArgs& args = call.args;
  const AlignPlan<T>& plan = call.plan;
  const Tiling tiling(plan.map_of(), plan.region_of(), args.num_rois, args.num_levels * args.batch,
                      fair_tile(args.num_rois, args.channels, parallel_for), kTileCells);
  for (int64_t i = tiling.num_active; i < args.num_rois; ++i) call.clear(tiling.order[i]);

  const auto align_tile = [&](const Tile& tile, int64_t channel, int64_t channels, Cells<const T> cells) {
    if (!tile.packable()) {
      const int64_t n = tiling.order[tile.begin];
      for (int64_t c = channel; c < channel + channels; ++c) {
        align_plainly(call.cells(tile.map, c), plan.rows(n), plan.columns(n), args, call.output(n, c),
                      call.pooled.bin_stride());
      }
      return;
    }
    Buffer<T> block(call.pooled.bins * kBlock);
    for (int64_t i = tile.begin; i < tile.end; ++i) {
      const int64_t n = tiling.order[i];
      align_bins(cells, plan.rows(n), plan.columns(n), args, kBlock, block.data());
      place(block.data(), channels, call.pooled, call.output(n, channel));
    }
  };
  for_each_block<T>(
      tiling, plan.region_of(), args.channels, parallel_for,
      [&](int64_t map, int64_t channel) { return call.map(map, channel); },
      [&](int64_t map) { return plan.layout_of(map); }, align_tile);
}

// Channels last: features are read and results written in place.
template <typename T, typename Stored>
void align_in_place(const Call<T, Stored>& call, const ParallelFor& parallel_for) {
  const AlignPlan<T>& plan = call.plan;
  parallel_for(call.args.num_rois, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      if (plan.map_of()[n] < 0) {
        call.clear(n);
      } else {
        align_bins(call.cells(plan.map_of()[n], 0), plan.rows(n), plan.columns(n), call.args,
                   call.args.channels, call.output(n, 0));
      }
    }
  });
}

template <typename Stored>
void align(const RoiAlignArgs& args, const ParallelFor& parallel_for) {
  using T = compute_t<Stored>;
  const Call<T, Stored> call(args, parallel_for);
  if (args.channels_last && args.channels % kLanes<T> == 0) return align_in_place(call, parallel_for);
  align_packed(call, parallel_for);
}

}  // namespace

void roi_align_cpu(const RoiAlignArgs& args, const ParallelFor& all_threads) {
  const int64_t elements = args.num_rois * args.channels * args.pooled_height * args.pooled_width;
  const ParallelFor parallel_for = threads_for(elements, all_threads);
  dispatch(args.dtype, [&](auto tag) { align<typename decltype(tag)::type>(args, parallel_for); });
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
