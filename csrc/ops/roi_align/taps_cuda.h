// The taps (math/align_taps.h) of all RoIs of a call on CUDA. One kernel computes them, a thread for each RoI
// and axis, and all others read them. Same arithmetic, in the same order, as on the CPU.
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
  int32_t* cell;                    // [num_rois, most_rows + most_columns]
  C* weight;                        // like cell
  int64_t most_rows, most_columns;  // taps of an axis

  FASTRPN_HD_MEMBER AxisTapsOutput<C> row_output(int64_t n) const {
    const int64_t at = n * (most_rows + most_columns);
    return {first + n * (bins.pooled_height + bins.pooled_width + 2), cell + at, weight + at, bins.rows(n)};
  }
  FASTRPN_HD_MEMBER AxisTapsOutput<C> column_output(int64_t n) const {
    const AxisTapsOutput<C> rows = row_output(n);
    return {rows.first + bins.pooled_height + 1, rows.cell + most_rows, rows.weight + most_rows,
            bins.columns(n)};
  }
  FASTRPN_HD_MEMBER AxisTaps<C> rows(int64_t n) const {
    const AxisTapsOutput<C> taps = row_output(n);
    return {taps.first, taps.cell, taps.weight};
  }
  FASTRPN_HD_MEMBER AxisTaps<C> columns(int64_t n) const {
    const AxisTapsOutput<C> taps = column_output(n);
    return {taps.first, taps.cell, taps.weight};
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
  taps.cell = cursor.take<int32_t>(args.num_rois * (taps.most_rows + taps.most_columns));
  taps.weight = cursor.take<C>(args.num_rois * (taps.most_rows + taps.most_columns));
  return taps;
}

constexpr int kTapThreads = 128;

template <typename C>
__global__ void __launch_bounds__(kTapThreads) roi_align_taps_kernel(RoiAlignArgs args, TapTable<C> taps) {
  const int64_t i = int64_t(blockIdx.x) * kTapThreads + threadIdx.x;
  const int64_t n = i / 2;
  const bool is_row = i % 2 == 0;
  if (n >= args.num_rois) return;
  C roi[5];
  load_roi(args.rois, args.roi_dtype, n, roi);
  const int64_t image = roi_image(roi, args.batch);
  const int level = args.roi_levels == nullptr ? 0 : args.roi_levels[n];
  const bool reads = image >= 0 && level >= 0 && level < args.num_levels && args.levels[level].height > 0 &&
                     args.levels[level].width > 0;
  const BinTable& bins = taps.bins;
  TapSpan span = {0, 0};
  if (reads) {
    const RoiAlignLevel& map = args.levels[level];
    const C scale = C(map.spatial_scale);
    const auto y = align_axis(roi[2], roi[4], scale, args.pooled_height, args.sampling_ratio, args.aligned);
    const auto x = align_axis(roi[1], roi[3], scale, args.pooled_width, args.sampling_ratio, args.aligned);
    // One call, so that rows and columns, which are neighbouring threads, are done together.
    const AlignAxis<C> axis = {is_row ? y.start : x.start, is_row ? y.bin : x.bin, is_row ? y.grid : x.grid};
    span = add_samples(axis, is_row ? bins.pooled_height : bins.pooled_width, is_row ? map.height : map.width,
                       is_row ? sample_weight(y, x) : C(1), 0,
                       is_row ? taps.row_output(n) : taps.column_output(n));
  }
  CellSpan& spans = bins.span[n];
  (is_row ? spans.y_begin : spans.x_begin) = span.begin;
  (is_row ? spans.y_end : spans.x_end) = span.end;
  if (is_row) bins.map[n] = reads ? int32_t(level * args.batch + image) : -1;
}

template <typename C>
Status launch_roi_align_taps(const RoiAlignArgs& args, const TapTable<C>& taps, Stream stream) {
  const unsigned blocks = unsigned(ceil_div(2 * args.num_rois, int64_t(kTapThreads)));
  if (blocks == 0) return nullptr;
  return FASTRPN_LAUNCH(roi_align_taps_kernel<C>, blocks, kTapThreads, 0, stream, args, taps);
}

}  // namespace fastrpn
