// The one source that includes CUB, whose headers take most of its compile time.
#include <cub/device/device_radix_sort.cuh>

#include "cuda/runtime.h"
#include "cuda/sort.h"

namespace fastrpn {

Status device_sort(void* workspace, const uint64_t* keys, uint64_t* sorted_keys, const uint32_t* values,
                   uint32_t* sorted_values, int64_t count, int key_bits, Stream stream) {
  if (count > INT32_MAX) return "a sort of 2^31 numbers or more";
  auto bytes = size_t(device_sort_workspace_bytes(count));
  return status_of(cub::DeviceRadixSort::SortPairs(workspace, bytes, keys, sorted_keys, values, sorted_values,
                                                   int(count), 0, key_bits, stream));
}

}  // namespace fastrpn
