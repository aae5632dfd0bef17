// The suppression test of NMS on CUDA: is IoU(a, b) > threshold?
//
// The answer is that of the CPU's plain loop, to the last bit: inter / (a + b - inter) in T, compared with
// the threshold as a double. Most pairs need no division: with t the largest T that is <= threshold,
// round(inter / union) > t implies inter / union >= t and so inter >= round(t * union), rounding being
// monotonic (t >= 0; a union that is negative or NaN gives false either way).
#pragma once

#include "math/box.h"
#include "math/iou_threshold.h"

namespace fastrpn {

template <typename T>
class IouTest {
 public:
  explicit IouTest(double threshold) : threshold_(round_threshold_down<T>(threshold)) {}

  // Whether boxes that do not meet never suppress each other: their IoU is 0 or NaN.
  FASTRPN_HD_MEMBER bool needs_overlap() const { return threshold_ >= T(0); }

  FASTRPN_HD_MEMBER bool operator()(const Box<T>& a, T a_area, const Box<T>& b, T b_area) const {
    const T inter = box_intersection(a, b);
    const T both = a_area + b_area - inter;
    if (needs_overlap() && !(inter >= threshold_ * both)) return false;
    return inter / both > threshold_;
  }

 private:
  T threshold_;
};

}  // namespace fastrpn
