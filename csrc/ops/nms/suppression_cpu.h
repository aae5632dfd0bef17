// The suppression test of NMS on the CPU: is IoU(a, b) > threshold, for one box and a block of others?
//
// The answer is that of the plain scalar loop, to the last bit: inter / (a + b - inter) in T, compared with
// the threshold as a double. Nearly always it is found without the division: IoU > t  <=>  inter > t/(1+t)
// (a + b), by a margin that no rounding makes up for. The division decides where the margin is smaller.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "cpu/interval.h"
#include "math/box.h"
#include "math/iou_threshold.h"
#include "ops/nms/kept_list_cpu.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {

template <typename T>
struct FloatLimits;

template <>
struct FloatLimits<float> {
  static constexpr float max = FLT_MAX;
  static constexpr float epsilon = FLT_EPSILON;
  static constexpr float tiny_area = 0x1p-100f;  // far enough above underflow for relative error bounds
  static constexpr float huge_area = 0x1p126f;   // sums of two that are no larger do not overflow
};

template <>
struct FloatLimits<double> {
  static constexpr double max = DBL_MAX;
  static constexpr double epsilon = DBL_EPSILON;
  static constexpr double tiny_area = 0x1p-900;
  static constexpr double huge_area = 0x1p1022;
};

// The area of a box that can suppress or be suppressed at a threshold >= 0: positive sides and a finite,
// positive area. 0 for any other box (negative sides, NaN, Inf, overflow): its IoU is 0, -0 or NaN with all.
template <typename T>
static inline T active_area(const Box<T>& box) {
  const T area = box_area(box);
  return box.x2 > box.x1 && box.y2 > box.y1 && area <= FloatLimits<T>::max ? area : 0;
}

// Whether a positive area is so small or so large that no bound on rounding errors holds for it.
template <typename T>
static inline bool is_extreme(T area) {
  return area < FloatLimits<T>::tiny_area || area > FloatLimits<T>::huge_area;
}

template <typename T>
class Suppression {
  using V = Vec<T>;

 public:
  explicit Suppression(double threshold)
      : threshold_(round_threshold_down<T>(threshold)),
        // Below 2^-20 the bound could underflow: there any overlap goes to the exact test.
        scale_(threshold < 0x1p-20 ? T(0)
                                   : T(threshold / (1 + threshold)) * (1 - 16 * FloatLimits<T>::epsilon)),
        slack_(threshold < 0x1p-20 ? T(0) : T(64 * FloatLimits<T>::epsilon * (1 + threshold) / threshold)),
        least_sure_(threshold < 0x1p-20 ? T(INFINITY) : T(0)) {}

  // Sets the bounds of a block's boxes; returns whether an active one's area is extreme.
  bool set_bounds(BoxBlock<T>& block) const {
    const V w = load(block.x2) - load(block.x1), h = load(block.y2) - load(block.y1), area = w * h;
    const auto active = (w > 0) & (h > 0) & (area <= FloatLimits<T>::max);
    store<T>(active ? area * scale_ : V{} + T(NAN), block.bound);
    return any(active & ((area < FloatLimits<T>::tiny_area) | (area > FloatLimits<T>::huge_area)));
  }

  // t/(1+t) of a box's area, rounded down: IoU(a, b) > t implies inter > bound(a) + bound(b).
  T bound(T area) const { return scale_ * area; }

  // By how much the overlap with each box of a block exceeds the bound of `box`. No extreme area,
  // 0 <= threshold < 1. kAsIntegers: no coordinate of the block has its sign bit set.
  template <bool kAsIntegers>
  V excess(const BoxBlock<T>& block, const Box<T>& box, T box_bound) const {
    const V w = shared_length<T, kAsIntegers>(load(block.x1), load(block.x2), splat(box.x1), splat(box.x2));
    const V h = shared_length<T, kAsIntegers>(load(block.y1), load(block.y2), splat(box.y1), splat(box.y2));
    // One clamp is enough: the product is positive only if h > 0 too.
    return not_negative<T>(w) * h - box_bound;
  }

  // Lanes of a block that are suppressed for sure, and those that only the definition can decide.
  struct Verdict {
    uint32_t sure, unsure;
  };

  // For the greatest excess over some boxes. Where it is near the bound of the block's box, the overlap and
  // the other bound are at most that box's area; rounding errors of both tests together are below 32 epsilon
  // of it.
  Verdict judge(const BoxBlock<T>& block, V excess) const {
    const V bound = load(block.bound), slack = bound * slack_, margin = excess - bound;
    const uint32_t sure = lanes_greater(margin, slack + least_sure_);
    return {sure, lanes_greater(margin, -slack) & ~sure};
  }

  // Whether one of the block's boxes suppresses the box; the same conditions.
  bool hit(const BoxBlock<T>& block, const Box<T>& box, T box_bound) const {
    return lanes_greater(excess<false>(block, box, box_bound), load(block.bound)) != 0 &&
           exactly(block, box) != 0;
  }

  // Lanes of a block whose IoU with a box exceeds the threshold, by the definition: any boxes, any threshold.
  uint32_t exactly(const BoxBlock<T>& block, const Box<T>& box) const {
    const V x1 = load(block.x1), y1 = load(block.y1), x2 = load(block.x2), y2 = load(block.y2);
    const V w = max(min(x2, splat(box.x2)) - max(x1, splat(box.x1)), V{});
    const V h = max(min(y2, splat(box.y2)) - max(y1, splat(box.y1)), V{});
    const V inter = w * h;
    const V iou = inter / ((x2 - x1) * (y2 - y1) + box_area(box) - inter);
    return lanes_greater(iou, splat(threshold_));
  }

 private:
  T threshold_, scale_, slack_, least_sure_;
};

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
