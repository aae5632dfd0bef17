// The one source that includes CUB, whose headers take most of its compile time.
#include <cub/device/device_radix_sort.cuh>

#include "core/device_sort.h"

namespace fastrpn {

static cudaError_t find_workspace_bytes(int64_t count, size_t* bytes) {
  return cub::DeviceRadixSort::SortPairs(
      nullptr, *bytes, static_cast<const uint64_t*>(nullptr), static_cast<uint64_t*>(nullptr),
      static_cast<const uint32_t*>(nullptr), static_cast<uint32_t*>(nullptr), int(count));
}

size_t device_sort_workspace_bytes(int64_t count) {
  size_t bytes = 0;
  // 0 where CUDA refuses: device_sort will meet the same error and return it.
  return find_workspace_bytes(count, &bytes) == cudaSuccess ? bytes : 0;
}

Status device_sort(void* workspace, const uint64_t* keys, uint64_t* sorted_keys, const uint32_t* values,
                   uint32_t* sorted_values, int64_t count, int key_bits, Stream stream) {
  size_t bytes = 0;
  cudaError_t error = find_workspace_bytes(count, &bytes);
  if (error == cudaSuccess) {
    error = cub::DeviceRadixSort::SortPairs(workspace, bytes, keys, sorted_keys, values, sorted_values,
                                            int(count), 0, key_bits, stream);
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace fastrpn
