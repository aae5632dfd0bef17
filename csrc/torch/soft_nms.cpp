#include "ops/soft_nms/soft_nms.h"

#include <string>
#include <tuple>

#include "torch/op.h"

namespace fastrpn {
namespace {

FASTRPN_DEFINE_RUN(soft_nms, SoftNmsArgs, soft_nms_workspace_bytes, soft_nms_cuda)

SoftNmsMethod method_of(const std::string& name) {
  STD_TORCH_CHECK(name == "linear" || name == "gaussian", "method must be linear or gaussian");
  return name == "linear" ? SoftNmsMethod::linear : SoftNmsMethod::gaussian;
}

std::tuple<Tensor, Tensor> soft_nms(Tensor boxes, Tensor scores, std::string method, double sigma,
                                    double iou_threshold, double score_threshold) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "boxes must have shape [N, 4]");
  STD_TORCH_CHECK(scores.dim() == 1 && scores.size(0) == boxes.size(0), "scores must have shape [N]");
  STD_TORCH_CHECK(boxes.scalar_type() == scores.scalar_type(), "boxes and scores must have the same dtype");
  STD_TORCH_CHECK(sigma > 0, "sigma must be positive");
  check_not_nan(iou_threshold, "iou_threshold");
  STD_TORCH_CHECK(score_threshold >= 0, "score_threshold must not be negative");
  STD_TORCH_CHECK(boxes.size(0) <= UINT32_MAX, "at most 2^32 - 1 boxes");
  check_same_device(boxes, "boxes", scores, "scores");
  const int64_t n = boxes.size(0);
  Tensor indices = new_empty_tensor({n}, ScalarType::Long, boxes);
  Tensor decayed = new_empty_tensor({n}, scores.scalar_type(), boxes);
  if (n == 0) return {indices, decayed};
  Tensor kept = new_empty_tensor({1}, ScalarType::Long, boxes);
  const Tensor all_boxes = as_contiguous(boxes), all_scores = as_contiguous(scores);
  run_soft_nms({dtype_of(boxes, "boxes"), all_boxes.const_data_ptr(), all_scores.const_data_ptr(), n,
                method_of(method), sigma, iou_threshold, score_threshold,
                static_cast<int64_t*>(indices.mutable_data_ptr()), decayed.mutable_data_ptr(),
                static_cast<int64_t*>(kept.mutable_data_ptr())},
               boxes);
  const int64_t size = read_number(static_cast<const int64_t*>(kept.const_data_ptr()), boxes);
  return {torch::stable::narrow(indices, 0, 0, size), torch::stable::narrow(decayed, 0, 0, size)};
}

}  // namespace
}  // namespace fastrpn

FASTRPN_IMPL(m) { m.impl("soft_nms", TORCH_BOX(&fastrpn::soft_nms)); }
