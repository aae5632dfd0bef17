// SIMD across channels, for the RoI kernels on the CPU: vectors of the level's width, and transposition
// between planes of channels and channel-minor cells. Included once for each SIMD level.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "core/simd.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <typename T>
using Vector = typename VectorOf<T>::type;

template <typename T>
inline Vector<T> load(const T* from) {
  Vector<T> vector;
  memcpy(&vector, from, sizeof(vector));
  return vector;
}

template <typename T>
inline void store(Vector<T> vector, T* to) {
  memcpy(to, &vector, sizeof(vector));
}

template <typename T>
inline Vector<T> broadcast(T value) {
  return value - Vector<T>{};
}

// Between a stored and a computed type, either way.
template <typename To, typename From>
struct Convert {
  static inline To from(From value) { return Narrow<To>::from(widen(value)); }
};
template <typename T>
struct Convert<T, T> {
  static inline T from(T value) { return value; }
};

// to[column][row] = from[row][column]; rows of each lie `stride` elements apart.
template <typename To, typename From>
inline void transpose(const From* from, int64_t from_stride, int64_t rows, int64_t columns, To* to,
                      int64_t to_stride) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      to[column * to_stride + row] = Convert<To, From>::from(from[row * from_stride + column]);
    }
  }
}

typedef uint32_t Quad __attribute__((vector_size(16)));

#if defined(__clang__)
#define FASTRPN_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define FASTRPN_SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, Quad{i, j, k, l})
#endif

// Four by four elements of four bytes, in registers.
template <typename T>
inline void transpose_quad(const T* from, int64_t from_stride, T* to, int64_t to_stride) {
  Quad a, b, c, d;
  memcpy(&a, from, 16);
  memcpy(&b, from + from_stride, 16);
  memcpy(&c, from + 2 * from_stride, 16);
  memcpy(&d, from + 3 * from_stride, 16);
  const Quad ab_low = FASTRPN_SHUFFLE(a, b, 0, 4, 1, 5), ab_high = FASTRPN_SHUFFLE(a, b, 2, 6, 3, 7);
  const Quad cd_low = FASTRPN_SHUFFLE(c, d, 0, 4, 1, 5), cd_high = FASTRPN_SHUFFLE(c, d, 2, 6, 3, 7);
  a = FASTRPN_SHUFFLE(ab_low, cd_low, 0, 1, 4, 5);
  b = FASTRPN_SHUFFLE(ab_low, cd_low, 2, 3, 6, 7);
  c = FASTRPN_SHUFFLE(ab_high, cd_high, 0, 1, 4, 5);
  d = FASTRPN_SHUFFLE(ab_high, cd_high, 2, 3, 6, 7);
  memcpy(to, &a, 16);
  memcpy(to + to_stride, &b, 16);
  memcpy(to + 2 * to_stride, &c, 16);
  memcpy(to + 3 * to_stride, &d, 16);
}

template <typename T>
inline void transpose_words(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to,
                            int64_t to_stride) {
  static_assert(sizeof(T) == 4, "four-byte elements");
  const int64_t quad_rows = rows / 4 * 4, quad_columns = columns / 4 * 4;
  for (int64_t row = 0; row < quad_rows; row += 4) {
    for (int64_t column = 0; column < quad_columns; column += 4) {
      transpose_quad(from + row * from_stride + column, from_stride, to + column * to_stride + row,
                     to_stride);
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = row < quad_rows ? quad_columns : 0; column < columns; ++column) {
      to[column * to_stride + row] = from[row * from_stride + column];
    }
  }
}

template <>
inline void transpose(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to,
                      int64_t to_stride) {
  transpose_words(from, from_stride, rows, columns, to, to_stride);
}

template <>
inline void transpose(const int32_t* from, int64_t from_stride, int64_t rows, int64_t columns, int32_t* to,
                      int64_t to_stride) {
  transpose_words(from, from_stride, rows, columns, to, to_stride);
}

}  // namespace
}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
