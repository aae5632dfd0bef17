// generate_proposals: the RPN's proposal stage in one call (Ren et al., section 3.3): per image and level the
// best `pre_nms_top_n` anchors, decoded, clipped, without the small ones, NMS, then the best `post_nms_top_n`
// of the image. Equal logits rank by anchor, equal scores of one image by level, then rank. A NaN logit ranks
// first, as in torch.sort; NaN scores and boxes are dropped with the small boxes, before NMS.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "cuda/status.h"
#include "math/dtype.h"

namespace fastrpn {

struct GenerateProposalsArgs {
  DType dtype;                       // of objectness, deltas and anchors; half types decode in float32
  const void* objectness;            // [batch, num_anchors] logits
  const void* deltas;                // [batch, num_anchors, 4]
  const void* anchors;               // [num_anchors, 4] xyxy, of anchor_dtype
  DType anchor_dtype;                // `dtype`, or float32 beside half objectness
  const int64_t* image_sizes;        // [batch, 2] height, width
  const int64_t* anchors_per_level;  // host memory, [num_levels], sums to num_anchors
  int64_t batch, num_anchors, num_levels;
  int64_t pre_nms_top_n, post_nms_top_n;  // positive
  double nms_threshold, min_size;
  void* proposals;  // [batch, post_nms_top_n, 4], float32 (float64 for float64); rows past counts are 0
  void* scores;     // [batch, post_nms_top_n], float32 (float64): sigmoids
  int64_t* counts;  // [batch]
};

FASTRPN_DECLARE_CPU(void, generate_proposals_cpu, const GenerateProposalsArgs& args,
                    const ParallelFor& parallel_for);
// Device memory that generate_proposals_cuda needs. It asks CUDA, and reports its error.
Status generate_proposals_workspace_bytes(const GenerateProposalsArgs& args, size_t* bytes);
Status generate_proposals_cuda(const GenerateProposalsArgs& args, void* workspace, Stream stream);

}  // namespace fastrpn
