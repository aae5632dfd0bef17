// Vectors as wide as the SIMD level of the source that includes this, through the compiler's vector
// extensions: + - * / and comparisons work lane by lane, `a > b ? a : b` is one maximum instruction.
#pragma once

#include <cstdint>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastrpn::FASTRPN_SIMD_LEVEL {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T>
struct VecOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  static constexpr int lanes = kVectorBytes / sizeof(T);
};

template <typename T>
using Vec = typename VecOf<T>::type;

template <typename T>
constexpr int kLanes = VecOf<T>::lanes;

// From memory of any alignment.
template <typename T>
static inline Vec<T> load(const T* from) {
  Vec<T> value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

template <typename T>
static inline Vec<T> splat(T value) {
  return value - Vec<T>{};
}

// NaN and equal zeros give the second argument.
template <typename V>
static inline V max(V a, V b) {
  return a > b ? a : b;
}

template <typename V>
static inline V min(V a, V b) {
  return a < b ? a : b;
}

// Whether any lane of a comparison holds.
template <typename M>
static inline bool any(M mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps((__m256)mask) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_ps((__m128)mask) != 0;
#else
  typedef int64_t Halves __attribute__((vector_size(kVectorBytes)));
  const Halves halves = (Halves)mask;
  return (halves[0] | halves[1]) != 0;
#endif
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
