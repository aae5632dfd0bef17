// Sorting on the device, behind one function, since CUB's headers take most of a kernel's compile time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/status.h"

namespace fastrpn {

// As many bytes as CUB needs to sort `count` pairs, or more; no call has to ask it. A copy of keys and
// values; for each block 256 counters, at most a byte a pair where a block has 1,024 pairs; the counters of
// eight passes over up to 2^31 pairs. Checked in the CUB of each CUDA from 12.0 to 13.3: it allocates just
// these, and its blocks have 2,816 pairs (sm_70), 3,840 (sm_80) or 5,760 (sm_90). CUB refuses too little
// memory: were another version's need larger, device_sort would fail, and write nothing.
inline int64_t device_sort_workspace_bytes(int64_t count) { return 13 * count + (int64_t(1) << 17); }

// Stable sort of `count` pairs by ascending key, of which only the bits [0, key_bits) are compared. The
// inputs are not changed. Reports an error of CUDA, and 2^31 pairs or more.
Status device_sort(void* workspace, const uint64_t* keys, uint64_t* sorted_keys, const uint32_t* values,
                   uint32_t* sorted_values, int64_t count, int key_bits, Stream stream);

// Bits of a key that tell `count` things apart.
inline int bits_to_number(int64_t count) {
  int bits = 0;
  while ((count - 1) >> bits > 0) ++bits;
  return bits;
}

}  // namespace fastrpn
