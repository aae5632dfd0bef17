// A tensor of a case: a heap block that ends with the last element, so that one element too far is an error.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "math/dtype.h"

template <typename T>
class Array {
 public:
  // `skipped` elements before the first spoil the alignment of vectors.
  explicit Array(int64_t size, int64_t skipped = 0)
      : size_(size), block_(static_cast<T*>(std::malloc(size_t(size + skipped) * sizeof(T)))) {
    data_ = size == 0 ? nullptr : block_ + skipped;  // null: as torch has it
  }
  ~Array() { std::free(block_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  int64_t size() const { return size_; }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 private:
  int64_t size_;
  T* block_;
  T* data_;
};

// A double as a stored type; what does not fit becomes infinite.
template <typename T>
inline T stored(double value) {
  if constexpr (sizeof(T) == 8) {
    return value;
  } else {
    constexpr double kMost = std::numeric_limits<float>::max();
    const float clamped = std::fabs(value) > kMost && !std::isinf(value)
                              ? std::copysign(std::numeric_limits<float>::infinity(), float(value > 0) - 0.5f)
                              : float(value);
    return fastrpn::narrow<T>(clamped);
  }
}

template <typename T>
inline constexpr fastrpn::DType kDType = fastrpn::DType::float32;
template <>
inline constexpr fastrpn::DType kDType<double> = fastrpn::DType::float64;
template <>
inline constexpr fastrpn::DType kDType<fastrpn::half_t> = fastrpn::DType::float16;
template <>
inline constexpr fastrpn::DType kDType<fastrpn::bfloat16_t> = fastrpn::DType::bfloat16;
