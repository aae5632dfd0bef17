// The host twin of csrc/core/device_sort.cu.
#include "core/device_sort.h"

#include <algorithm>
#include <vector>

#include "cuda_on_cpu.h"

namespace fastrpn {

// About what CUB takes: a second copy of keys and values, and counters.
size_t device_sort_workspace_bytes(int64_t count) { return size_t(count) * 13 + 4096; }

Status device_sort(void* workspace, const uint64_t* keys, uint64_t* sorted_keys, const uint32_t* values,
                   uint32_t* sorted_values, int64_t count, int key_bits, Stream stream) {
  cudaMemsetAsync(workspace, 0xcd, device_sort_workspace_bytes(count), stream);  // CUB would use all of it
  const uint64_t compared = key_bits == 64 ? ~uint64_t(0) : (uint64_t(1) << key_bits) - 1;
  struct Pair {
    uint64_t key;
    uint32_t value;
  };
  std::vector<uint64_t> key_buffer(size_t(count), 0);
  std::vector<uint32_t> value_buffer(size_t(count), 0);
  cuda_on_cpu::copy_from_device(key_buffer.data(), keys, size_t(count) * sizeof(uint64_t));
  cuda_on_cpu::copy_from_device(value_buffer.data(), values, size_t(count) * sizeof(uint32_t));
  std::vector<Pair> pairs;
  for (size_t i = 0; i < size_t(count); ++i) pairs.push_back({key_buffer[i], value_buffer[i]});
  std::stable_sort(pairs.begin(), pairs.end(), [compared](const Pair& a, const Pair& b) {
    return (a.key & compared) < (b.key & compared);
  });
  for (size_t i = 0; i < size_t(count); ++i) {
    key_buffer[i] = pairs[i].key;
    value_buffer[i] = pairs[i].value;
  }
  cuda_on_cpu::copy_to_device(sorted_keys, key_buffer.data(), size_t(count) * sizeof(uint64_t));
  cuda_on_cpu::copy_to_device(sorted_values, value_buffer.data(), size_t(count) * sizeof(uint32_t));
  return nullptr;
}

}  // namespace fastrpn
