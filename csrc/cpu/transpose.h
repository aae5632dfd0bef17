// Transposition between planes of channels and channel-minor cells, for the RoI kernels on the CPU. Included
// once for each SIMD level.
#pragma once

#include <cstdint>

#include "cpu/half.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {
namespace {

// Squares of words that are transposed in registers: 8 x 8 where vectors hold as many, else 4 x 4; half
// types are widened on the way. In each step rows of half-way results are merged: single elements, then
// pairs, then halves.
#if defined(__clang__)
#define FASTRPN_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FASTRPN_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, SquareRow{__VA_ARGS__})
#endif

#if defined(__AVX2__)
constexpr int kSquare = 8;
using SquareRow = WordsOf<kSquare>::type;

inline void transpose_square(SquareRow row[8]) {
  SquareRow half[8];
  for (int i = 0; i < 8; i += 2) {
    half[i] = FASTRPN_SHUFFLE(row[i], row[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    half[i + 1] = FASTRPN_SHUFFLE(row[i], row[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i = 0; i < 8; i += 4) {
    row[i] = FASTRPN_SHUFFLE(half[i], half[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    row[i + 1] = FASTRPN_SHUFFLE(half[i], half[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    row[i + 2] = FASTRPN_SHUFFLE(half[i + 1], half[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
    row[i + 3] = FASTRPN_SHUFFLE(half[i + 1], half[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
  }
  for (int i = 0; i < 4; ++i) {
    const SquareRow low = row[i], high = row[i + 4];
    row[i] = FASTRPN_SHUFFLE(low, high, 0, 1, 2, 3, 8, 9, 10, 11);
    row[i + 4] = FASTRPN_SHUFFLE(low, high, 4, 5, 6, 7, 12, 13, 14, 15);
  }
}
#else
constexpr int kSquare = 4;
using SquareRow = WordsOf<kSquare>::type;

inline void transpose_square(SquareRow row[4]) {
  SquareRow half[4];
  for (int i = 0; i < 4; i += 2) {
    half[i] = FASTRPN_SHUFFLE(row[i], row[i + 1], 0, 4, 1, 5);
    half[i + 1] = FASTRPN_SHUFFLE(row[i], row[i + 1], 2, 6, 3, 7);
  }
  for (int i = 0; i < 2; ++i) {
    row[2 * i] = FASTRPN_SHUFFLE(half[i], half[i + 2], 0, 1, 4, 5);
    row[2 * i + 1] = FASTRPN_SHUFFLE(half[i], half[i + 2], 2, 3, 6, 7);
  }
}
#endif

// to[column][row] = from[row][column]; rows of each lie `stride` elements apart.
template <typename To, typename From>
inline void transpose(const From* from, int64_t from_stride, int64_t rows, int64_t columns, To* to,
                      int64_t to_stride) {
  int64_t whole_rows = 0, whole_columns = 0;
  if constexpr (kFitsWord<To> && kFitsWord<From>) {
    whole_rows = rows / kSquare * kSquare;
    whole_columns = columns / kSquare * kSquare;
    for (int64_t row = 0; row < whole_rows; row += kSquare) {
      for (int64_t column = 0; column < whole_columns; column += kSquare) {
        SquareRow square[kSquare];
        for (int i = 0; i < kSquare; ++i) {
          square[i] = load_words<kSquare>(from + (row + i) * from_stride + column);
        }
        transpose_square(square);
        for (int i = 0; i < kSquare; ++i)
          store_words<kSquare>(square[i], to + (column + i) * to_stride + row);
      }
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = row < whole_rows ? whole_columns : 0; column < columns; ++column) {
      to[column * to_stride + row] = Convert<To, From>::from(from[row * from_stride + column]);
    }
  }
}

}  // namespace
}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
