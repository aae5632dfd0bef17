// Cuts one block of device memory into arrays. A kernel family describes its arrays once, in a function that
// takes a cursor: with a null base it measures how much is needed, with the caller's memory it hands it out.
// What would not fit into an address space counts as kMost bytes, which nobody can allocate.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(FASTRPN_CUDA_ON_CPU)
#include "cuda_on_cpu.h"
#endif

namespace fastrpn {

class WorkspaceCursor {
 public:
  explicit WorkspaceCursor(void* base) : base_(static_cast<char*>(base)) {}

  template <typename T>
  T* take(int64_t count) {
    T* array = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + bytes_);
    size_t end;
    if (__builtin_mul_overflow(count, sizeof(T), &end) || end > kMost - bytes_) end = kMost - bytes_;
    end += bytes_;
    bytes_ = end < kMost - kRedZone - 255 ? (end + kRedZone + 255) / 256 * 256 : kMost;
#if defined(FASTRPN_CUDA_ON_CPU)
    if (base_ != nullptr) cuda_on_cpu::add_red_zone(base_ + end, base_ + bytes_);
#endif
    return array;
  }

  size_t bytes() const { return bytes_; }

  static constexpr size_t kMost = size_t(PTRDIFF_MAX) / 256 * 256;

 private:
#if defined(FASTRPN_CUDA_ON_CPU)
  static constexpr size_t kRedZone = 64;  // between arrays, where the harness finds overruns
#else
  static constexpr size_t kRedZone = 0;
#endif

  char* base_;
  size_t bytes_ = 0;
};

}  // namespace fastrpn
