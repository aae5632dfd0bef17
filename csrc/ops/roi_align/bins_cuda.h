// The bins of one RoI of roi_align on CUDA, from taps in shared memory or in the table (taps_cuda.h).
#pragma once

#include "cuda/roi_forward.h"
#include "ops/roi_align/taps_cuda.h"

namespace fastrpn {

// One bin for kPack channels; `features`: of the map, from the first of the channels on. Cells of a row lie
// `cell_bytes` apart.
template <int kPack, bool kChannelsLast, typename T, typename Taps, typename C>
__device__ __forceinline__ void align_bin(const T* features, const RoiAlignLevel& level, unsigned cell_bytes,
                                          const Taps& rows, int ph, const Taps& columns, int pw,
                                          C (&sum)[kPack]) {
  const Tap<C>*const last_row = rows.end(ph), *const first = columns.begin(pw),
                     *const last = columns.end(pw) - 1;
  for (const Tap<C>* r = rows.begin(ph); r < last_row; ++r) {
    const int64_t row = bytes_before_row(r->cell, level.width, cell_bytes);
    C row_sum[kPack] = {};
#pragma unroll 1
    for (const Tap<C>* c = first; c <= last; c += kCellsAhead) {
      Pack<T, kPack> packs[kCellsAhead];
      C weight[kCellsAhead];
#pragma unroll
      for (int i = 0; i < kCellsAhead; ++i) {
        // Loads that wait for no condition are on their way together.
        const Tap<C> tap = *(c + i < last ? c + i : last);
        weight[i] = tap.weight;
        packs[i] = load_channels<kPack, kChannelsLast>(features, row, tap.cell, cell_bytes,
                                                       level.height * level.width);
      }
#pragma unroll
      for (int i = 0; i < kCellsAhead; ++i) {
        // A zero more changes no sum: none is -0.
        const bool counts = i == 0 || c + i <= last;
        for (int k = 0; k < kPack; ++k) {
          const C value = widen(packs[i].values[k]);
          row_sum[k] += (counts ? value : C(0)) * weight[i];
        }
      }
    }
    const C row_weight = r->weight;
    for (int k = 0; k < kPack; ++k) sum[k] += row_sum[k] * row_weight;
  }
}

// The block's bins of a RoI that reads map `map` of a level, or none.
template <int kPack, bool kChannelsLast, typename T, typename Taps>
__device__ __forceinline__ void align_bins(const RoiAlignArgs& args, int slice, int map, const Taps& rows,
                                           const Taps& columns) {
  using C = compute_t<T>;
  const int64_t n = blockIdx.x;
  const int batch = int(args.batch), pooled_width = int(args.pooled_width);
  const int bins = int(args.pooled_height) * pooled_width;
  const RoiAlignLevel& level = args.levels[map < 0 ? 0 : map / batch];
  const int64_t plane = level.height * level.width;
  const T* image = static_cast<const T*>(level.features);
  if (map >= 0) image += map % batch * args.channels * plane;
  const unsigned cell_bytes = bytes_of_cell<T, kChannelsLast>(args.channels);
  for_bins<kPack, kChannelsLast>(bins, args.channels, slice, [&](int bin, int64_t channel) {
    C sum[kPack] = {};
    if (map >= 0) {
      align_bin<kPack, kChannelsLast>(image + channel * (kChannelsLast ? 1 : plane), level, cell_bytes, rows,
                                      bin / pooled_width, columns, bin % pooled_width, sum);
    }
    Pack<T, kPack> output;
    for (int k = 0; k < kPack; ++k) output.values[k] = narrow<T>(sum[k]);
    T* to = static_cast<T*>(args.output) + pooled_at<kChannelsLast>(n, args.channels, bins, channel, bin);
    store_channels<kPack, kChannelsLast>(output, to, bins);
  });
}

}  // namespace fastrpn
