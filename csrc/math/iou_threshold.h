// The one rule for IoU thresholds of nms and soft_nms, on the CPU and on CUDA: an IoU of type T exceeds the
// threshold if it does so as a double. 3/10 in float is more than 0.3; the float nearest to 0.3 is not less.
#pragma once

#include <math.h>

#include "math/macros.h"

namespace fastrpn {

// The largest T that is <= threshold: numbers of type T exceed both or neither.
template <typename T>
FASTRPN_HD T round_threshold_down(double threshold) {
  T rounded = T(threshold);
  if (double(rounded) > threshold) rounded = T(nextafterf(float(rounded), -INFINITY));  // T is float
  return rounded;
}

}  // namespace fastrpn
