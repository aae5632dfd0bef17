// The k best scores in order, by radix selection: histograms of 12 key bits at a time tell which items are in
// for sure and which share the bits of the k-th. O(n) to read the scores twice, then only what was at the
// border; the k that remain are sorted.
#pragma once

#include <cstdint>

#include "cpu/sort.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {

constexpr int kSelectBits = 12;
constexpr int kSelectBuckets = 1 << kSelectBits;

// First bucket at which the running sum of `counts` reaches k; *before is the sum of the buckets below it.
static inline int64_t border_bucket(const uint32_t* counts, int64_t k, int64_t* before) {
  int64_t sum = 0, bucket = 0;
  while (sum + counts[bucket] < k) sum += counts[bucket++];
  *before = sum;
  return bucket;
}

// Moves the k smallest of n items to `chosen`, equal keys in their order. Destroys `items`.
template <typename Key>
void select_smallest(SortItem<Key>* items, int64_t n, int64_t k, SortItem<Key>* chosen) {
  Buffer<uint32_t> counts(kSelectBuckets);
  int shift = int(8 * sizeof(Key)) - kSelectBits;
  while (n > k) {
    memset(counts.data(), 0, kSelectBuckets * sizeof(uint32_t));
    const auto bucket_of = [&](int64_t i) { return int64_t((items[i].key >> shift) & (kSelectBuckets - 1)); };
    for (int64_t i = 0; i < n; ++i) ++counts[bucket_of(i)];
    int64_t before = 0, at_border = 0;
    const int64_t border = border_bucket(counts.data(), k, &before);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t bucket = bucket_of(i);
      if (bucket < border) *chosen++ = items[i];
      if (bucket == border) items[at_border++] = items[i];
    }
    k -= before;
    n = at_border;
    if (shift == 0) n = k;  // all equal now: the first are chosen
    shift = shift < kSelectBits ? 0 : shift - kSelectBits;
  }
  memcpy(chosen, items, size_t(n) * sizeof(*items));
}

// Writes the min(k, n) best of `scores`, best first, equal scores by index; returns how many. NaN comes
// first.
template <typename Storage>
int64_t select_best(const Storage* scores, int64_t n, int64_t k,
                    SortItem<ScoreKey<compute_t<Storage>>>* best) {
  using Key = ScoreKey<compute_t<Storage>>;
  const int shift = int(8 * sizeof(Key)) - kSelectBits;
  const auto key_of = [&](int64_t i) { return descending_key(widen(scores[i])); };
  if (n <= k) {
    for (int64_t i = 0; i < n; ++i) best[i] = {key_of(i), uint32_t(i)};
    stable_sort(best, n);
    return n;
  }
  Buffer<uint32_t> counts(kSelectBuckets);
  memset(counts.data(), 0, kSelectBuckets * sizeof(uint32_t));
  for (int64_t i = 0; i < n; ++i) ++counts[int64_t(key_of(i) >> shift)];
  int64_t before = 0;
  const int64_t border = border_bucket(counts.data(), k, &before);
  Buffer<SortItem<Key>> candidates(before + counts[border]);
  int64_t size = 0;
  for (int64_t i = 0; i < n; ++i) {
    const Key key = key_of(i);
    if (int64_t(key >> shift) <= border) candidates[size++] = {key, uint32_t(i)};
  }
  select_smallest(candidates.data(), size, k, best);
  stable_sort(best, k);
  return k;
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
