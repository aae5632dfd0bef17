// Geometry of RoI pooling, written once for CPU and CUDA. Both operators are separable: which rows a bin
// reads depends on y alone and which columns on x alone, so everything here describes one axis and is used
// twice. The arithmetic follows torchvision's operation by operation, in T (float for half types, without
// FMA contraction), because rounding decides which cells a bin owns.
#pragma once

#include <math.h>

#include <cstdint>

#include "math/macros.h"

namespace fastrpn {

FASTRPN_HD float round_away(float value) { return roundf(value); }
FASTRPN_HD double round_away(double value) { return round(value); }
FASTRPN_HD float round_down(float value) { return floorf(value); }
FASTRPN_HD double round_down(double value) { return floor(value); }
FASTRPN_HD float round_up(float value) { return ceilf(value); }
FASTRPN_HD double round_up(double value) { return ceil(value); }

FASTRPN_HD int64_t clamp_index(int64_t value, int64_t size) {
  return value < 0 ? 0 : value > size ? size : value;
}

// A coordinate as an integer; what does not fit (there is no map that large) is clamped to 2^40.
template <typename T>
FASTRPN_HD int64_t to_index(T value) {
  const T limit = T(int64_t(1) << 40);
  return int64_t(!(value < limit) ? limit : value < -limit ? -limit : value);
}

// The image that roi = (batch index, x1, y1, x2, y2) lies in, or -1 for a RoI that takes no part: one with
// a NaN or infinite number, or with a batch index outside [0, batch). The index is truncated.
template <typename T>
FASTRPN_HD int64_t roi_image(const T* roi, int64_t batch) {
  for (int i = 0; i < 5; ++i) {
    if (!(roi[i] - roi[i] == T(0))) return -1;
  }
  return roi[0] > T(-1) && roi[0] < T(batch) ? int64_t(roi[0]) : -1;
}

// ---- roi_pool: bins with integer borders, neighbours overlap by up to a cell ----

template <typename T>
struct PoolAxis {
  int64_t start;  // first cell of the RoI
  T bin;          // cells a bin spans
};

// The RoI from `low` to `high` in image pixels, on an axis cut into `pooled` bins.
template <typename T>
FASTRPN_HD PoolAxis<T> pool_axis(T low, T high, T spatial_scale, int64_t pooled) {
  const int64_t start = to_index(round_away(low * spatial_scale));
  const int64_t end = to_index(round_away(high * spatial_scale));
  const int64_t extent = end - start + 1;
  return {start, T(extent > 1 ? extent : 1) / T(pooled)};
}

// Cells [*begin, *end) of bin `index` on a map of `size` cells; empty if the bin lies outside.
template <typename T>
FASTRPN_HD void pool_bin(PoolAxis<T> axis, int64_t index, int64_t size, int64_t* begin, int64_t* end) {
  *begin = clamp_index(axis.start + to_index(round_down(T(index) * axis.bin)), size);
  *end = clamp_index(axis.start + to_index(round_up(T(index + 1) * axis.bin)), size);
}

// ---- roi_align: bins with real borders, `grid` equally spaced bilinear samples along each axis ----

template <typename T>
struct AlignAxis {
  T start;       // border of the RoI, in cells
  T bin;         // cells a bin spans
  int64_t grid;  // samples in a bin; 0: none
};

template <typename T>
FASTRPN_HD AlignAxis<T> align_axis(T low, T high, T spatial_scale, int64_t pooled, int64_t sampling_ratio,
                                   bool aligned) {
  const T offset = aligned ? T(0.5) : T(0);
  const T start = low * spatial_scale - offset;
  T extent = high * spatial_scale - offset - start;
  if (!aligned && extent < T(1)) extent = T(1);
  const int64_t adaptive = to_index(round_up(extent / T(pooled)));
  const int64_t grid = sampling_ratio > 0 ? sampling_ratio : adaptive > 0 ? adaptive : 0;
  return {start, extent / T(pooled), grid};
}

// Samples [*first, *last) of bin `index` that may touch a map of `size` cells. Only in huge RoIs, whose grid
// follows their size, are samples left out: those more than a cell beyond the map.
template <typename T>
FASTRPN_HD void align_sample_range(AlignAxis<T> axis, int64_t index, int64_t size, int64_t* first,
                                   int64_t* last) {
  *first = 0;
  *last = axis.grid;
  const T spacing = axis.bin / T(axis.grid);
  if (axis.grid <= 64 || spacing == T(0)) return;
  const T base = axis.start + T(index) * axis.bin;
  const T low = (T(-1) - base) / spacing, high = (T(size) - base) / spacing;
  const bool forward = spacing > T(0);
  *first = clamp_index(to_index(round_down(forward ? low : high)) - 2, axis.grid);
  *last = clamp_index(to_index(round_up(forward ? high : low)) + 2, axis.grid);
}

// A sample reads the cells `low` and `high` with these weights.
template <typename T>
struct AlignSample {
  int64_t low, high;
  T weight_low, weight_high;
};

// Returns false if the sample lies off the map, where features count as zero.
template <typename T>
FASTRPN_HD bool align_sample(AlignAxis<T> axis, int64_t index, int64_t sample, int64_t size,
                             AlignSample<T>* result) {
  T at = axis.start + T(index) * axis.bin + (T(sample) + T(0.5)) * axis.bin / T(axis.grid);
  if (!(at >= T(-1) && at <= T(size))) return false;
  if (at < T(0)) at = T(0);
  int64_t low = int64_t(at);
  if (low >= size - 1) {
    *result = {size - 1, size - 1, T(1), T(0)};
  } else {
    const T fraction = at - T(low);
    *result = {low, low + 1, T(1) - fraction, fraction};
  }
  return true;
}

}  // namespace fastrpn
