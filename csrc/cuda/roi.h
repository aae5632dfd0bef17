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

}  // namespace fastrpn
