// RoIs grouped by the map that they read, in their order, so that a block of the backward
// (gradient_stage.h) looks at those of its own map alone.
//
// group: a block for each map goes through what maps the RoIs read, once to count those of maps before, then
//   to list its own in their order, by prefix sums.
// Cost: 8 bytes read for each RoI and map, which lie in the L2 cache; 20 bytes a RoI and 8 a map of memory.
// Of a single map nothing is launched and nothing kept: its RoIs are grouped as they are.
#pragma once

#include "cuda/roi.h"
#include "cuda/scan.h"

namespace fastrpn {

// The places [begin, end) of a map's RoIs.
struct alignas(8) MapRois {
  unsigned begin, end;
};

struct RoisByMap {
  MapRois* maps;   // [maps], or null of a single one
  CellSpan* span;  // of the RoI at each place; empty for one that takes no part
  int32_t* roi;    // at each place
  unsigned count;  // of all RoIs

  __device__ MapRois of_map(int map) const { return maps == nullptr ? MapRois{0, count} : maps[map]; }
  __device__ int roi_at(unsigned place) const { return maps == nullptr ? int(place) : roi[place]; }
};

inline RoisByMap lay_out_groups(const BinTable& bins, int64_t num_rois, int64_t maps,
                                WorkspaceCursor& cursor) {
  if (maps == 1) return {nullptr, bins.span, nullptr, unsigned(num_rois)};
  RoisByMap rois{};
  rois.maps = cursor.take<MapRois>(maps);
  rois.span = cursor.take<CellSpan>(num_rois);
  rois.roi = cursor.take<int32_t>(num_rois);
  rois.count = unsigned(num_rois);
  return rois;
}

namespace {

constexpr int kGroupWarps = 8;

// grid: a block for each map.
__global__ void __launch_bounds__(32 * kGroupWarps) roi_group_kernel(BinTable bins, RoisByMap rois) {
  __shared__ int of_warps[kGroupWarps];
  const int map = int(blockIdx.x);
  int before = 0, begin = 0;
  for (int64_t n = threadIdx.x; n < rois.count; n += blockDim.x) {
    before += unsigned(bins.map[n]) < unsigned(map);  // not the -1 of a RoI that takes no part
  }
  sum_before(before, of_warps, &begin);
  int end = begin;
  for (int64_t first = 0; first < rois.count; first += blockDim.x) {
    const int64_t n = first + threadIdx.x;
    const bool mine = n < rois.count && bins.map[n] == map;
    int found = 0;
    const int place = end + sum_before(int(mine), of_warps, &found);
    if (mine) {
      rois.roi[place] = int32_t(n);
      rois.span[place] = bins.span[n];
    }
    end += found;
  }
  if (threadIdx.x == 0) rois.maps[map] = {unsigned(begin), unsigned(end)};
}

}  // namespace

inline Status launch_roi_group(const BinTable& bins, const RoisByMap& rois, int64_t maps, Stream stream) {
  if (maps == 1) return nullptr;
  return FASTRPN_LAUNCH(roi_group_kernel, unsigned(maps), 32 * kGroupWarps, 0, stream, bins, rois);
}

}  // namespace fastrpn
