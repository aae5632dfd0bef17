// The taps (math/align_taps.h) of all RoIs of a call, one after the other. Included once for each SIMD level.
#pragma once

#include "cpu/roi_tiles.h"
#include "math/align_taps.h"
#include "ops/roi_align/roi_align.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {
namespace {

template <typename T>
class AlignPlan {
 public:
  explicit AlignPlan(const RoiAlignArgs& args, const ParallelFor& parallel_for)
      : args_(args),
        rois_(5 * args.num_rois),
        map_of_(args.num_rois),
        region_of_(args.num_rois),
        taps_before_(args.num_rois + 1),
        first_(args.num_rois * firsts()),
        tap_(count_taps()) {
    parallel_for(args.num_rois, 64, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        if (map_of_[n] >= 0) fill(n);
      }
    });
  }

  // Map a RoI reads, level * batch + image, or -1; and the part of it.
  const int64_t* map_of() const { return map_of_.data(); }
  const CellBox* region_of() const { return region_of_.data(); }
  const RoiAlignLevel& level_of(int64_t map) const { return args_.levels[map / args_.batch]; }
  MapLayout layout_of(int64_t map) const {
    return MapLayout::of(args_.channels, level_of(map).height, level_of(map).width, args_.channels_last);
  }
  // Elements in a map's image before channel `channel`, and before the image.
  int64_t offset_in_level(int64_t map, int64_t channel) const {
    const RoiAlignLevel& level = level_of(map);
    return map % args_.batch * args_.channels * level.height * level.width + channel * layout_of(map).channel;
  }
  PooledLayout pooled() const {
    return {args_.channels, args_.pooled_height * args_.pooled_width, args_.channels_last};
  }

  AxisTaps<T> rows(int64_t n) const { return {first_.data() + n * firsts(), tap_.data() + taps_before_[n]}; }
  AxisTaps<T> columns(int64_t n) const {
    // Behind the rows' taps; both count from the RoI's first.
    AxisTaps<T> taps = rows(n);
    taps.first += args_.pooled_height + 1;
    return taps;
  }

 private:
  int64_t firsts() const { return args_.pooled_height + 1 + args_.pooled_width + 1; }

  AlignAxis<T> axis(int64_t n, int direction, int64_t pooled) const {
    const T* roi = rois_.data() + 5 * n + 1;
    return align_axis(roi[direction], roi[direction + 2], T(level_of(map_of_[n]).spatial_scale), pooled,
                      args_.sampling_ratio, args_.aligned);
  }
  AlignAxis<T> row_axis(int64_t n) const { return axis(n, 1, args_.pooled_height); }
  AlignAxis<T> column_axis(int64_t n) const { return axis(n, 0, args_.pooled_width); }

  static int64_t most_taps(const AlignAxis<T>& axis, int64_t pooled, int64_t size) {
    int64_t taps = 0, first, last;
    for (int64_t i = 0; i < pooled; ++i) {
      align_sample_range(axis, i, size, &first, &last);
      taps += 2 * (last - first < size + 8 ? last - first : size + 8);  // however many, they share cells
    }
    return taps;
  }

  // Reads the RoIs, finds their maps and says how much room their taps need.
  int64_t count_taps() {
    widen_rois(args_.rois, args_.roi_dtype, args_.num_rois, rois_.data());
    int64_t taps = 0;
    for (int64_t n = 0; n < args_.num_rois; ++n) {
      taps_before_[n] = taps;
      const int64_t image = roi_image(rois_.data() + 5 * n, args_.batch);
      const int64_t level = args_.roi_levels == nullptr ? 0 : args_.roi_levels[n];
      const bool reads = image >= 0 && level >= 0 && level < args_.num_levels &&
                         args_.levels[level].height > 0 && args_.levels[level].width > 0;
      map_of_[n] = reads ? level * args_.batch + image : -1;
      if (map_of_[n] < 0) continue;
      taps += most_taps(row_axis(n), args_.pooled_height, level_of(map_of_[n]).height) +
              most_taps(column_axis(n), args_.pooled_width, level_of(map_of_[n]).width);
    }
    taps_before_[args_.num_rois] = taps;
    return taps;
  }

  void fill(int64_t n) {
    const RoiAlignLevel& level = level_of(map_of_[n]);
    const AlignAxis<T> y = row_axis(n), x = column_axis(n);
    AxisTapsOutput<T> taps = {first_.data() + n * firsts(), tap_.data() + taps_before_[n]};
    const TapSpan rows = add_samples(y, args_.pooled_height, level.height, sample_weight(y, x), 0, taps);
    const int32_t num_rows = taps.first[args_.pooled_height];
    taps.first += args_.pooled_height + 1;
    const TapSpan columns = add_samples(x, args_.pooled_width, level.width, T(1), num_rows, taps);
    const CellBox region = {rows.begin, rows.end, columns.begin, columns.end};
    region_of_[n] = region.empty() ? CellBox{0, 0, 0, 0} : region;
  }

  const RoiAlignArgs& args_;
  Buffer<T> rois_;
  Buffer<int64_t> map_of_;
  Buffer<CellBox> region_of_;
  Buffer<int64_t> taps_before_;
  Buffer<int32_t> first_;
  Buffer<Tap<T>> tap_;
};

}  // namespace
}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
