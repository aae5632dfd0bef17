// Where a case gets its choices from: a seed, or the bytes of a fuzzer. When the bytes run out a generator
// goes on, so that few bytes make a whole case and one more byte changes little.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <limits>

class Source {
 public:
  // A large case reaches what small ones do not: threads, grids, long radix sorts.
  Source(uint64_t seed, bool large) : state_(seed), large_(large) {}
  Source(const uint8_t* bytes, size_t size) : bytes_(bytes), left_(size) {}

  // A number in [0, count); count <= 2^32.
  int64_t below(int64_t count) {
    uint64_t value = 0;
    for (int64_t range = 1; range < count; range *= 256) value = value << 8 | byte();
    return int64_t(value % uint64_t(count));
  }

  // True once in `count`.
  bool once_in(int64_t count) { return below(count) == 0; }

  template <typename T>
  T one_of(std::initializer_list<T> choices) {
    return choices.begin()[below(int64_t(choices.size()))];
  }

  // A length: 0, 1 and those around vectors and blocks, at most `most`; around `large` in a large case.
  int64_t size(int64_t most, int64_t large) {
    if (large_) return large + below(9);
    static constexpr int64_t kSizes[] = {0,  1,  2,  3,  4,  5,  7,  8,   9,   15,  16,  17,
                                         31, 32, 33, 63, 64, 65, 70, 127, 128, 129, 300, 600};
    int64_t count = 0;
    while (count < int64_t(std::size(kSizes)) && kSizes[count] <= most) ++count;
    return kSizes[below(count)];
  }

  // At least 1.
  int64_t length(int64_t most, int64_t large) {
    const int64_t value = size(most, large);
    return value > 0 ? value : 1;
  }

  // A number in [low, high], in steps that make equal numbers and exact ratios likely.
  double number(double low, double high) { return low + (high - low) * double(below(129)) / 128; }

  // Numbers that break arithmetic.
  double odd_number() {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
    return one_of({kNaN,    -kNaN,        kInfinity, -kInfinity, 0.0,        -0.0,    1e38,   -1e38, 3.4e38,
                   -3.4e38, 1e-45,        -1e-45,    1e-30,      65504.0,    65520.0, 1e-300, 1e300, -1e300,
                   5e-324,  2147483648.0, 9.3e18,    -9.3e18,    16777217.0, 1.0,     -1.0});
  }

 private:
  uint8_t byte() {
    if (left_ > 0) {
      --left_;
      return *bytes_++;
    }
    // splitmix64
    uint64_t mixed = state_ += 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
    return uint8_t(mixed >> 56);
  }

  const uint8_t* bytes_ = nullptr;
  size_t left_ = 0;
  uint64_t state_ = 0;
  bool large_ = false;
};
