// SIMD across channels, for the RoI kernels: vectors of the level's width, transposition between
// channel planes and channel-minor cells, scratch memory. Included once for each SIMD level.
#pragma once

#include <cstdint>
#include <cstdlib>
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

// Scratch memory of one call, aligned for vectors, not initialised.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : data_(static_cast<T*>(aligned_alloc(64, (size_t(size) * sizeof(T) + 63) / 64 * 64 + 64))) {
    if (data_ == nullptr) abort();
  }
  ~Buffer() { free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  operator T*() const { return data_; }

 private:
  T* data_;
};

template <typename To, typename From>
struct Convert {
  static inline To from(From value) { return Narrow<To>::from(widen(value)); }
};
template <typename T>
struct Convert<T, T> {
  static inline T from(T value) { return value; }
};

// to[column][row] = from[row][column]; strides in elements, between rows of each.
template <typename To, typename From>
inline void transpose(const From* from, int64_t from_stride, int64_t rows, int64_t columns, To* to,
                      int64_t to_stride) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      to[column * to_stride + row] = Convert<To, From>::from(from[row * from_stride + column]);
    }
  }
}

// The same for four-byte elements, four by four in registers.
template <typename T>
inline void transpose_words(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to,
                            int64_t to_stride) {
  typedef uint32_t Quad __attribute__((vector_size(16)));
  static_assert(sizeof(T) == 4, "words");
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) {
    int64_t column = 0;
    for (; column + 4 <= columns; column += 4) {
      Quad a, b, c, d;
      const T* source = from + row * from_stride + column;
      memcpy(&a, source, 16);
      memcpy(&b, source + from_stride, 16);
      memcpy(&c, source + 2 * from_stride, 16);
      memcpy(&d, source + 3 * from_stride, 16);
      const Quad ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
      const Quad ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const Quad cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
      const Quad cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      a = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
      b = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
      c = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
      d = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
      T* target = to + column * to_stride + row;
      memcpy(target, &a, 16);
      memcpy(target + to_stride, &b, 16);
      memcpy(target + 2 * to_stride, &c, 16);
      memcpy(target + 3 * to_stride, &d, 16);
    }
    for (; column < columns; ++column) {
      for (int64_t i = 0; i < 4; ++i) {
        to[column * to_stride + row + i] = from[(row + i) * from_stride + column];
      }
    }
  }
  for (; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
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
