// Element types of the kernels: names for what the caller passes behind `const void*`, and our own half
// types, because kernels must compile on machines without cuda_fp16.h and without torch.
//
// Half types are storage only. Every kernel widens them to float (exact), computes in float and rounds
// once, to nearest even, when it stores.
#pragma once

#include <cstdint>
#include <cstring>

#include "math/macros.h"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

namespace fastrpn {

enum class DType : int { float16, bfloat16, float32, float64 };

struct half_t {
  uint16_t bits;
};

struct bfloat16_t {
  uint16_t bits;
};

FASTRPN_HD float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

FASTRPN_HD uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Widens to the type the kernel computes in: float for the half types, T itself otherwise.
FASTRPN_HD float widen(float value) { return value; }
FASTRPN_HD double widen(double value) { return value; }
FASTRPN_HD float widen(bfloat16_t value) { return bits_to_float(uint32_t(value.bits) << 16); }
FASTRPN_HD float widen(half_t value) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(value.bits));  // one instruction, as exact
#endif
  // Shift exponent and mantissa into place and rescale by 2^112; the product is exact for normal and
  // subnormal halves alike. Infinities and NaNs get the float exponent set by hand.
  const uint32_t sign = uint32_t(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = uint32_t(value.bits & 0x7fffu) << 13;
  if (magnitude >= 0x0f800000u) return bits_to_float(sign | 0x70000000u | magnitude);
  return bits_to_float(sign | float_to_bits(bits_to_float(magnitude) * bits_to_float(0x77800000u)));
}

// Rounds a computed value to the storage type, to nearest even; NaN stays NaN.
template <typename T>
struct Narrow {
  static FASTRPN_HD_MEMBER T from(T value) { return value; }
};

template <>
struct Narrow<bfloat16_t> {
  static FASTRPN_HD_MEMBER bfloat16_t from(float value) {
    const uint32_t bits = float_to_bits(value);
    if (value != value) return {uint16_t(0x7fc0)};
    return {uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
  }
};

template <>
struct Narrow<half_t> {
  static FASTRPN_HD_MEMBER half_t from(float value) {
#if defined(__CUDA_ARCH__)
    return {__half_as_ushort(__float2half_rn(value))};
#endif
    const uint32_t bits = float_to_bits(value);
    const uint16_t sign = uint16_t((bits >> 16) & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7e00u)};
    if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};  // rounds past 65504
    if (magnitude < 0x38800000u) {
      // Subnormal half: adding 0.5 lines the mantissa up so that the float adder rounds for us.
      const uint32_t shifted = float_to_bits(bits_to_float(magnitude) + 0.5f);
      return {uint16_t(sign | (shifted - 0x3f000000u))};
    }
    const uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
    return {uint16_t(sign | (rounded >> 13))};
  }
};

template <typename T>
FASTRPN_HD T narrow(decltype(widen(T())) value) {
  return Narrow<T>::from(value);
}

template <typename T>
using compute_t = decltype(widen(T()));

// The lowest finite value.
template <typename T>
inline constexpr float kLowest = -3.4028234663852886e+38f;
template <>
inline constexpr float kLowest<half_t> = -65504.0f;
template <>
inline constexpr float kLowest<bfloat16_t> = -3.3895313892515355e+38f;
template <>
inline constexpr double kLowest<double> = -1.7976931348623157e+308;

// Element `at` of an array of that type, widened to T, which is no narrower.
template <typename T>
FASTRPN_HD T widen_at(const void* data, DType dtype, int64_t at) {
  switch (dtype) {
    case DType::float16:
      return T(widen(static_cast<const half_t*>(data)[at]));
    case DType::bfloat16:
      return T(widen(static_cast<const bfloat16_t*>(data)[at]));
    case DType::float32:
      return T(static_cast<const float*>(data)[at]);
    default:
      return T(static_cast<const double*>(data)[at]);
  }
}

// A number as it meets elements of type T: rounded to that type, as torch and NumPy round the Python number
// of `scores > 0.2`. (Thresholds of IoUs are compared as doubles instead: math/iou_threshold.h.)
template <typename T>
FASTRPN_HD compute_t<T> as_element(double number) {
  return widen(narrow<T>(compute_t<T>(number)));
}

}  // namespace fastrpn
