#include "c/fastrpn.h"

#include <cmath>
#include <new>

#include "ops/box_iou/box_iou.h"
#include "ops/generate_proposals/generate_proposals.h"
#include "ops/match_anchors/match_anchors.h"
#include "ops/nms/nms.h"
#include "ops/roi_align/roi_align.h"
#include "ops/roi_pool/roi_pool.h"
#include "ops/soft_nms/soft_nms.h"

// Leaves a function with a message unless the condition holds.
#define FASTRPN_REQUIRE(condition, message) \
  if (!(condition)) return message

namespace fastrpn {
namespace {

// Runs a kernel; no exception may leave a C function.
template <typename Args>
const char* run(void (*kernel)(const Args&, const ParallelFor&), const Args& args) {
  try {
    kernel(args, serial());
  } catch (const std::bad_alloc&) {
    return "out of memory";
  }
  return nullptr;
}

const char* check(const fastrpn_pooling* shape) {
  FASTRPN_REQUIRE(shape != nullptr, "shape must not be null");
  FASTRPN_REQUIRE(shape->batch >= 0 && shape->channels >= 0 && shape->height >= 0 && shape->width >= 0 &&
                      shape->num_rois >= 0,
                  "shape has a negative size");
  FASTRPN_REQUIRE(shape->pooled_height > 0 && shape->pooled_width > 0, "the pooled size must be positive");
  FASTRPN_REQUIRE(shape->spatial_scale > 0 && std::isfinite(shape->spatial_scale),
                  "spatial_scale must be positive and finite");
  return nullptr;
}

RoiAlignArgs align_args(const fastrpn_pooling& shape, const float* rois, int64_t sampling_ratio,
                        bool aligned) {
  RoiAlignArgs args{};
  args.dtype = args.roi_dtype = DType::float32;
  args.levels[0] = {nullptr, shape.height, shape.width, shape.spatial_scale};
  args.num_levels = 1;
  args.rois = rois;
  args.batch = shape.batch, args.channels = shape.channels, args.num_rois = shape.num_rois;
  args.pooled_height = shape.pooled_height, args.pooled_width = shape.pooled_width;
  args.sampling_ratio = sampling_ratio;
  args.aligned = aligned;
  return args;
}

}  // namespace
}  // namespace fastrpn

using namespace fastrpn;

const char* fastrpn_box_iou(const float* boxes1, int64_t n, const float* boxes2, int64_t m, float* iou) {
  FASTRPN_REQUIRE(n >= 0 && m >= 0, "n and m must not be negative");
  if (n == 0 || m == 0) return nullptr;
  FASTRPN_REQUIRE(boxes1 && boxes2 && iou, "an array is null");
  return run(FASTRPN_CPU(box_iou_cpu), BoxIouArgs{DType::float32, boxes1, boxes2, n, m, iou});
}

const char* fastrpn_nms(const float* boxes, const float* scores, const int64_t* groups, int64_t n,
                        double iou_threshold, double score_threshold, int64_t max_output, int64_t* kept,
                        int64_t* num_kept) {
  FASTRPN_REQUIRE(n >= 0 && max_output >= 0, "n and max_output must not be negative");
  FASTRPN_REQUIRE(n < INT32_MAX, "n must be less than 2^31 - 1");
  FASTRPN_REQUIRE(!std::isnan(iou_threshold) && !std::isnan(score_threshold), "a threshold is NaN");
  FASTRPN_REQUIRE(num_kept, "num_kept must not be null");
  *num_kept = 0;
  if (n == 0 || max_output == 0) return nullptr;
  FASTRPN_REQUIRE(boxes && scores && kept, "an array is null");
  NmsArgs args{};
  args.dtype = DType::float32;
  args.boxes = boxes, args.scores = scores, args.groups = groups;
  args.batch = 1, args.n = n;
  args.iou_threshold = iou_threshold;
  args.has_score_threshold = score_threshold != -INFINITY, args.score_threshold = score_threshold;
  args.max_output = max_output, args.indices = kept, args.kept = num_kept;
  return run(FASTRPN_CPU(nms_cpu), args);
}

const char* fastrpn_soft_nms(const float* boxes, const float* scores, int64_t n, bool gaussian, double sigma,
                             double iou_threshold, double score_threshold, int64_t* kept, float* decayed,
                             int64_t* num_kept) {
  FASTRPN_REQUIRE(n >= 0 && n < INT32_MAX, "n must be from 0 to 2^31 - 2");
  FASTRPN_REQUIRE(!gaussian || sigma > 0, "sigma must be positive");
  FASTRPN_REQUIRE(!std::isnan(iou_threshold), "iou_threshold is NaN");
  FASTRPN_REQUIRE(score_threshold >= 0, "score_threshold must be at least 0");
  FASTRPN_REQUIRE(num_kept, "num_kept must not be null");
  *num_kept = 0;
  if (n == 0) return nullptr;
  FASTRPN_REQUIRE(boxes && scores && kept && decayed, "an array is null");
  const SoftNmsMethod method = gaussian ? SoftNmsMethod::gaussian : SoftNmsMethod::linear;
  return run(FASTRPN_CPU(soft_nms_cpu), SoftNmsArgs{DType::float32, boxes, scores, n, method, sigma,
                                                    iou_threshold, score_threshold, kept, decayed, num_kept});
}

const char* fastrpn_match_anchors(const float* anchors, int64_t num_anchors, const float* gt_boxes,
                                  int64_t num_gt, double high, double low, bool allow_low_quality,
                                  int64_t* matched_gt, float* max_iou) {
  FASTRPN_REQUIRE(num_anchors >= 0 && num_gt >= 0, "num_anchors and num_gt must not be negative");
  FASTRPN_REQUIRE(low <= high, "low must not exceed high");
  if (num_anchors == 0) return nullptr;
  FASTRPN_REQUIRE(anchors && (gt_boxes || num_gt == 0) && matched_gt && max_iou, "an array is null");
  MatchAnchorsArgs args{};
  args.dtype = DType::float32;
  args.anchors = anchors, args.gt_boxes = gt_boxes, args.gt_counts = &num_gt;
  args.batch = 1, args.num_anchors = num_anchors, args.num_gt = num_gt;
  args.high = high, args.low = low, args.allow_low_quality = allow_low_quality;
  args.matched_gt = matched_gt, args.max_iou = max_iou;
  return run(FASTRPN_CPU(match_anchors_cpu), args);
}

const char* fastrpn_generate_proposals(const float* objectness, const float* deltas, const float* anchors,
                                       const int64_t* anchors_per_level, int64_t num_levels,
                                       int64_t image_height, int64_t image_width, int64_t pre_nms_top_n,
                                       int64_t post_nms_top_n, double nms_threshold, double min_size,
                                       float* proposals, float* scores, int64_t* count) {
  FASTRPN_REQUIRE(num_levels >= 0 && (anchors_per_level || num_levels == 0), "there are no levels");
  FASTRPN_REQUIRE(pre_nms_top_n > 0 && post_nms_top_n > 0, "the numbers of proposals must be positive");
  FASTRPN_REQUIRE(!std::isnan(nms_threshold) && !std::isnan(min_size), "nms_threshold or min_size is NaN");
  FASTRPN_REQUIRE(proposals && scores && count, "an array is null");
  int64_t num_anchors = 0;
  for (int64_t level = 0; level < num_levels; ++level) {
    FASTRPN_REQUIRE(anchors_per_level[level] >= 0, "anchors_per_level has a negative number");
    num_anchors += anchors_per_level[level];
  }
  FASTRPN_REQUIRE(num_anchors < INT32_MAX, "there must be less than 2^31 - 1 anchors");
  FASTRPN_REQUIRE(num_anchors == 0 || (objectness && deltas && anchors), "an array is null");
  const int64_t size[2] = {image_height, image_width};
  GenerateProposalsArgs args{};
  args.dtype = args.anchor_dtype = DType::float32;
  args.objectness = objectness, args.deltas = deltas, args.anchors = anchors;
  args.image_sizes = size, args.anchors_per_level = anchors_per_level;
  args.batch = 1, args.num_anchors = num_anchors, args.num_levels = num_levels;
  args.pre_nms_top_n = pre_nms_top_n, args.post_nms_top_n = post_nms_top_n;
  args.nms_threshold = nms_threshold, args.min_size = min_size;
  args.proposals = proposals, args.scores = scores, args.counts = count;
  return run(FASTRPN_CPU(generate_proposals_cpu), args);
}

const char* fastrpn_roi_pool(const fastrpn_pooling* shape, const float* features, const float* rois,
                             float* output, int32_t* argmax) {
  if (const char* message = check(shape)) return message;
  if (shape->num_rois == 0 || shape->channels == 0) return nullptr;
  FASTRPN_REQUIRE(features && rois && output, "an array is null");
  RoiPoolArgs args{};
  args.dtype = args.roi_dtype = DType::float32;
  args.features = features, args.rois = rois;
  args.batch = shape->batch, args.channels = shape->channels;
  args.height = shape->height, args.width = shape->width, args.num_rois = shape->num_rois;
  args.pooled_height = shape->pooled_height, args.pooled_width = shape->pooled_width;
  args.spatial_scale = shape->spatial_scale;
  args.output = output, args.argmax = argmax;
  return run(FASTRPN_CPU(roi_pool_cpu), args);
}

const char* fastrpn_roi_pool_backward(const fastrpn_pooling* shape, const float* grad_output,
                                      const float* rois, const int32_t* argmax, float* grad_features) {
  if (const char* message = check(shape)) return message;
  FASTRPN_REQUIRE((grad_output && rois && argmax) || shape->num_rois == 0, "an array is null");
  FASTRPN_REQUIRE(grad_features, "grad_features must not be null");
  RoiPoolBackwardArgs args{};
  args.dtype = args.roi_dtype = DType::float32;
  args.grad_output = grad_output, args.rois = rois, args.argmax = argmax;
  args.batch = shape->batch, args.channels = shape->channels;
  args.height = shape->height, args.width = shape->width, args.num_rois = shape->num_rois;
  args.pooled_height = shape->pooled_height, args.pooled_width = shape->pooled_width;
  args.spatial_scale = shape->spatial_scale;
  args.grad_features = grad_features;
  return run(FASTRPN_CPU(roi_pool_backward_cpu), args);
}

const char* fastrpn_roi_align(const fastrpn_pooling* shape, const float* features, const float* rois,
                              int64_t sampling_ratio, bool aligned, float* output) {
  if (const char* message = check(shape)) return message;
  if (shape->num_rois == 0 || shape->channels == 0) return nullptr;
  FASTRPN_REQUIRE(features && rois && output, "an array is null");
  RoiAlignArgs args = align_args(*shape, rois, sampling_ratio, aligned);
  args.levels[0].features = features;
  args.output = output;
  return run(FASTRPN_CPU(roi_align_cpu), args);
}

const char* fastrpn_roi_align_backward(const fastrpn_pooling* shape, const float* grad_output,
                                       const float* rois, int64_t sampling_ratio, bool aligned,
                                       float* grad_features) {
  if (const char* message = check(shape)) return message;
  FASTRPN_REQUIRE((grad_output && rois) || shape->num_rois == 0, "an array is null");
  FASTRPN_REQUIRE(grad_features, "grad_features must not be null");
  RoiAlignBackwardArgs args{};
  args.forward = align_args(*shape, rois, sampling_ratio, aligned);
  args.grad_output = grad_output;
  args.grad_features[0] = grad_features;
  return run(FASTRPN_CPU(roi_align_backward_cpu), args);
}
