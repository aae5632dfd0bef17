// Cuts one block of device memory into arrays. A kernel family describes its arrays once, in a function that
// takes a cursor: with a null base it measures how much is needed, with the caller's memory it hands it out.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastrpn {

class WorkspaceCursor {
 public:
  explicit WorkspaceCursor(void* base) : base_(static_cast<char*>(base)) {}

  template <typename T>
  T* take(int64_t count) {
    T* array = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + bytes_);
    bytes_ += (size_t(count) * sizeof(T) + 255) / 256 * 256;
    return array;
  }

  size_t bytes() const { return bytes_; }

 private:
  char* base_;
  size_t bytes_ = 0;
};

}  // namespace fastrpn
