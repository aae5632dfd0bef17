#include "ops/match_anchors/match_anchors.h"

#include <tuple>

#include "torch/op.h"

namespace fastrpn {
namespace {

FASTRPN_DEFINE_RUN(match_anchors, MatchAnchorsArgs, match_anchors_workspace_bytes, match_anchors_cuda)

void check_inputs(const Tensor& anchors, const Tensor& gt_boxes, const Tensor& gt_counts,
                  const std::optional<Tensor>& valid) {
  STD_TORCH_CHECK(gt_boxes.dim() == 3 && gt_boxes.size(2) == 4, "gt_boxes must have shape [B, G, 4]");
  const int64_t batch = gt_boxes.size(0), dims = anchors.dim();
  STD_TORCH_CHECK((dims == 2 || (dims == 3 && anchors.size(0) == batch)) && anchors.size(dims - 1) == 4,
                  "anchors must have shape [A, 4] or [B, A, 4]");
  STD_TORCH_CHECK(gt_counts.dim() == 1 && gt_counts.size(0) == batch, "gt_counts must have shape [B]");
  STD_TORCH_CHECK(gt_counts.scalar_type() == ScalarType::Long, "gt_counts must be int64");
  STD_TORCH_CHECK(gt_boxes.scalar_type() == anchors.scalar_type(),
                  "anchors and gt_boxes must have the same dtype");
  STD_TORCH_CHECK(gt_boxes.size(1) < INT32_MAX, "at most 2^31 - 1 ground truths an image");
  check_same_device(gt_boxes, "gt_boxes", anchors, "anchors");
  check_same_device(gt_counts, "gt_counts", anchors, "anchors");
  if (!valid) return;
  const int64_t num_anchors = anchors.size(dims - 2);
  STD_TORCH_CHECK((valid->dim() == 1 && valid->size(0) == num_anchors) ||
                      (valid->dim() == 2 && valid->size(0) == batch && valid->size(1) == num_anchors),
                  "valid must have shape [A] or [B, A]");
  STD_TORCH_CHECK(valid->scalar_type() == ScalarType::Bool, "valid must be bool");
  check_same_device(*valid, "valid", anchors, "anchors");
}

std::tuple<Tensor, Tensor> match_anchors(Tensor anchors, Tensor gt_boxes, Tensor gt_counts, double high,
                                         double low, bool allow_low_quality, std::optional<Tensor> valid) {
  check_inputs(anchors, gt_boxes, gt_counts, valid);
  check_not_nan(high, "high");
  check_not_nan(low, "low");
  const int64_t batch = gt_boxes.size(0), num_anchors = anchors.size(anchors.dim() - 2);
  const ScalarType iou_type =
      anchors.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Tensor matched_gt = new_empty_tensor({batch, num_anchors}, ScalarType::Long, anchors);
  Tensor max_iou = new_empty_tensor({batch, num_anchors}, iou_type, anchors);
  if (matched_gt.numel() == 0) return {matched_gt, max_iou};
  const Tensor a = as_contiguous(anchors), g = as_contiguous(gt_boxes), counts = as_contiguous(gt_counts);
  const Tensor mask = valid ? as_contiguous(*valid) : a;

  MatchAnchorsArgs args{};
  args.dtype = dtype_of(a, "anchors");
  args.anchors = a.const_data_ptr();
  args.batched_anchors = anchors.dim() == 3;
  args.gt_boxes = g.const_data_ptr();
  args.gt_counts = static_cast<const int64_t*>(counts.const_data_ptr());
  if (valid) args.valid = static_cast<const uint8_t*>(mask.const_data_ptr());
  args.batched_valid = valid && valid->dim() == 2;
  args.batch = batch;
  args.num_anchors = num_anchors;
  args.num_gt = gt_boxes.size(1);
  args.high = high;
  args.low = low;
  args.allow_low_quality = allow_low_quality;
  args.matched_gt = static_cast<int64_t*>(matched_gt.mutable_data_ptr());
  args.max_iou = max_iou.mutable_data_ptr();
  run_match_anchors(args, anchors);
  return {matched_gt, max_iou};
}

}  // namespace
}  // namespace fastrpn

FASTRPN_IMPL(m) { m.impl("match_anchors", TORCH_BOX(&fastrpn::match_anchors)); }
