// Scratch memory of a CPU kernel: uninitialised, aligned to cache lines, freed at the end of the scope.
// Throws std::bad_alloc where there is not that much, or no number of bytes for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

namespace fastrpn::FASTRPN_SIMD_LEVEL {

template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : data_(static_cast<T*>(::operator new(bytes_of(size), std::align_val_t(64)))) {}
  ~Buffer() { ::operator delete(data_, std::align_val_t(64)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 private:
  static size_t bytes_of(int64_t size) {
    size_t bytes;
    const bool fits = !__builtin_mul_overflow(size, sizeof(T), &bytes) && bytes < size_t(PTRDIFF_MAX);
    return fits ? bytes : size_t(PTRDIFF_MAX) / 64 * 64;
  }

  T* data_;
};

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
