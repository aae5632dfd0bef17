// The part that intervals share, a vector of pairs at a time.
//
// Sums, minima and maxima of floats wait for the same two ports of a core; those of integers have others to
// go to. Floats that are not negative are ordered as their bits are, and one of two suffices for that: any
// negative number is less, as a float and as an integer. So where one set of intervals is known to have no
// sign bit, integers are compared, with the same result; a quarter faster.
#pragma once

#include "cpu/vector.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {

// Whether integers as wide as T have minima and maxima of one instruction.
template <typename T>
constexpr bool kComparesIntegers = kVectorBytes >= (sizeof(T) == 4 ? 32 : 64);

// Lanes in which one of the numbers has its sign bit set, as negative integers.
template <typename T>
static inline IndexVec<T> signs(Vec<T> a, Vec<T> b, Vec<T> c, Vec<T> d) {
  using I = IndexVec<T>;
  return (I)a | (I)b | (I)c | (I)d;
}

// 0 where the length is negative (or a negative NaN).
template <typename T>
static inline Vec<T> not_negative(Vec<T> length) {
  if constexpr (kComparesIntegers<T>) {
    return (Vec<T>)max((IndexVec<T>)length, IndexVec<T>{});
  } else {
    return max(length, Vec<T>{});
  }
}

// How much [low1, high1] and [low2, high2] share, negative if they do not meet. kAsIntegers: low1 and high1
// have no sign bit.
template <typename T, bool kAsIntegers>
static inline Vec<T> shared_length(Vec<T> low1, Vec<T> high1, Vec<T> low2, Vec<T> high2) {
  if constexpr (kAsIntegers) {
    using I = IndexVec<T>;
    return (Vec<T>)min((I)high1, (I)high2) - (Vec<T>)max((I)low1, (I)low2);
  } else {
    return min(high1, high2) - max(low1, low2);
  }
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
