// Which cells each bin of roi_align reads along one axis, and with what weights.
//
// The samples of a bin form a grid and bilinear weights are products, so a bin's value is
//   sum over its rows r of wy[r] * (sum over its columns c of wx[c] * feature[r][c])
// with the weights of all its samples added up for each axis alone. However many samples there are, a bin
// reads a cell once. The mean's division is part of wy.
#pragma once

#include "math/roi.h"

namespace fastrpn {

// The share of a sample in its bin's mean.
template <typename T>
FASTRPN_HD T sample_weight(const AlignAxis<T>& y, const AlignAxis<T>& x) {
  const double samples = double(y.grid) * double(x.grid);  // may exceed 2^63
  return samples > 0 ? T(1) / T(samples) : T(0);
}

// A bin reads a row or column of cells with this weight.
template <typename T>
struct alignas(2 * sizeof(T)) Tap {
  int32_t cell;
  T weight;
};

// The taps of an axis: bin i has tap[first[i]] to tap[first[i + 1] - 1].
template <typename T>
struct AxisTaps {
  const int32_t* first;
  const Tap<T>* tap;

  FASTRPN_HD_MEMBER const Tap<T>* begin(int64_t bin) const { return tap + first[bin]; }
  FASTRPN_HD_MEMBER const Tap<T>* end(int64_t bin) const { return tap + first[bin + 1]; }
};

// The same, to be written.
template <typename T>
struct AxisTapsOutput {
  int32_t* first;
  Tap<T>* tap;
  int32_t* borders = nullptr;  // unless null: bin i reads no cell outside [borders[i], borders[bins + i])
};

// The cells that a bin or an axis reads; none if begin >= end.
struct TapSpan {
  int32_t begin, end;
};

// Adds up the samples of bin `bin` of an axis, each times `scale`, as taps from `to` on; returns the end.
// Samples are in order, so a cell met before is one of the latest two of the bin; those stay in registers,
// and memory is only written. Where they run backwards, so do a sample's two cells: a bin has a tap of a cell
// once.
template <typename T>
FASTRPN_HD Tap<T>* add_bin_samples(const AlignAxis<T>& axis, int64_t bin, int64_t size, T scale, Tap<T>* to,
                                   TapSpan* span) {
  const bool backwards = axis.bin < T(0);
  *span = {int32_t(size), 0};
  int32_t latest = -1, older = -1;
  T latest_weight = 0, older_weight = 0;
  const auto add = [&](int64_t where, T amount) {
    const int32_t cell = int32_t(where);
    if (cell == latest) {
      to[-1].weight = latest_weight += amount;
    } else if (cell == older) {
      to[-2].weight = older_weight += amount;
    } else {
      older = latest;
      older_weight = latest_weight;
      latest = cell;
      latest_weight = amount;
      *to++ = {cell, amount};
      if (cell < span->begin) span->begin = cell;
      if (cell >= span->end) span->end = cell + 1;
    }
  };
  int64_t sample, last;
  align_sample_range(axis, bin, size, &sample, &last);
  for (; sample < last; ++sample) {
    AlignSample<T> found;
    if (!align_sample(axis, bin, sample, size, &found)) continue;
    if (backwards) add(found.high, found.weight_high * scale);
    add(found.low, found.weight_low * scale);
    if (!backwards) add(found.high, found.weight_high * scale);
  }
  return to;
}

// The same for all bins, as taps numbered from `at` on.
template <typename T>
FASTRPN_HD TapSpan add_samples(const AlignAxis<T>& axis, int64_t pooled, int64_t size, T scale, int32_t at,
                               const AxisTapsOutput<T>& taps) {
  TapSpan all = {int32_t(size), 0};
  for (int64_t bin = 0; bin < pooled; ++bin) {
    TapSpan span;
    taps.first[bin] = at;
    at = int32_t(add_bin_samples(axis, bin, size, scale, taps.tap + at, &span) - taps.tap);
    if (taps.borders != nullptr) {
      taps.borders[bin] = span.begin;
      taps.borders[pooled + bin] = span.end;
    }
    all = {all.begin < span.begin ? all.begin : span.begin, all.end > span.end ? all.end : span.end};
  }
  taps.first[pooled] = at;
  return all;
}

}  // namespace fastrpn
