// What the RoI kernels on CUDA share.
#pragma once

#include "cuda/runtime.h"
#include "math/roi.h"

namespace fastrpn {

// RoI `n` of [num_rois, 5], widened; the element type is known at run time only.
template <typename C>
__device__ __forceinline__ void load_roi(const void* rois, DType dtype, int64_t n, C roi[5]) {
  for (int i = 0; i < 5; ++i) roi[i] = widen_at<C>(rois, dtype, 5 * n + i);
}

// Channels that a thread pools in NCHW: one look at the RoI's plan serves so many loads.
constexpr int kPlanes = 4;

// Where a thread's kCount channels of a cell or bin lie: side by side, or, in NCHW, each in its plane,
// `plane` elements apart.
template <int kCount, bool kChannelsLast, typename T>
__device__ __forceinline__ Pack<T, kCount> load_channels(const T* from, int64_t plane) {
  if constexpr (kChannelsLast) {
    return *reinterpret_cast<const Pack<T, kCount>*>(from);
  } else {
    Pack<T, kCount> pack;
#pragma unroll
    for (int k = 0; k < kCount; ++k) pack.values[k] = from[k * plane];
    return pack;
  }
}

template <int kCount, bool kChannelsLast, typename T>
__device__ __forceinline__ void store_channels(const Pack<T, kCount>& pack, T* to, int64_t plane) {
  if constexpr (kChannelsLast) {
    *reinterpret_cast<Pack<T, kCount>*>(to) = pack;
  } else {
#pragma unroll
    for (int k = 0; k < kCount; ++k) to[k * plane] = pack.values[k];
  }
}

}  // namespace fastrpn
