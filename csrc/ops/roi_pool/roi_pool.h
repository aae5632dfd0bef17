// roi_pool: RoI max pooling (Girshick, Fast R-CNN, section 2.1), forward and backward.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "cuda/status.h"
#include "math/dtype.h"

namespace fastrpn {

struct RoiPoolArgs {
  DType dtype;      // of features and output
  DType roi_dtype;  // of the RoIs: `dtype`, or float32 beside half features
  const void*
      features;      // [batch, channels, height, width], or channels last: [batch, height, width, channels]
  const void* rois;  // [num_rois, 5]: batch index, xyxy in image pixels
  int64_t batch, channels, height, width, num_rois;
  int64_t pooled_height, pooled_width;
  double spatial_scale;
  bool channels_last;  // of features, output and argmax alike
  void* output;        // [num_rois, channels, pooled_height, pooled_width] in that layout
  int32_t* argmax;     // like output: y * width + x of each maximum, -1 for an empty bin; null: not wanted
};

FASTRPN_DECLARE_CPU(void, roi_pool_cpu, const RoiPoolArgs& args, const ParallelFor& parallel_for);
size_t roi_pool_workspace_bytes(const RoiPoolArgs& args);
Status roi_pool_cuda(const RoiPoolArgs& args, void* workspace, Stream stream);

struct RoiPoolBackwardArgs {
  DType dtype, roi_dtype;
  const void* grad_output;  // [num_rois, channels, pooled_height, pooled_width] in the layout
  const void* rois;         // [num_rois, 5]
  const int32_t* argmax;    // like grad_output
  int64_t batch, channels, height, width, num_rois;
  int64_t pooled_height, pooled_width;
  double spatial_scale;
  bool channels_last;
  void* grad_features;  // [batch, channels, height, width] in the layout; every element is written
};

// Deterministic: each element of grad_features has one owner, which adds in RoI order.
FASTRPN_DECLARE_CPU(void, roi_pool_backward_cpu, const RoiPoolBackwardArgs& args,
                    const ParallelFor& parallel_for);
size_t roi_pool_backward_workspace_bytes(const RoiPoolBackwardArgs& args);
Status roi_pool_backward_cuda(const RoiPoolBackwardArgs& args, void* workspace, Stream stream);

}  // namespace fastrpn
