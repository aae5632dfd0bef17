// The suppression test of NMS: does a kept box suppress a candidate, IoU(kept, candidate) > threshold?
//
// The answer is that of the plain scalar loop, to the last bit: inter / (a + b - inter) in T, compared with
// the threshold as a double. The fast test does without the division: IoU > t  <=>  inter > t/(1+t) (a + b),
// evaluated with a bound that rounding cannot make too large, for a block of kept boxes at once. Only the
// rare block in which some lane passes it pays for the exact test.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "core/box_math.h"
#include "core/nms/kept_list.h"
#include "core/vec.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {

template <typename T>
struct FloatLimits;

template <>
struct FloatLimits<float> {
  static constexpr float max = FLT_MAX;
  static constexpr float epsilon = FLT_EPSILON;
  static constexpr float tiny_area = 0x1p-100f;  // far enough above underflow for relative error bounds
};

template <>
struct FloatLimits<double> {
  static constexpr double max = DBL_MAX;
  static constexpr double epsilon = DBL_EPSILON;
  static constexpr double tiny_area = 0x1p-900;
};

// The area of a box that can suppress or be suppressed at a threshold >= 0: positive sides and a finite,
// positive area. 0 for any other box (negative sides, NaN, Inf, overflow): its IoU is 0, -0 or NaN with all.
template <typename T>
static inline T active_area(const Box<T>& box) {
  const T area = box_area(box);
  return box.x2 > box.x1 && box.y2 > box.y1 && area <= FloatLimits<T>::max ? area : 0;
}

// The largest T that is <= threshold: `iou > threshold` in double and `iou > floor_to<T>(threshold)` in T
// agree for every iou of type T.
template <typename T>
static inline T floor_to(double threshold) {
  T rounded = T(threshold);
  if (double(rounded) > threshold) rounded = T(__builtin_nextafterf(float(rounded), -INFINITY));
  return rounded;
}

template <>
inline double floor_to<double>(double threshold) {
  return threshold;
}

template <typename T>
class Suppression {
 public:
  explicit Suppression(double threshold)
      : threshold_(floor_to<T>(threshold)),
        // Below 2^-20 the bound could underflow: there any overlap goes to the exact test.
        scale_(threshold < 0x1p-20 ? T(0)
                                   : T(threshold / (1 + threshold)) * (1 - 16 * FloatLimits<T>::epsilon)) {}

  // t/(1+t) of a box's area, rounded down: IoU(a, b) > t implies inter > bound(a) + bound(b).
  T bound(T area) const { return scale_ * area; }

  // Whether one of the block's boxes suppresses the candidate. All of them active, no area below tiny_area,
  // 0 <= threshold < 1.
  bool hit(const KeptBlock<T>& kept, const Box<T>& box, T box_bound) const {
    const V w = min(load(kept.x2), splat(box.x2)) - max(load(kept.x1), splat(box.x1));
    const V h = min(load(kept.y2), splat(box.y2)) - max(load(kept.y1), splat(box.y1));
    // One clamp is enough: the product is positive only if h > 0 too.
    const bool maybe = any(max(V{}, w) * h > load(kept.bound) + box_bound);
    return maybe && exact_hit(kept, box);
  }

  // The definition, for any boxes and any threshold.
  bool exact_hit(const KeptBlock<T>& kept, const Box<T>& box) const {
    const V x1 = load(kept.x1), y1 = load(kept.y1), x2 = load(kept.x2), y2 = load(kept.y2);
    const V w = max(min(x2, splat(box.x2)) - max(x1, splat(box.x1)), V{});
    const V h = max(min(y2, splat(box.y2)) - max(y1, splat(box.y1)), V{});
    const V inter = w * h;
    const V iou = inter / ((x2 - x1) * (y2 - y1) + box_area(box) - inter);
    return any(iou > threshold_);
  }

 private:
  using V = Vec<T>;
  T threshold_, scale_;
};

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
