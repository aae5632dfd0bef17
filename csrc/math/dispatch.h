// From an element type known at run time to code compiled for it, on the CPU and for launches.
#pragma once

#include "math/dtype.h"

namespace fastrpn {

template <typename T>
struct TypeTag {
  using type = T;
};

// Calls run(TypeTag<T>()) for the element type that `dtype` names, and returns what it does.
template <typename Run>
FASTRPN_HOST auto dispatch(DType dtype, const Run& run) {
  switch (dtype) {
    case DType::float16:
      return run(TypeTag<half_t>());
    case DType::bfloat16:
      return run(TypeTag<bfloat16_t>());
    case DType::float32:
      return run(TypeTag<float>());
    case DType::float64:
      return run(TypeTag<double>());
  }
  __builtin_unreachable();
}

}  // namespace fastrpn
