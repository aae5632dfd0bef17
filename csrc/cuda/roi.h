// What the RoI kernels on CUDA share.
#pragma once

#include "cuda/runtime.h"
#include "math/roi.h"

namespace fastrpn {

// RoI `n` of [num_rois, 5], widened; the element type is known at run time only.
template <typename C>
__device__ __forceinline__ void load_roi(const void* rois, DType dtype, int64_t n, C roi[5]) {
  for (int i = 0; i < 5; ++i) {
    const int64_t at = 5 * n + i;
    switch (dtype) {
      case DType::float16:
        roi[i] = C(widen(static_cast<const half_t*>(rois)[at]));
        break;
      case DType::bfloat16:
        roi[i] = C(widen(static_cast<const bfloat16_t*>(rois)[at]));
        break;
      case DType::float32:
        roi[i] = C(static_cast<const float*>(rois)[at]);
        break;
      case DType::float64:
        roi[i] = C(static_cast<const double*>(rois)[at]);
        break;
    }
  }
}

}  // namespace fastrpn
