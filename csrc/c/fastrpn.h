/* fastrpn's operators on plain arrays, without torch: libfastrpn. Callable from C and from any language with
 * a C interface.
 *
 * Arrays are float32, row-major and the caller's; boxes are xyxy in pixels. The rules are those of the Python
 * functions of the same names; a region of an image that is not there is pooled to zeros. Calls run on the
 * calling thread and share no state: use as many threads as you have images. A function returns NULL, or a
 * message with static lifetime about the argument that is wrong, and has then written nothing. */
#ifndef FASTRPN_H
#define FASTRPN_H

#include <stdbool.h>
#include <stdint.h>

#if defined(__GNUC__)
#define FASTRPN_API __attribute__((visibility("default")))
#else
#define FASTRPN_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* IoU of every pair: boxes1 [n, 4], boxes2 [m, 4] -> iou [n, m]; NaN for two boxes without area. */
FASTRPN_API const char* fastrpn_box_iou(const float* boxes1, int64_t n, const float* boxes2, int64_t m,
                                        float* iou);

/* Greedy non-maximum suppression of boxes [n, 4] with scores [n]. Boxes of different groups [n] (classes;
 * NULL: one) do not suppress each other, those without score > score_threshold (-INFINITY: all have) take no
 * part.
 * -> kept [max_output]: rows by descending score, of which the first *num_kept count. */
FASTRPN_API const char* fastrpn_nms(const float* boxes, const float* scores, const int64_t* groups, int64_t n,
                                    double iou_threshold, double score_threshold, int64_t max_output,
                                    int64_t* kept, int64_t* num_kept);

/* Soft-NMS: gaussian (exp(-iou^2 / sigma)) or linear (1 - iou above iou_threshold) decay of the scores.
 * -> kept [n]: rows in order of selection, decayed [n]: their scores; the first *num_kept of each count. */
FASTRPN_API const char* fastrpn_soft_nms(const float* boxes, const float* scores, int64_t n, bool gaussian,
                                         double sigma, double iou_threshold, double score_threshold,
                                         int64_t* kept, float* decayed, int64_t* num_kept);

/* anchors [num_anchors, 4], gt_boxes [num_gt, 4] -> matched_gt [num_anchors]: row of gt_boxes, -1 background,
 * -2 ignore; max_iou [num_anchors]. */
FASTRPN_API const char* fastrpn_match_anchors(const float* anchors, int64_t num_anchors,
                                              const float* gt_boxes, int64_t num_gt, double high, double low,
                                              bool allow_low_quality, int64_t* matched_gt, float* max_iou);

/* The RPN's proposals of one image: objectness [A] logits, deltas [A, 4], anchors [A, 4] of all levels, one
 * after the other; A is the sum of anchors_per_level [num_levels].
 * -> proposals [post_nms_top_n, 4], scores [post_nms_top_n], zeros past *count. */
FASTRPN_API const char* fastrpn_generate_proposals(const float* objectness, const float* deltas,
                                                   const float* anchors, const int64_t* anchors_per_level,
                                                   int64_t num_levels, int64_t image_height,
                                                   int64_t image_width, int64_t pre_nms_top_n,
                                                   int64_t post_nms_top_n, double nms_threshold,
                                                   double min_size, float* proposals, float* scores,
                                                   int64_t* count);

/* Feature maps [batch, channels, height, width] and where they are pooled: rois [num_rois, 5], batch index
 * and xyxy in pixels of the image; spatial_scale is cells per pixel. */
typedef struct {
  int64_t batch, channels, height, width, num_rois, pooled_height, pooled_width;
  double spatial_scale;
} fastrpn_pooling;

/* Maximum of each bin -> output [num_rois, channels, pooled_height, pooled_width], and argmax like it: the
 * cell y * width + x, -1 for an empty bin; NULL: not wanted. */
FASTRPN_API const char* fastrpn_roi_pool(const fastrpn_pooling* shape, const float* features,
                                         const float* rois, float* output, int32_t* argmax);

/* grad_output and argmax like output -> grad_features like features. */
FASTRPN_API const char* fastrpn_roi_pool_backward(const fastrpn_pooling* shape, const float* grad_output,
                                                  const float* rois, const int32_t* argmax,
                                                  float* grad_features);

/* Mean of bilinear samples of each bin, sampling_ratio in each direction (0: as many as the bin has cells);
 * aligned shifts by half a cell. -> output as roi_pool's. */
FASTRPN_API const char* fastrpn_roi_align(const fastrpn_pooling* shape, const float* features,
                                          const float* rois, int64_t sampling_ratio, bool aligned,
                                          float* output);

FASTRPN_API const char* fastrpn_roi_align_backward(const fastrpn_pooling* shape, const float* grad_output,
                                                   const float* rois, int64_t sampling_ratio, bool aligned,
                                                   float* grad_features);

#ifdef __cplusplus
}
#endif

#endif
