// Vectors of the SIMD level that is being compiled, as GCC and clang spell them: + - * / and comparisons work
// lane by lane, `mask ? a : b` selects, and a comparison gives lanes of 0 or -1 in an integer vector. Every
// operation is exact IEEE arithmetic, so the number of lanes changes no result.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/macros.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {

#if defined(FASTRPN_SIMD_avx512)
constexpr int64_t kVectorBytes = 64;
#elif defined(FASTRPN_SIMD_avx2)
constexpr int64_t kVectorBytes = 32;
#else
constexpr int64_t kVectorBytes = 16;
#endif

template <typename C>
struct VectorOf;

template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef int32_t index __attribute__((vector_size(kVectorBytes)));
  using lane_index = int32_t;
};

template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef int64_t index __attribute__((vector_size(kVectorBytes)));
  using lane_index = int64_t;
};

template <typename C>
using Vector = typename VectorOf<C>::type;  // of float or double
template <typename C>
using IndexVector = typename VectorOf<C>::index;  // integers as wide as C, and comparisons of Vector<C>
template <typename C>
using lane_index_t = typename VectorOf<C>::lane_index;

template <typename C>
constexpr int64_t lanes = kVectorBytes / int64_t(sizeof(C));

// size rounded up to whole vectors
template <typename C>
FASTRPN_HD int64_t whole_vectors(int64_t size) {
  return (size + lanes<C> - 1) / lanes<C> * lanes<C>;
}

template <typename V, typename C>
FASTRPN_HD V load_vector(const C* from) {
  V vector;
  memcpy(&vector, from, sizeof(V));
  return vector;
}

template <typename V, typename C>
FASTRPN_HD void store_vector(const V& vector, C* to) {
  memcpy(to, &vector, sizeof(V));
}

// True if a comparison held in some lane.
template <typename C>
FASTRPN_HD bool any(const IndexVector<C>& mask) {
#if defined(FASTRPN_SIMD_avx2)
  return __builtin_ia32_movmskps256(reinterpret_cast<const Vector<float>&>(mask)) != 0;
#else
  uint64_t words[kVectorBytes / 8], all = 0;
  memcpy(words, &mask, sizeof(words));
  for (uint64_t word : words) all |= word;
  return all != 0;
#endif
}

template <typename C>
FASTRPN_HD C largest_lane(const Vector<C>& vector) {
  C largest = vector[0];
  for (int64_t lane = 1; lane < lanes<C>; ++lane) largest = vector[lane] > largest ? vector[lane] : largest;
  return largest;
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
