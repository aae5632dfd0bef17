// What the RoI kernels on CUDA share.
#pragma once

#include "cuda/runtime.h"
#include "cuda/workspace.h"
#include "math/roi.h"

namespace fastrpn {

// RoI `n` of [num_rois, 5], widened; the element type is known at run time only.
template <typename C>
__device__ __forceinline__ void load_roi(const void* rois, DType dtype, int64_t n, C roi[5]) {
  for (int i = 0; i < 5; ++i) roi[i] = widen_at<C>(rois, dtype, 5 * n + i);
}

// The cells that a RoI reads; none if begin >= end.
struct alignas(16) CellSpan {
  int32_t y_begin, y_end, x_begin, x_end;
};

// Which RoI reads which map, and which of its bins which cells.
struct BinTable {
  int32_t* map;      // [num_rois]: level * batch + image, or -1 for a RoI that takes no part
  CellSpan* span;    // [num_rois]; empty for such a RoI
  int32_t* borders;  // [num_rois, 2 * (pooled_height + pooled_width)]
  int pooled_height, pooled_width;

  // Where a RoI's borders are: y_begin[ph], y_end[ph], x_begin[pw], x_end[pw].
  FASTRPN_HD_MEMBER int32_t* rows(int64_t n) const {
    return borders + n * 2 * (pooled_height + pooled_width);
  }
  FASTRPN_HD_MEMBER int32_t* columns(int64_t n) const { return rows(n) + 2 * pooled_height; }
};

template <typename Args>
BinTable lay_out_bins(const Args& args, WorkspaceCursor& cursor) {
  BinTable bins{nullptr, nullptr, nullptr, int(args.pooled_height), int(args.pooled_width)};
  bins.map = cursor.take<int32_t>(args.num_rois);
  bins.span = cursor.take<CellSpan>(args.num_rois);
  bins.borders = cursor.take<int32_t>(args.num_rois * 2 * (args.pooled_height + args.pooled_width));
  return bins;
}

constexpr int64_t kMostBins = 1 << 24;  // of a RoI
constexpr int kChannelsOfBlock = 32;    // at least, where there are many: blocks are y of the grid

// Why RoIs cannot be pooled, nor their gradients, or null.
inline Status roi_limits(int64_t channels, int64_t num_rois, int64_t pooled_height, int64_t pooled_width) {
  if (channels > kMaxGridYZ * kChannelsOfBlock) return "more than 2097120 channels";
  if (max(pooled_height, pooled_width) > kMostBins || pooled_height * pooled_width > kMostBins)
    return "more than 2^24 bins of a RoI";
  if (num_rois > kMaxGridX) return "2^31 RoIs or more";
  return nullptr;
}

}  // namespace fastrpn
