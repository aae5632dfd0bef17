// Stable sorting of indices by any integer key, such as a score's: least-significant-digit radix sort.
//
// O(n) time for each digit that differs between keys, n more items as scratch; serial.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/buffer.h"
#include "math/score_key.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {

template <typename Key>
struct SortItem {
  Key key;
  uint32_t index;
};

template <typename Key>
void insertion_sort(SortItem<Key>* items, int64_t n) {
  for (int64_t i = 1; i < n; ++i) {
    const SortItem<Key> item = items[i];
    int64_t j = i;
    for (; j > 0 && items[j - 1].key > item.key; --j) items[j] = items[j - 1];
    items[j] = item;
  }
}

template <int kDigitBits, typename Key>
void radix_sort(SortItem<Key>* items, int64_t n) {
  constexpr int kBuckets = 1 << kDigitBits;
  constexpr int kDigits = (8 * sizeof(Key) + kDigitBits - 1) / kDigitBits;
  constexpr Key kMask = kBuckets - 1;

  Buffer<uint32_t> counts(kDigits * kBuckets);
  memset(counts.data(), 0, kDigits * kBuckets * sizeof(uint32_t));
  for (int64_t i = 0; i < n; ++i) {
    for (int d = 0; d < kDigits; ++d) {
      ++counts[d * kBuckets + int((items[i].key >> (d * kDigitBits)) & kMask)];
    }
  }

  Buffer<SortItem<Key>> scratch(n);
  SortItem<Key>* from = items;
  SortItem<Key>* to = scratch.data();
  for (int d = 0; d < kDigits; ++d) {
    const int shift = d * kDigitBits;
    uint32_t* position = counts.data() + d * kBuckets;
    if (position[int((from[0].key >> shift) & kMask)] == n) continue;  // a digit that all keys share
    uint32_t sum = 0;
    for (int bucket = 0; bucket < kBuckets; ++bucket) {
      const uint32_t count = position[bucket];
      position[bucket] = sum;
      sum += count;
    }
    for (int64_t i = 0; i < n; ++i) to[position[int((from[i].key >> shift) & kMask)]++] = from[i];
    SortItem<Key>* swap = from;
    from = to;
    to = swap;
  }
  if (from != items) memcpy(items, from, n * sizeof(*items));
}

// Sorts by ascending key; equal keys keep their order. n < 2^32.
template <typename Key>
void stable_sort(SortItem<Key>* items, int64_t n) {
  if (n <= 32) {
    insertion_sort(items, n);
  } else if (n < 2048) {
    radix_sort<8>(items, n);
  } else {
    radix_sort<11>(items, n);
  }
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
