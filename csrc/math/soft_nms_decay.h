// What a score keeps when a box is selected that overlaps it (Bodla et al., 2017, section 3).
#pragma once

#include <limits>

#include "math/exponential.h"
#include "math/iou_threshold.h"

namespace fastrpn {

enum class SoftNmsMethod : int { linear, gaussian };

template <typename T>
struct SoftNmsDecay {
  SoftNmsMethod method;
  T sigma, iou_threshold;

  static SoftNmsDecay of(SoftNmsMethod method, double sigma, double iou_threshold) {
    // One that T rounds to 0 would make 0 / 0 of the square of a tiny IoU.
    constexpr T kSmallest = std::numeric_limits<T>::denorm_min();
    return {method, T(sigma) > kSmallest ? T(sigma) : kSmallest, round_threshold_down<T>(iou_threshold)};
  }

  // The factor of a score; 1 for an IoU of 0 or NaN.
  FASTRPN_HD_MEMBER T weight(T iou) const {
    if (method == SoftNmsMethod::gaussian) return iou > T(0) ? exponential(-(iou * iou) / sigma) : T(1);
    return iou > iou_threshold ? T(1) - iou : T(1);
  }
};

}  // namespace fastrpn
