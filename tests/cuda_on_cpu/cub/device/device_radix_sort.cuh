// The host twin of the one function of CUB that csrc/cuda/sort.cu calls.
#pragma once

#include <algorithm>
#include <vector>

#include "cuda_on_cpu.h"

namespace cub {

struct DeviceRadixSort {
  template <typename Key, typename Value>
  static cudaError_t SortPairs(void* workspace, size_t& bytes, const Key* keys, Key* sorted_keys,
                               const Value* values, Value* sorted_values, int count, int begin_bit = 0,
                               int end_bit = sizeof(Key) * 8, cudaStream_t stream = nullptr) {
    if (cuda_on_cpu::begin_call() != cudaSuccess) return cudaPeekAtLastError();
    // About what CUB takes: a second copy of keys and values, and counters.
    const size_t needed = size_t(count) * 13 + 4096;
    if (count < 0 || bytes < needed || begin_bit != 0) {
      return cuda_on_cpu::set_last_error(cudaErrorInvalidValue);
    }
    cuda_on_cpu::check_stream(stream);
    const std::vector<char> garbage(needed, char(0xcd));
    cuda_on_cpu::copy_to_device(workspace, garbage.data(), needed);  // CUB would use all of it
    sort(keys, sorted_keys, values, sorted_values, size_t(count), end_bit);
    return cudaSuccess;
  }

 private:
  template <typename Key, typename Value>
  static void sort(const Key* keys, Key* sorted_keys, const Value* values, Value* sorted_values, size_t count,
                   int key_bits) {
    const Key compared = key_bits == sizeof(Key) * 8 ? ~Key(0) : (Key(1) << key_bits) - 1;
    struct Pair {
      Key key;
      Value value;
    };
    std::vector<Key> key_buffer(count, 0);
    std::vector<Value> value_buffer(count, 0);
    cuda_on_cpu::copy_from_device(key_buffer.data(), keys, count * sizeof(Key));
    cuda_on_cpu::copy_from_device(value_buffer.data(), values, count * sizeof(Value));
    std::vector<Pair> pairs;
    for (size_t i = 0; i < count; ++i) pairs.push_back({key_buffer[i], value_buffer[i]});
    std::stable_sort(pairs.begin(), pairs.end(), [compared](const Pair& a, const Pair& b) {
      return (a.key & compared) < (b.key & compared);
    });
    for (size_t i = 0; i < count; ++i) {
      key_buffer[i] = pairs[i].key;
      value_buffer[i] = pairs[i].value;
    }
    cuda_on_cpu::copy_to_device(sorted_keys, key_buffer.data(), count * sizeof(Key));
    cuda_on_cpu::copy_to_device(sorted_values, value_buffer.data(), count * sizeof(Value));
  }
};

}  // namespace cub
