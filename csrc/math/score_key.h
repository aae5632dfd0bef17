// Scores as integers that ascend as torch.sort(descending=True) orders: NaN first, -0 equal to 0. All bits
// set is no score's key.
#pragma once

#include "math/dtype.h"

namespace fastrpn {

FASTRPN_HD uint32_t descending_key(float score) {
  if (score != score) return 0;
  const uint32_t bits = float_to_bits(score + 0.0f);
  return (bits >> 31) ? bits : ~bits & 0x7fffffffu;
}

FASTRPN_HD uint64_t descending_key(double score) {
  if (score != score) return 0;
  score += 0.0;
  uint64_t bits;
  memcpy(&bits, &score, sizeof(bits));
  return (bits >> 63) ? bits : ~bits & 0x7fffffffffffffffu;
}

template <typename T>
using ScoreKey = decltype(descending_key(T()));

}  // namespace fastrpn
