// match_anchors: labels every anchor with its ground truth, background or ignore, without the
// anchors-by-ground-truth matrix: a running maximum for each anchor and for each ground truth. IoUs are
// compared with the thresholds rounded to the type of max_iou, as torch does. max_iou is 0 where an anchor is
// not valid or an image has no ground truth.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "cuda/status.h"
#include "math/dtype.h"

namespace fastrpn {

constexpr int64_t kBackground = -1, kIgnore = -2;  // labels beside ground truths

struct MatchAnchorsArgs {
  DType dtype;               // of anchors, gt_boxes and max_iou (half types: max_iou is float32)
  const void* anchors;       // [batch or 1, num_anchors, 4] xyxy
  bool batched_anchors;      // anchors has the batch dimension
  const void* gt_boxes;      // [batch, num_gt, 4] xyxy
  const int64_t* gt_counts;  // [batch]: rows >= gt_counts[b] are padding
  const uint8_t* valid;      // [batch or 1, num_anchors] bool; null: all valid
  bool batched_valid;
  int64_t batch, num_anchors, num_gt;
  double high, low;
  bool allow_low_quality;
  int64_t* matched_gt;  // [batch, num_anchors]: ground truth, -1 background, -2 ignore
  void* max_iou;        // [batch, num_anchors]
};

FASTRPN_DECLARE_CPU(void, match_anchors_cpu, const MatchAnchorsArgs& args, const ParallelFor& parallel_for);
size_t match_anchors_workspace_bytes(const MatchAnchorsArgs& args);
Status match_anchors_cuda(const MatchAnchorsArgs& args, void* workspace, Stream stream);

}  // namespace fastrpn
