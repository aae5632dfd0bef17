// Sorting on the device, behind one function, since CUB's headers take most of a kernel's compile time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/status.h"
#include "math/dtype.h"

namespace fastrpn {

// Stable sort of `count` pairs by ascending key, of which only the bits [0, key_bits) are compared. The
// inputs are not changed. `workspace` has as many bytes as device_sort_workspace_bytes says. Both report an
// error of CUDA, and 2^31 pairs or more.
Status device_sort_workspace_bytes(int64_t count, size_t* bytes);
Status device_sort(void* workspace, const uint64_t* keys, uint64_t* sorted_keys, const uint32_t* values,
                   uint32_t* sorted_values, int64_t count, int key_bits, Stream stream);

// Maps a score to an integer that ascends as torch.sort(descending=True) orders: NaN first, -0 equal to 0.
// All bits set is no score's key.
FASTRPN_HD uint32_t descending_key(float score) {
  if (score != score) return 0;
  const uint32_t bits = float_to_bits(score + 0.0f);
  return (bits >> 31) ? bits : ~bits & 0x7fffffffu;
}

FASTRPN_HD uint64_t descending_key(double score) {
  if (score != score) return 0;
  score += 0.0;
  uint64_t bits;
  memcpy(&bits, &score, sizeof(bits));
  return (bits >> 63) ? bits : ~bits & 0x7fffffffffffffffu;
}

}  // namespace fastrpn
