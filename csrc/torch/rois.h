// Checks shared by roi_pool and roi_align.
#pragma once

#include <limits>

#include "torch/tensor.h"

namespace fastrpn {

// `other` holds the features, or a gradient in their dtype.
inline void check_rois(const Tensor& rois, const Tensor& other, const char* other_name) {
  STD_TORCH_CHECK(rois.dim() == 2 && rois.size(1) == 5, "rois must have shape [K, 5]");
  check_same_device(rois, "rois", other, other_name);
  const bool half = other.scalar_type() == ScalarType::Half || other.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(
      rois.scalar_type() == other.scalar_type() || (half && rois.scalar_type() == ScalarType::Float),
      "rois must have the dtype of ", other_name, ", or float32 beside a half type");
}

// Kernels number rows and columns with 32 bits; products of them have 64.
inline void check_map(int64_t height, int64_t width) {
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(height <= kLargest && width <= kLargest, "feature maps must be smaller than 2^31 each way");
}

}  // namespace fastrpn
