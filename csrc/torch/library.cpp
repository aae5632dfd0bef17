// Every schema of the library, one line each. Kernels are registered beside their bindings in <op>.cpp.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastrpn, m) {
  m.def("set_simd_level(str level) -> bool");
  m.def("accelerate_torchvision(bool on) -> ()");
  m.def("box_iou(Tensor boxes1, Tensor boxes2) -> Tensor");
  // The same, for a caller that has seen that no derivative is wanted: below autograd at no cost.
  m.def("box_iou_values(Tensor boxes1, Tensor boxes2) -> Tensor");
  m.def("nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor");
  m.def("batched_nms(Tensor boxes, Tensor scores, Tensor idxs, float iou_threshold) -> Tensor");
  m.def(
      "nms_padded(Tensor boxes, Tensor scores, float iou_threshold, int max_output, Tensor? counts, Tensor? "
      "groups, float? score_threshold) -> (Tensor, Tensor)");
  m.def(
      "soft_nms(Tensor boxes, Tensor scores, str method, float sigma, float iou_threshold, float "
      "score_threshold) -> (Tensor, Tensor)");
  m.def(
      "match_anchors(Tensor anchors, Tensor gt_boxes, Tensor gt_counts, float high, float low, bool "
      "allow_low_quality, Tensor? valid) -> (Tensor, Tensor)");
  m.def(
      "generate_proposals(Tensor objectness, Tensor deltas, Tensor anchors, Tensor image_sizes, int "
      "pre_nms_top_n, int post_nms_top_n, float nms_threshold, float min_size, SymInt[] anchors_per_level) -> "
      "(Tensor, Tensor, Tensor)");
  m.def(
      "roi_pool(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width) -> "
      "Tensor");
  m.def(
      "roi_pool_argmax(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width) "
      "-> (Tensor, Tensor)");
  m.def(
      "roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, float spatial_scale, SymInt batch, "
      "SymInt channels, SymInt height, SymInt width) -> Tensor");
  m.def(
      "roi_align(Tensor[] inputs, Tensor rois, Tensor? roi_levels, float[] spatial_scales, int "
      "pooled_height, int pooled_width, int sampling_ratio, bool aligned) -> Tensor");
  m.def(
      "roi_align_backward(Tensor grad, Tensor rois, Tensor? roi_levels, float[] spatial_scales, int "
      "sampling_ratio, bool aligned, SymInt batch, SymInt[] heights, SymInt[] widths, bool channels_last) -> "
      "Tensor[]");
}
