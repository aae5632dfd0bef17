// A threshold for IoUs of type T that decides as the double it was given as does.
#pragma once

#include <math.h>

#include "core/macros.h"

namespace fastrpn {

// The largest T that is <= threshold: numbers of type T exceed both or neither.
template <typename T>
FASTRPN_HD T round_threshold_down(double threshold) {
  T rounded = T(threshold);
  if (double(rounded) > threshold) rounded = T(nextafterf(float(rounded), -INFINITY));  // T is float
  return rounded;
}

}  // namespace fastrpn
