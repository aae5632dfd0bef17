// soft_nms: Soft-NMS (Bodla et al., 2017): scores decay with overlap instead of boxes being dropped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "cuda/status.h"
#include "math/dtype.h"

namespace fastrpn {

enum class SoftNmsMethod : int { linear, gaussian };

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

// sigma as a T to divide by: one that T rounds to 0 would make 0 / 0 of the square of a tiny IoU.
template <typename T>
T positive_sigma(const SoftNmsArgs& args) {
  constexpr T smallest = std::numeric_limits<T>::denorm_min();
  return T(args.sigma) > smallest ? T(args.sigma) : smallest;
}

FASTRPN_DECLARE_CPU(void, soft_nms_cpu, const SoftNmsArgs& args, const ParallelFor& parallel_for);

size_t soft_nms_workspace_bytes(const SoftNmsArgs& args);
Status soft_nms_cuda(const SoftNmsArgs& args, void* workspace, Stream stream);

}  // namespace fastrpn
