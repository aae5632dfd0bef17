// soft_nms: Soft-NMS (Bodla et al., 2017): scores decay with overlap instead of boxes being dropped.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "cuda/status.h"
#include "math/dtype.h"
#include "math/soft_nms_decay.h"

namespace fastrpn {

struct SoftNmsArgs {
  DType dtype;         // of the boxes and the scores
  const void* boxes;   // [n, 4] xyxy
  const void* scores;  // [n]
  int64_t n;
  SoftNmsMethod method;
  double sigma;            // gaussian: weight exp(-iou^2 / sigma)
  double iou_threshold;    // linear: weight 1 - iou where iou > iou_threshold (math/iou_threshold.h)
  double score_threshold;  // a box whose decayed score, rounded to `dtype`, is not > this is dropped
  int64_t* indices;        // [n]: kept rows in order of selection
  void* decayed;           // [n]: their scores when selected, of `dtype`
  int64_t* kept;           // [1]
};

FASTRPN_DECLARE_CPU(void, soft_nms_cpu, const SoftNmsArgs& args, const ParallelFor& parallel_for);

size_t soft_nms_workspace_bytes(const SoftNmsArgs& args);
Status soft_nms_cuda(const SoftNmsArgs& args, void* workspace, Stream stream);

}  // namespace fastrpn
