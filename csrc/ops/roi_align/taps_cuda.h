// Which cells each bin of roi_align reads on CUDA, and with what weights.
//
// The samples of a bin form a grid and bilinear weights are products, so a bin's value is
//   sum over its rows r of wy[r] * (sum over its columns c of wx[c] * feature[r][c])
// with the weights of all its samples added up for each axis alone. However many samples there are, a bin
// reads a cell once. One kernel computes these taps, a thread for each RoI and axis, and all others read
// them. The mean's division is part of wy. Same arithmetic, in the same order, as on the CPU.
#pragma once

#include "cuda/gradient_tile.h"
#include "cuda/roi.h"
#include "cuda/runtime.h"
#include "cuda/workspace.h"
#include "ops/roi_align/roi_align.h"

namespace fastrpn {

// The taps of one axis of a RoI: bin i has those numbered first[i] to first[i + 1] - 1.
template <typename C>
struct AxisTaps {
  int32_t* first;
  int32_t* cell;
  C* weight;
  int32_t *begin, *end;  // of the CellSpan: the cells they span
};

template <typename C>
struct Taps {
  int32_t* map;    // [num_rois]: level * batch + image that the RoI reads, or -1
  CellSpan* span;  // [num_rois]
  int32_t* first;  // [num_rois, pooled_height + 1 + pooled_width + 1]
  int32_t* cell;   // [num_rois, most_rows + most_columns]
  C* weight;       // like cell
  int pooled_height, pooled_width;
  int64_t most_rows, most_columns;  // taps of an axis

  FASTRPN_HD_MEMBER AxisTaps<C> rows(int64_t n) const {
    const int64_t at = n * (most_rows + most_columns);
    return {first + n * (pooled_height + pooled_width + 2), cell + at, weight + at, &span[n].y_begin,
            &span[n].y_end};
  }
  FASTRPN_HD_MEMBER AxisTaps<C> columns(int64_t n) const {
    const int64_t at = n * (most_rows + most_columns) + most_rows;
    return {first + n * (pooled_height + pooled_width + 2) + pooled_height + 1, cell + at, weight + at,
            &span[n].x_begin, &span[n].x_end};
  }
};

// The most taps that an axis of `size` cells may have. A sample reads two cells. Samples follow each other,
// so that neighbouring bins share but a few: two, or, in a RoI so huge that its borders are cells apart in
// the type they are rounded to, up to some eight for each bin. Where samples run backwards, which needs
// `aligned` and a fixed number of them, a cell may be the low one of some samples and then the high one of
// others.
inline int64_t most_taps(const RoiAlignArgs& args, int64_t pooled, int64_t size) {
  const int64_t by_cells = size + 8 * pooled;
  if (args.sampling_ratio <= 0) return by_cells;
  const int64_t samples = min(args.sampling_ratio, by_cells);  // of a bin; more would exceed the other bound
  return min((args.aligned ? 2 : 1) * by_cells, 2 * samples * pooled);
}

template <typename C>
Taps<C> lay_out_taps(const RoiAlignArgs& args, WorkspaceCursor& cursor) {
  Taps<C> taps{};
  taps.pooled_height = int(args.pooled_height);
  taps.pooled_width = int(args.pooled_width);
  for (int level = 0; level < args.num_levels; ++level) {
    const int64_t rows = most_taps(args, args.pooled_height, args.levels[level].height);
    const int64_t columns = most_taps(args, args.pooled_width, args.levels[level].width);
    if (rows > taps.most_rows) taps.most_rows = rows;
    if (columns > taps.most_columns) taps.most_columns = columns;
  }
  taps.map = cursor.take<int32_t>(args.num_rois);
  taps.span = cursor.take<CellSpan>(args.num_rois);
  taps.first = cursor.take<int32_t>(args.num_rois * (args.pooled_height + args.pooled_width + 2));
  taps.cell = cursor.take<int32_t>(args.num_rois * (taps.most_rows + taps.most_columns));
  taps.weight = cursor.take<C>(args.num_rois * (taps.most_rows + taps.most_columns));
  return taps;
}

// Adds up the samples of all bins of an axis. Samples are in order, so a cell met before is one of the latest
// two of its bin; those stay in registers, and memory is only written.
template <typename C>
__device__ void add_samples(const AlignAxis<C>& axis, int pooled, int64_t size, C scale,
                            const AxisTaps<C>& taps) {
  int at = 0;
  int32_t begin = int32_t(size), end = 0;
  for (int bin = 0; bin < pooled; ++bin) {
    taps.first[bin] = at;
    int32_t latest = -1, older = -1;
    C latest_weight = 0, older_weight = 0;
    const auto add = [&](int64_t where, C amount) {
      const int32_t cell = int32_t(where);
      if (cell == latest) {
        taps.weight[at - 1] = latest_weight += amount;
      } else if (cell == older) {
        taps.weight[at - 2] = older_weight += amount;
      } else {
        older = latest;
        older_weight = latest_weight;
        latest = taps.cell[at] = cell;
        latest_weight = taps.weight[at++] = amount;
        begin = min(begin, cell);
        end = max(end, cell + 1);
      }
    };
    int64_t sample, last;
    align_sample_range(axis, bin, size, &sample, &last);
    for (; sample < last; ++sample) {
      AlignSample<C> found;
      if (!align_sample(axis, bin, sample, size, &found)) continue;
      add(found.low, found.weight_low * scale);
      add(found.high, found.weight_high * scale);
    }
  }
  taps.first[pooled] = at;
  *taps.begin = begin;
  *taps.end = end;
}

constexpr int kTapThreads = 128;

template <typename C>
__global__ void __launch_bounds__(kTapThreads) taps_kernel(RoiAlignArgs args, Taps<C> taps) {
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
  if (is_row) taps.map[n] = reads ? int32_t(level * args.batch + image) : -1;
  if (!reads) return;
  const RoiAlignLevel& map = args.levels[level];
  const C scale = C(map.spatial_scale);
  const auto y = align_axis(roi[2], roi[4], scale, args.pooled_height, args.sampling_ratio, args.aligned);
  const auto x = align_axis(roi[1], roi[3], scale, args.pooled_width, args.sampling_ratio, args.aligned);
  if (is_row) {
    const double samples = double(y.grid) * double(x.grid);  // may exceed 2^63
    add_samples(y, taps.pooled_height, map.height, samples > 0 ? C(1) / C(samples) : C(0), taps.rows(n));
  } else {
    add_samples(x, taps.pooled_width, map.width, C(1), taps.columns(n));
  }
}

template <typename C>
Status launch_taps(const RoiAlignArgs& args, const Taps<C>& taps, Stream stream) {
  const unsigned blocks = unsigned(ceil_div(2 * args.num_rois, int64_t(kTapThreads)));
  if (blocks == 0) return nullptr;
  return FASTRPN_LAUNCH(taps_kernel<C>, blocks, kTapThreads, 0, stream, args, taps);
}

}  // namespace fastrpn
