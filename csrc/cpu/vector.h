// Vectors as wide as the SIMD level of the source that includes this, as GCC and clang spell them: + - * /
// and comparisons work lane by lane, `mask ? a : b` selects, and a comparison gives lanes of 0 or -1 in an
// integer vector. Every operation is exact IEEE arithmetic, so the number of lanes changes no result.
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
};

template <typename T>
using Vec = typename VecOf<T>::type;

// What a comparison of Vec<T> gives: integers as wide as T.
template <typename T>
using IndexVec = decltype(Vec<T>{} > Vec<T>{});
template <typename T>
using index_t = decltype(IndexVec<T>{}[0] + 0);

template <typename T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

// size rounded up to whole vectors
template <typename T>
static inline int64_t whole_vectors(int64_t size) {
  return (size + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// From and to memory of any alignment.
template <typename T>
static inline Vec<T> load(const T* from) {
  Vec<T> value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

template <typename T>
static inline void store(Vec<T> value, T* to) {
  __builtin_memcpy(to, &value, sizeof(value));
}

template <typename T>
static inline Vec<T> splat(T value) {
  return value - Vec<T>{};
}

// One instruction each. NaN and equal zeros give the second argument.
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

// The lanes in which a > b, as bits.
static inline uint32_t lanes_greater(Vec<float> a, Vec<float> b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
#elif defined(__AVX2__)
  return uint32_t(_mm256_movemask_ps((__m256)(a > b)));
#elif defined(__SSE2__)
  return uint32_t(_mm_movemask_ps((__m128)(a > b)));
#else
  uint32_t lanes = 0;
  for (int lane = 0; lane < kLanes<float>; ++lane) lanes |= uint32_t(a[lane] > b[lane]) << lane;
  return lanes;
#endif
}

static inline uint32_t lanes_greater(Vec<double> a, Vec<double> b) {
#if defined(__AVX512F__)
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GT_OQ);
#elif defined(__AVX2__)
  return uint32_t(_mm256_movemask_pd((__m256d)(a > b)));
#elif defined(__SSE2__)
  return uint32_t(_mm_movemask_pd((__m128d)(a > b)));
#else
  uint32_t lanes = 0;
  for (int lane = 0; lane < kLanes<double>; ++lane) lanes |= uint32_t(a[lane] > b[lane]) << lane;
  return lanes;
#endif
}

template <typename T>
static inline T largest_lane(Vec<T> vector) {
  T largest = vector[0];
  for (int lane = 1; lane < kLanes<T>; ++lane) largest = vector[lane] > largest ? vector[lane] : largest;
  return largest;
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
