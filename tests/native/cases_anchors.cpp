// Cases of match_anchors and generate_proposals.
#include <algorithm>

#include "cases.h"
#include "math/box.h"

using namespace fastrpn;

namespace {

// The greatest IoU of an anchor and the lowest ground truth that has it.
template <typename T>
void check_label(const MatchAnchorsArgs& args, int64_t image, int64_t anchor, compute_t<T> max_iou) {
  using C = compute_t<T>;
  const int64_t row = image * args.num_anchors + anchor, label = args.matched_gt[row];
  const bool valid = args.valid == nullptr || args.valid[args.batched_valid ? row : anchor] != 0;
  const Box<C> box = load_box(static_cast<const T*>(args.anchors), args.batched_anchors ? row : anchor);
  const int64_t count = std::clamp<int64_t>(args.gt_counts[image], 0, args.num_gt);
  C best = 0;
  int64_t best_gt = 0;
  for (int64_t g = 0; valid && g < count; ++g) {
    const Box<C> gt = load_box(static_cast<const T*>(args.gt_boxes), image * args.num_gt + g);
    const C iou = box_iou_or_zero(gt, box_area(gt), box, box_area(box));
    if (iou > best) best = iou, best_gt = g;
  }
  REQUIRE(max_iou == best);
  if (!valid) REQUIRE(label == -2);
  if (valid && best >= C(args.high)) REQUIRE(label == best_gt);
  if (label >= 0) REQUIRE(label == best_gt);
  if (label == -1) REQUIRE(best < C(args.low));
  REQUIRE(label >= -2);
}

}  // namespace

void match_anchors_case(Source& source) {
  with_dtype(source, [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    MatchAnchorsArgs args{};
    args.dtype = kDType<T>;
    args.batch = source.length(3, 2);
    args.num_anchors = source.length(300, 4000);
    args.num_gt = source.size(65, 64);
    args.batched_anchors = source.once_in(2);
    args.batched_valid = source.once_in(2);
    args.high = source.one_of({0.7, 0.5, 0.0, 1.0});
    args.low = std::min(args.high, source.one_of({0.3, 0.5}));
    args.allow_low_quality = source.once_in(2);
    Array<T> anchors((args.batched_anchors ? args.batch : 1) * args.num_anchors * 4, source.below(2));
    Array<T> gt_boxes(args.batch * args.num_gt * 4, source.below(2));
    draw_boxes(source, anchors.data(), anchors.size() / 4);
    draw_boxes(source, gt_boxes.data(), gt_boxes.size() / 4);
    Array<int64_t> counts(args.batch);
    for (int64_t b = 0; b < args.batch; ++b) counts[b] = source.below(args.num_gt + 3) - 1;
    Array<uint8_t> valid((args.batched_valid ? args.batch : 1) * args.num_anchors);
    for (int64_t i = 0; i < valid.size(); ++i) valid[i] = uint8_t(source.below(4) != 0);
    args.anchors = anchors.data();
    args.gt_boxes = gt_boxes.data();
    args.gt_counts = counts.data();
    args.valid = source.once_in(2) ? valid.data() : nullptr;
    Output<int64_t> matched_gt(source, args.batch * args.num_anchors);
    Output<C> max_iou(source, args.batch * args.num_anchors);
    args.matched_gt = matched_gt.data();
    args.max_iou = max_iou.data();
    run_all_ways(
        source,
        [&](const Kernels& kernels, const ParallelFor& parallel_for) {
          kernels.match_anchors(args, parallel_for);
        },
        matched_gt, max_iou);
    for (int64_t i = 0; i < max_iou.size(); ++i) {
      check_label<T>(args, i / args.num_anchors, i % args.num_anchors, max_iou[i]);
    }
  });
}

namespace {

template <typename T, typename Anchor>
void run_generate_proposals(Source& source) {
  using C = compute_t<T>;
  GenerateProposalsArgs args{};
  args.dtype = kDType<T>;
  args.anchor_dtype = kDType<Anchor>;
  args.batch = source.length(3, 2);
  args.num_levels = source.length(5, 3);
  Array<int64_t> per_level(args.num_levels);
  for (int64_t level = 0; level < args.num_levels; ++level) {
    per_level[level] = source.size(300, 3000);
    args.num_anchors += per_level[level];
  }
  args.pre_nms_top_n = source.length(600, 2500);
  args.post_nms_top_n = source.length(300, 1000);
  args.nms_threshold = draw_threshold(source);
  args.min_size = source.one_of({0.0, 1.0, 16.0, 1e30});
  Array<T> objectness(args.batch * args.num_anchors, source.below(2));
  Array<T> deltas(args.batch * args.num_anchors * 4, source.below(2));
  Array<Anchor> anchors(args.num_anchors * 4, source.below(2));
  Array<int64_t> image_sizes(args.batch * 2);
  draw_numbers(source, objectness.data(), objectness.size(), source.once_in(2));
  draw_numbers(source, deltas.data(), deltas.size(), source.once_in(2));
  draw_boxes(source, anchors.data(), args.num_anchors);
  for (int64_t i = 0; i < image_sizes.size(); ++i) image_sizes[i] = source.one_of({100, 0, 1, 37, 1000});
  args.objectness = objectness.data();
  args.deltas = deltas.data();
  args.anchors = anchors.data();
  args.image_sizes = image_sizes.data();
  args.anchors_per_level = per_level.data();
  const int64_t rows = args.post_nms_top_n;
  Output<C> proposals(source, args.batch * rows * 4), scores(source, args.batch * rows);
  Output<int64_t> counts(source, args.batch);
  args.proposals = proposals.data();
  args.scores = scores.data();
  args.counts = counts.data();
  run_all_ways(
      source,
      [&](const Kernels& kernels, const ParallelFor& parallel_for) {
        kernels.generate_proposals(args, parallel_for);
      },
      proposals, scores, counts);
  for (int64_t b = 0; b < args.batch; ++b) {
    REQUIRE(0 <= counts[b] && counts[b] <= std::min(rows, args.num_anchors));
    for (int64_t i = 0; i < rows; ++i) {
      const Box<C> box = load_box(proposals.data(), b * rows + i);
      const C score = scores[b * rows + i];
      if (i >= counts[b]) {
        REQUIRE(score == 0 && box.x1 == 0 && box.y1 == 0 && box.x2 == 0 && box.y2 == 0);
        continue;
      }
      REQUIRE(0 <= score && score <= 1 && (i == 0 || score <= scores[b * rows + i - 1]));
      REQUIRE(is_large_enough(box, C(args.min_size)));
      REQUIRE(0 <= box.x1 && box.x2 <= C(image_sizes[2 * b + 1]));
      REQUIRE(0 <= box.y1 && box.y2 <= C(image_sizes[2 * b]));
    }
  }
}

}  // namespace

void generate_proposals_case(Source& source) {
  with_dtype(source, [&](auto type) {
    using T = decltype(type);
    if (sizeof(T) == 2 && source.once_in(2)) return run_generate_proposals<T, float>(source);
    run_generate_proposals<T, T>(source);
  });
}
