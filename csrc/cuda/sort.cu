// The one source that includes CUB, whose headers take most of its compile time.
#include <cub/device/device_radix_sort.cuh>

#include "cuda/runtime.h"
#include "cuda/sort.h"

namespace fastrpn {

Status device_sort_workspace_bytes(int64_t count, size_t* bytes) {
  if (count > INT32_MAX) return "a sort of 2^31 numbers or more";
  return status_of(cub::DeviceRadixSort::SortPairs(
      nullptr, *bytes, static_cast<const uint64_t*>(nullptr), static_cast<uint64_t*>(nullptr),
      static_cast<const uint32_t*>(nullptr), static_cast<uint32_t*>(nullptr), int(count)));
}

Status device_sort(void* workspace, const uint64_t* keys, uint64_t* sorted_keys, const uint32_t* values,
                   uint32_t* sorted_values, int64_t count, int key_bits, Stream stream) {
  size_t bytes = 0;
  FASTRPN_TRY(device_sort_workspace_bytes(count, &bytes));
  return status_of(cub::DeviceRadixSort::SortPairs(workspace, bytes, keys, sorted_keys, values, sorted_values,
                                                   int(count), 0, key_bits, stream));
}

}  // namespace fastrpn
