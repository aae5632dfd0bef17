// The taps (math/align_taps.h) of RoIs on CUDA, with the CPU's arithmetic in the CPU's order.
//
// Forward, where a bin has a fixed number of samples: each block finds those of its RoI, a thread for each
// bin of an axis, in shared memory (BlockTaps). Otherwise, and backward, which looks bins of any RoI up: one
// kernel finds those of all RoIs, a thread for each RoI and axis, in a table in global memory (TapTable).
#pragma once

#include "cuda/roi.h"
#include "cuda/runtime.h"
#include "math/align_taps.h"
#include "ops/roi_align/roi_align.h"

namespace fastrpn {

// A RoI has a row of each array.
template <typename C>
struct TapTable {
  BinTable bins;
  int32_t* first;                   // [num_rois, pooled_height + 1 + pooled_width + 1]
  Tap<C>* tap;                      // [num_rois, most_rows + most_columns]
  int64_t most_rows, most_columns;  // taps of an axis

  FASTRPN_HD_MEMBER AxisTapsOutput<C> row_output(int64_t n) const {
    return {first + n * (bins.pooled_height + bins.pooled_width + 2), tap + n * (most_rows + most_columns),
            bins.rows(n)};
  }
  FASTRPN_HD_MEMBER AxisTapsOutput<C> column_output(int64_t n) const {
    const AxisTapsOutput<C> rows = row_output(n);
    return {rows.first + bins.pooled_height + 1, rows.tap + most_rows, bins.columns(n)};
  }
  FASTRPN_HD_MEMBER AxisTaps<C> rows(int64_t n) const {
    const AxisTapsOutput<C> taps = row_output(n);
    return {taps.first, taps.tap};
  }
  FASTRPN_HD_MEMBER AxisTaps<C> columns(int64_t n) const {
    const AxisTapsOutput<C> taps = column_output(n);
    return {taps.first, taps.tap};
  }
};

// Where a RoI lies: on which map, level * batch + image, and how its axes are cut. map < 0: it takes no part.
template <typename C>
struct PlacedRoi {
  int map = -1, level = 0;
  AlignAxis<C> y, x;

  __device__ PlacedRoi(const RoiAlignArgs& args, int64_t n) {
    C roi[5];
    load_roi(args.rois, args.roi_dtype, n, roi);
    const int64_t image = roi_image(roi, args.batch);
    level = args.roi_levels == nullptr ? 0 : args.roi_levels[n];
    if (image < 0 || level < 0 || level >= args.num_levels) return;
    const RoiAlignLevel& to = args.levels[level];
    if (to.height == 0 || to.width == 0) return;
    map = int(level * args.batch + image);
    const C scale = C(to.spatial_scale);
    y = align_axis(roi[2], roi[4], scale, args.pooled_height, args.sampling_ratio, args.aligned);
    x = align_axis(roi[1], roi[3], scale, args.pooled_width, args.sampling_ratio, args.aligned);
  }
};

// The most taps that an axis of `size` cells may have. A sample reads two cells. Samples follow each other,
// so that neighbouring bins share but a few: two, or, in a RoI so huge that its borders are cells apart in
// the type they are rounded to, up to some eight for each bin.
inline int64_t most_taps(const RoiAlignArgs& args, int64_t pooled, int64_t size) {
  const int64_t by_cells = size + 8 * pooled;
  if (args.sampling_ratio <= 0) return by_cells;
  const int64_t samples = min(args.sampling_ratio, by_cells);  // of a bin; more would exceed the other bound
  return min(by_cells, 2 * samples * pooled);
}

template <typename C>
TapTable<C> lay_out_taps(const RoiAlignArgs& args, WorkspaceCursor& cursor) {
  TapTable<C> taps{};
  for (int level = 0; level < args.num_levels; ++level) {
    const int64_t rows = most_taps(args, args.pooled_height, args.levels[level].height);
    const int64_t columns = most_taps(args, args.pooled_width, args.levels[level].width);
    if (rows > taps.most_rows) taps.most_rows = rows;
    if (columns > taps.most_columns) taps.most_columns = columns;
  }
  taps.bins = lay_out_bins(args, cursor);
  taps.first = cursor.take<int32_t>(args.num_rois * (args.pooled_height + args.pooled_width + 2));
  taps.tap = cursor.take<Tap<C>>(args.num_rois * (taps.most_rows + taps.most_columns));
  return taps;
}

constexpr int kTapThreads = 128;

template <typename C>
__global__ void __launch_bounds__(kTapThreads, 4) roi_align_taps_kernel(RoiAlignArgs args, TapTable<C> taps) {
  const int64_t i = int64_t(blockIdx.x) * kTapThreads + threadIdx.x;
  const int64_t n = i / 2;
  const bool is_row = i % 2 == 0;
  if (n >= args.num_rois) return;
  const PlacedRoi<C> roi(args, n);
  const BinTable& bins = taps.bins;
  TapSpan span = {0, 0};
  if (roi.map >= 0) {
    const RoiAlignLevel& level = args.levels[roi.level];
    // One call, so that rows and columns, which are neighbouring threads, are done together.
    const AlignAxis<C> axis = is_row ? roi.y : roi.x;
    span = add_samples(axis, is_row ? bins.pooled_height : bins.pooled_width,
                       is_row ? level.height : level.width, is_row ? sample_weight(roi.y, roi.x) : C(1), 0,
                       is_row ? taps.row_output(n) : taps.column_output(n));
  }
  CellSpan& spans = bins.span[n];
  (is_row ? spans.y_begin : spans.x_begin) = span.begin;
  (is_row ? spans.y_end : spans.x_end) = span.end;
  if (is_row) bins.map[n] = roi.map;
}

template <typename C>
Status launch_roi_align_taps(const RoiAlignArgs& args, const TapTable<C>& taps, Stream stream) {
  const unsigned blocks = unsigned(ceil_div(2 * args.num_rois, int64_t(kTapThreads)));
  if (blocks == 0) return nullptr;
  return FASTRPN_LAUNCH(roi_align_taps_kernel<C>, blocks, kTapThreads, 0, stream, args, taps);
}

// The taps of one RoI, in shared memory: of each bin, first of y and then of x, `most` places.
template <typename C>
struct BlockTaps {
  Tap<C>* tap;
  int* count;  // how many of the places are taken
  int most;

  __device__ const Tap<C>* begin(int bin) const { return tap + bin * most; }
  __device__ const Tap<C>* end(int bin) const { return tap + (bin * most + count[bin]); }
  __device__ BlockTaps behind(int bins) const { return {tap + bins * most, count + bins, most}; }
};

constexpr int64_t kMostBlockTaps = 16 << 10;  // bytes; otherwise few blocks fit a multiprocessor

// Bytes of a block's taps, or 0: there are too many, or nobody knows how many.
template <typename C>
int64_t block_taps_bytes(const RoiAlignArgs& args) {
  const int64_t bins = args.pooled_height + args.pooled_width, samples = args.sampling_ratio;
  if (samples <= 0 || samples > kMostBlockTaps || bins > kMostBlockTaps) return 0;
  const int64_t bytes = bins * (2 * samples * int64_t(sizeof(Tap<C>)) + int64_t(sizeof(int)));
  return bytes <= kMostBlockTaps ? bytes : 0;
}

// Finds the taps of a RoI that takes part.
template <typename C>
__device__ __forceinline__ void find_block_taps(const RoiAlignArgs& args, const PlacedRoi<C>& roi,
                                                const BlockTaps<C>& block) {
  const int rows = int(args.pooled_height), bins = rows + int(args.pooled_width);
  const RoiAlignLevel& level = args.levels[roi.level];
  for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < bins; i += blockDim.x * blockDim.y) {
    const bool is_row = i < rows;
    const AlignAxis<C> axis = is_row ? roi.y : roi.x;
    Tap<C>* to = block.tap + i * block.most;
    TapSpan span;
    block.count[i] = int(add_bin_samples(axis, is_row ? i : i - rows, is_row ? level.height : level.width,
                                         is_row ? sample_weight(roi.y, roi.x) : C(1), to, &span) -
                         to);
  }
}

}  // namespace fastrpn
