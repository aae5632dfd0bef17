// exp by the type of its argument. A GPU's differs from the CPU's in the last place.
#pragma once

#include <math.h>

#include "math/macros.h"

namespace fastrpn {

FASTRPN_HD float exponential(float value) { return expf(value); }
FASTRPN_HD double exponential(double value) { return exp(value); }

template <typename T>
FASTRPN_HD T sigmoid(T logit) {
  return T(1) / (T(1) + exponential(-logit));
}

}  // namespace fastrpn
