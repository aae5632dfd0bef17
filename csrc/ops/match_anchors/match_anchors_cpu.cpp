// match_anchors on the CPU: O(A G) pairs at worst, O(A + G) memory.
//
// The first pass keeps a running maximum for each anchor and each ground truth, the second finds the anchors
// that attain a ground truth's maximum. Both go over blocks of 64 neighbouring anchors and leave out, for a
// whole block, the ground truths that cannot matter:
//   - those that do not meet the rectangle around the block (their IoU is 0). Anchors come in spatial
//     order, so that is most of them; anchors in random order lose this, not the result;
//   - in the second pass also those whose maximum is greater than every IoU of the block, which leaves little
//     in any order.
//
// Threads take slices of an image's blocks, each with ground-truth maxima of its own, merged between the
// passes; a maximum does not depend on the order. Ties of an anchor go to the lowest ground truth because
// ground truths are visited in order and only a greater IoU replaces. Numerics: math/box.h, in float for half
// types.
#include "cpu/buffer.h"
#include "cpu/vector.h"
#include "math/box.h"
#include "math/dispatch.h"
#include "ops/match_anchors/match_anchors.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {
namespace {

constexpr int64_t kBlockAnchors = 64;
constexpr int64_t kPairsGrain = 1 << 16;  // at most 15 us of work

// An image's ground truths, one array for each coordinate, and what the first pass finds of them. Rows past
// the count are NaN: they meet nothing.
template <typename C>
struct GroundTruths {
  int64_t count, padded;
  C *x1, *y1, *x2, *y2, *area, *best;
  C smallest_best;  // of those greater than 0
};

template <typename C>
struct Block {
  alignas(64) C x1[kBlockAnchors], y1[kBlockAnchors], x2[kBlockAnchors], y2[kBlockAnchors],
      area[kBlockAnchors];
  alignas(64) C best[kBlockAnchors];              // greatest IoU
  alignas(64) index_t<C> best_gt[kBlockAnchors];  // its ground truth
  alignas(64) index_t<C> claimed[kBlockAnchors];  // -1 if it attains a ground truth's best
  Box<C> bounds;
};

template <typename T>
class Matcher {
 public:
  using C = compute_t<T>;
  using V = Vec<C>;

  Matcher(const MatchAnchorsArgs& args, const ParallelFor& parallel_for)
      : args_(args),
        parallel_for_(parallel_for),
        blocks_((args.num_anchors + kBlockAnchors - 1) / kBlockAnchors),
        padded_(whole_vectors<C>(args.num_gt)),
        slices_(max_of<int64_t>(1, min_of(min_of(args.num_anchors * args.num_gt / kPairsGrain, blocks_),
                                          4 * int64_t(parallel_for.num_threads)))),
        columns_(args.batch * 5 * padded_),
        best_(args.batch * slices_ * padded_) {}

  void run() {
    parallel_for_(args_.batch, args_.batch, [&](int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) load_ground_truths(image);
    });
    for_slices([&](int64_t image, int64_t slice, int32_t* list) { find_maxima(image, slice, list); });
    if (args_.allow_low_quality) {
      for (int64_t image = 0; image < args_.batch; ++image) merge_slices(image);
    }
    for_slices([&](int64_t image, int64_t slice, int32_t* list) { label(image, slice, list); });
  }

 private:
  template <typename F>
  void for_slices(const F& body) {
    const int64_t grain = 1 + kPairsGrain * slices_ / (args_.num_anchors * args_.num_gt + 1);
    parallel_for_(args_.batch * slices_, slices_ > 1 ? 1 : grain, [&](int64_t begin, int64_t end) {
      Buffer<int32_t> list(padded_);
      for (int64_t item = begin; item < end; ++item) body(item / slices_, item % slices_, list.data());
    });
  }

  GroundTruths<C> ground_truths(int64_t image, int64_t slice) {
    const int64_t count = args_.gt_counts[image];
    C* columns = columns_.data() + image * 5 * padded_;
    return {count < 0 ? 0 : min_of(count, args_.num_gt),
            padded_,
            columns,
            columns + padded_,
            columns + 2 * padded_,
            columns + 3 * padded_,
            columns + 4 * padded_,
            best_.data() + (image * slices_ + slice) * padded_,
            C(0)};
  }

  void load_ground_truths(int64_t image) {
    const GroundTruths<C> gts = ground_truths(image, 0);
    const T* boxes = static_cast<const T*>(args_.gt_boxes) + image * args_.num_gt * 4;
    const C nan = C(__builtin_nan(""));
    for (int64_t g = 0; g < gts.padded; ++g) {
      const Box<C> box = g < gts.count ? load_box(boxes, g) : Box<C>{nan, nan, nan, nan};
      gts.x1[g] = box.x1, gts.y1[g] = box.y1, gts.x2[g] = box.x2, gts.y2[g] = box.y2;
      gts.area[g] = box_area(box);
    }
    memset(gts.best, 0, size_t(slices_ * padded_) * sizeof(C));
  }

  bool is_valid(int64_t image, int64_t anchor) const {
    if (args_.valid == nullptr) return true;
    return args_.valid[(args_.batched_valid ? image * args_.num_anchors : 0) + anchor] != 0;
  }

  // Anchors that are not there or not valid become NaN: their IoU is nobody's maximum.
  void load_block(int64_t image, int64_t first, Block<C>& block) const {
    const int64_t offset = args_.batched_anchors ? image * args_.num_anchors : 0;
    const T* anchors = static_cast<const T*>(args_.anchors) + offset * 4;
    const C nan = C(__builtin_nan("")), infinity = C(__builtin_inf());
    Box<C> bounds = {infinity, infinity, -infinity, -infinity};
    for (int64_t i = 0; i < kBlockAnchors; ++i) {
      const bool here = first + i < args_.num_anchors && is_valid(image, first + i);
      const Box<C> box = here ? load_box(anchors, first + i) : Box<C>{nan, nan, nan, nan};
      block.x1[i] = box.x1, block.y1[i] = box.y1, block.x2[i] = box.x2, block.y2[i] = box.y2;
      block.area[i] = box_area(box);
      bounds = {min_of(box.x1, bounds.x1), min_of(box.y1, bounds.y1), max_of(box.x2, bounds.x2),
                max_of(box.y2, bounds.y2)};
    }
    block.bounds = bounds;
  }

  // Lists, in order, the ground truths that meet the rectangle.
  static int64_t list_meeting(const GroundTruths<C>& gts, const Box<C>& bounds, int32_t* list) {
    const V zero{};
    const Box<V> around = {zero + bounds.x1, zero + bounds.y1, zero + bounds.x2, zero + bounds.y2};
    int64_t found = 0;
    for (int64_t g = 0; g < gts.padded; g += kLanes<C>) {
      const auto meets = (load(gts.x1 + g) < around.x2) & (load(gts.x2 + g) > around.x1) &
                         (load(gts.y1 + g) < around.y2) & (load(gts.y2 + g) > around.y1);
      if (!any(meets)) continue;
      for (int64_t lane = 0; lane < kLanes<C>; ++lane) {
        list[found] = int32_t(g + lane);
        found += meets[lane] != 0;
      }
    }
    return found;
  }

  // Calls visit(first lane, IoUs) for every vector of the block that the ground truth meets.
  template <typename F>
  static void for_ious(const Block<C>& block, const GroundTruths<C>& gts, int64_t g, const F& visit) {
    const V zero{};
    const Box<V> gt = {zero + gts.x1[g], zero + gts.y1[g], zero + gts.x2[g], zero + gts.y2[g]};
    const V gt_area = zero + gts.area[g];
    for (int64_t i = 0; i < kBlockAnchors; i += kLanes<C>) {
      const Box<V> anchors = {load(block.x1 + i), load(block.y1 + i), load(block.x2 + i), load(block.y2 + i)};
      const V width = min_of(gt.x2, anchors.x2) - max_of(gt.x1, anchors.x1);
      const V height = min_of(gt.y2, anchors.y2) - max_of(gt.y1, anchors.y1);
      if (!any((width > zero) & (height > zero))) continue;
      visit(i, box_iou_or_zero(gt, gt_area, anchors, load(block.area + i)));
    }
  }

  // First pass: max_iou, its ground truth in matched_gt, and the slice's ground-truth maxima.
  void find_maxima(int64_t image, int64_t slice, int32_t* list) {
    const GroundTruths<C> gts = ground_truths(image, slice);
    C* max_iou = static_cast<C*>(args_.max_iou) + image * args_.num_anchors;
    int64_t* matched_gt = args_.matched_gt + image * args_.num_anchors;
    Block<C> block;
    for (int64_t b = slice * blocks_ / slices_; b < (slice + 1) * blocks_ / slices_; ++b) {
      load_block(image, b * kBlockAnchors, block);
      memset(block.best, 0, sizeof(block.best));
      memset(block.best_gt, 0, sizeof(block.best_gt));
      const int64_t found = list_meeting(gts, block.bounds, list);
      for (int64_t k = 0; k < found; ++k) {
        const int32_t g = list[k];
        const IndexVec<C> index = IndexVec<C>{} + index_t<C>(g);
        V best_of_gt{};
        for_ious(block, gts, g, [&](int64_t i, const V& iou) {
          const V best = load(block.best + i);
          const auto better = iou > best;
          store<C>(better ? iou : best, block.best + i);
          store<index_t<C>>(better ? index : load(block.best_gt + i), block.best_gt + i);
          best_of_gt = max_of(best_of_gt, iou);
        });
        gts.best[g] = max_of(gts.best[g], largest_lane<C>(best_of_gt));
      }
      const int64_t count = min_of(kBlockAnchors, args_.num_anchors - b * kBlockAnchors);
      for (int64_t i = 0; i < count; ++i) {
        max_iou[b * kBlockAnchors + i] = block.best[i];
        matched_gt[b * kBlockAnchors + i] = block.best_gt[i];
      }
    }
  }

  // The maxima of all slices, into the first.
  void merge_slices(int64_t image) {
    C* best = ground_truths(image, 0).best;
    for (int64_t slice = 1; slice < slices_; ++slice) {
      const C* other = ground_truths(image, slice).best;
      for (int64_t g = 0; g < padded_; ++g) best[g] = max_of(best[g], other[g]);
    }
  }

  // Second pass: from an anchor's maximum and its ground truth to the label.
  void label(int64_t image, int64_t slice, int32_t* list) {
    GroundTruths<C> gts = ground_truths(image, 0);
    gts.smallest_best = C(__builtin_inf());
    for (int64_t g = 0; g < gts.count; ++g) {
      if (gts.best[g] > C(0)) gts.smallest_best = min_of(gts.best[g], gts.smallest_best);
    }
    const C high = C(args_.high), low = C(args_.low);
    const C* max_iou = static_cast<const C*>(args_.max_iou) + image * args_.num_anchors;
    int64_t* matched_gt = args_.matched_gt + image * args_.num_anchors;
    Block<C> block;
    for (int64_t b = slice * blocks_ / slices_; b < (slice + 1) * blocks_ / slices_; ++b) {
      const int64_t first = b * kBlockAnchors, count = min_of(kBlockAnchors, args_.num_anchors - first);
      memset(block.claimed, 0, sizeof(block.claimed));
      if (args_.allow_low_quality) find_claimed(image, first, max_iou + first, count, gts, block, list);
      for (int64_t i = 0; i < count; ++i) {
        const C iou = max_iou[first + i];
        const bool matched = iou >= high || block.claimed[i] != 0;
        const int64_t unmatched = iou < low ? kBackground : kIgnore;
        int64_t* out = matched_gt + first + i;
        *out = !is_valid(image, first + i) ? kIgnore : matched ? *out : unmatched;
      }
    }
  }

  void find_claimed(int64_t image, int64_t first, const C* max_iou, int64_t count, const GroundTruths<C>& gts,
                    Block<C>& block, int32_t* list) {
    C greatest = C(0);
    for (int64_t i = 0; i < count; ++i) greatest = max_of(max_iou[i], greatest);
    if (greatest < gts.smallest_best) return;
    load_block(image, first, block);
    const int64_t found = list_meeting(gts, block.bounds, list);
    for (int64_t k = 0; k < found; ++k) {
      const C best_of_gt = gts.best[list[k]];
      if (!(best_of_gt > C(0)) || best_of_gt > greatest) continue;
      for_ious(block, gts, list[k], [&](int64_t i, const V& iou) {
        const auto claims = iou == V{} + best_of_gt;
        store<index_t<C>>(load(block.claimed + i) | claims, block.claimed + i);
      });
    }
  }

  const MatchAnchorsArgs& args_;
  const ParallelFor& parallel_for_;
  const int64_t blocks_, padded_, slices_;
  Buffer<C> columns_;  // [batch, 5, padded]
  Buffer<C> best_;     // [batch, slices, padded]
};

}  // namespace

void match_anchors_cpu(const MatchAnchorsArgs& args, const ParallelFor& parallel_for) {
  if (args.batch == 0 || args.num_anchors == 0) return;
  dispatch(args.dtype, [&](auto tag) { Matcher<typename decltype(tag)::type>(args, parallel_for).run(); });
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
