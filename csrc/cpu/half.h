// Vectors of floats from and to memory that holds a stored type, with the bits of widen and Narrow
// (math/dtype.h), but that a signalling NaN may become a quiet one: half types are widened on the way in and
// rounded on the way out. Words are the bits of floats, for transposition, which moves integers as well.
// Included once for each SIMD level.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/vector.h"
#include "math/dtype.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {
namespace {

template <int kCount>
struct WordsOf {
  typedef uint32_t type __attribute__((vector_size(4 * kCount)));
  typedef uint16_t halves __attribute__((vector_size(2 * kCount)));
  typedef float floats __attribute__((vector_size(4 * kCount)));
};

template <typename Stored>
constexpr bool kIsHalf = std::is_same<Stored, half_t>::value || std::is_same<Stored, bfloat16_t>::value;

// What words can hold: floats, half types and integers of four bytes.
template <typename Stored>
constexpr bool kFitsWord = sizeof(Stored) == 4 || kIsHalf<Stored>;

// widen(half_t) in each lane.
template <int kCount>
inline typename WordsOf<kCount>::type widen_halves(typename WordsOf<kCount>::halves halves) {
  using Words = typename WordsOf<kCount>::type;
  using Floats = typename WordsOf<kCount>::floats;
#if defined(__AVX512F__)
  if constexpr (kCount == 16) return (Words)_mm512_maskz_cvtph_ps(0xffff, (__m256i)halves);
#endif
#if defined(__F16C__)
  if constexpr (kCount == 8) return (Words)_mm256_cvtph_ps((__m128i)halves);
#endif
  const Words bits = __builtin_convertvector(halves, Words);
  const Words sign = (bits & 0x8000u) << 16, magnitude = (bits & 0x7fffu) << 13;
  const Words finite = (Words)((Floats)magnitude * bits_to_float(0x77800000u));
  return sign | (magnitude >= 0x0f800000u ? magnitude | 0x70000000u : finite);
}

// Narrow<half_t> in each lane.
template <int kCount>
inline typename WordsOf<kCount>::type round_to_half(typename WordsOf<kCount>::type bits) {
  using Words = typename WordsOf<kCount>::type;
  using Floats = typename WordsOf<kCount>::floats;
  const Words magnitude = bits & 0x7fffffffu;
  const Words subnormal = (Words)((Floats)magnitude + 0.5f) - 0x3f000000u;
  const Words normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  Words half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? Words{} + 0x7c00u : half;
  half = magnitude > 0x7f800000u ? Words{} + 0x7e00u : half;
  return half | ((bits >> 16) & 0x8000u);
}

// Narrow<bfloat16_t> in each lane.
template <int kCount>
inline typename WordsOf<kCount>::type round_to_bfloat16(typename WordsOf<kCount>::type bits) {
  using Words = typename WordsOf<kCount>::type;
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return (bits & 0x7fffffffu) > 0x7f800000u ? Words{} + 0x7fc0u : rounded;
}

// kCount elements as words.
template <int kCount, typename Stored>
inline typename WordsOf<kCount>::type load_words(const Stored* from) {
  using Words = typename WordsOf<kCount>::type;
  // Through a value: copied straight into an array, a row goes in two halves, and waits for both.
  if constexpr (kIsHalf<Stored>) {
    typename WordsOf<kCount>::halves halves;
    memcpy(&halves, from, sizeof(halves));
    if constexpr (std::is_same<Stored, half_t>::value) return widen_halves<kCount>(halves);
    return __builtin_convertvector(halves, Words) << 16;
  } else {
    static_assert(sizeof(Stored) == 4, "four-byte elements");
    Words words;
    memcpy(&words, from, sizeof(words));
    return words;
  }
}

template <int kCount, typename Stored>
inline void store_words(typename WordsOf<kCount>::type words, Stored* to) {
  if constexpr (kIsHalf<Stored>) {
    constexpr bool is_half = std::is_same<Stored, half_t>::value;
    const auto rounded = is_half ? round_to_half<kCount>(words) : round_to_bfloat16<kCount>(words);
    const auto halves = __builtin_convertvector(rounded, typename WordsOf<kCount>::halves);
    memcpy(static_cast<void*>(to), &halves, sizeof(halves));
  } else {
    static_assert(sizeof(Stored) == 4, "four-byte elements");
    memcpy(static_cast<void*>(to), &words, sizeof(words));
  }
}

// Whether kCount vectors come in pairs, the even and the odd elements of what lies in memory: bfloat16 is
// the upper half of a float, so that a pair costs a shift and a mask.
template <int kCount, typename Stored>
constexpr bool kInPairs = kCount % 2 == 0 && std::is_same<Stored, bfloat16_t>::value;

// kCount vectors of the type that is computed in. Lanes are in the order of kInPairs, which store_rounded
// undoes and place_of_lane tells.
template <int kCount, typename Stored>
inline void load_widened(const Stored* from, Vec<compute_t<Stored>> (&to)[kCount]) {
  if constexpr (!kIsHalf<Stored>) {
    for (int k = 0; k < kCount; ++k) to[k] = load(from + k * kLanes<Stored>);
  } else if constexpr (kInPairs<kCount, Stored>) {
    for (int k = 0; k < kCount; k += 2) {
      typename WordsOf<kLanes<float>>::type pair;
      memcpy(&pair, from + k * kLanes<float>, sizeof(pair));
      to[k] = (Vec<float>)(pair << 16);
      to[k + 1] = (Vec<float>)(pair & 0xffff0000u);
    }
  } else {
    for (int k = 0; k < kCount; ++k) {
      to[k] = (Vec<float>)load_words<kLanes<float>>(from + k * kLanes<float>);
    }
  }
}

template <int kCount, typename Stored>
inline void store_rounded(const Vec<compute_t<Stored>> (&from)[kCount], Stored* to) {
  using Words = typename WordsOf<kLanes<float>>::type;
  if constexpr (!kIsHalf<Stored>) {
    for (int k = 0; k < kCount; ++k) store<Stored>(from[k], to + k * kLanes<Stored>);
  } else if constexpr (kInPairs<kCount, Stored>) {
    for (int k = 0; k < kCount; k += 2) {
      const Words pair = round_to_bfloat16<kLanes<float>>((Words)from[k]) |
                         round_to_bfloat16<kLanes<float>>((Words)from[k + 1]) << 16;
      memcpy(static_cast<void*>(to + k * kLanes<float>), &pair, sizeof(pair));
    }
  } else {
    for (int k = 0; k < kCount; ++k) store_words<kLanes<float>>((Words)from[k], to + k * kLanes<float>);
  }
}

// Where lane `lane` of vector `k` of load_widened lies in memory.
template <int kCount, typename Stored>
constexpr int place_of_lane(int k, int lane) {
  constexpr int kWidth = kLanes<compute_t<Stored>>;
  return kInPairs<kCount, Stored> ? k / 2 * 2 * kWidth + 2 * lane + k % 2 : k * kWidth + lane;
}

// Between a stored and a computed type, either way.
template <typename To, typename From>
struct Convert {
  static inline To from(From value) { return Narrow<To>::from(widen(value)); }
};
template <typename T>
struct Convert<T, T> {
  static inline T from(T value) { return value; }
};

// to[i] = from[i] for `count` elements side by side.
template <typename To, typename From>
inline void convert(const From* from, int64_t count, To* to) {
  int64_t i = 0;
  if constexpr (kFitsWord<To> && kFitsWord<From>) {
    constexpr int kCount = kLanes<float>;
    for (; i + kCount <= count; i += kCount) store_words<kCount>(load_words<kCount>(from + i), to + i);
  }
  for (; i < count; ++i) to[i] = Convert<To, From>::from(from[i]);
}

}  // namespace
}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
