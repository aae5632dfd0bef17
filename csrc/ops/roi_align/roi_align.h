// roi_align: RoIAlign (He et al., Mask R-CNN, section 3) over one feature map or, with `num_levels` maps,
// over a pyramid, each RoI reading the level it is assigned to. Forward and backward.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "cuda/status.h"
#include "math/dtype.h"

namespace fastrpn {

constexpr int kMaxRoiLevels = 8;

struct RoiAlignLevel {
  const void* features;  // [batch, channels, height, width] or channels last; backward: written
  int64_t height, width;
  double spatial_scale;
};

struct RoiAlignArgs {
  DType dtype;      // of features and output
  DType roi_dtype;  // of the RoIs: `dtype`, or float32 beside half features
  RoiAlignLevel levels[kMaxRoiLevels];
  int num_levels;
  const int32_t* roi_levels;  // [num_rois]: level of each RoI; null: all level 0
  const void* rois;           // [num_rois, 5]: batch index, xyxy in image pixels
  int64_t batch, channels, num_rois;
  int64_t pooled_height, pooled_width;
  int64_t sampling_ratio;  // samples a bin has in each direction; <= 0: ceil(roi size / pooled size)
  bool aligned;            // shift by half a pixel
  bool channels_last;
  void* output;  // [num_rois, channels, pooled_height, pooled_width] in the layout
};

FASTRPN_DECLARE_CPU(void, roi_align_cpu, const RoiAlignArgs& args, const ParallelFor& parallel_for);
size_t roi_align_workspace_bytes(const RoiAlignArgs& args);
Status roi_align_cuda(const RoiAlignArgs& args, void* workspace, Stream stream);

struct RoiAlignBackwardArgs {
  RoiAlignArgs forward;                // output and the levels' features are not read
  const void* grad_output;             // like output
  void* grad_features[kMaxRoiLevels];  // like the levels' features; every element is written
};

// Deterministic: each element of grad_features has one owner, which adds in RoI order.
FASTRPN_DECLARE_CPU(void, roi_align_backward_cpu, const RoiAlignBackwardArgs& args,
                    const ParallelFor& parallel_for);
size_t roi_align_backward_workspace_bytes(const RoiAlignBackwardArgs& args);
Status roi_align_backward_cuda(const RoiAlignBackwardArgs& args, void* workspace, Stream stream);

}  // namespace fastrpn
