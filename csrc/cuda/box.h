// What the box kernels on CUDA share: faster ways to the numbers of math/box.h.
#pragma once

#include "cuda/runtime.h"
#include "math/box.h"

namespace fastrpn {

// Loads of at most 16 bytes bring a box; whether `boxes` is aligned to them.
template <typename T>
using BoxPart = Pack<T, (sizeof(T) < 8 ? 4 : 2)>;

template <typename T>
bool boxes_are_aligned(const T* boxes) {
  return reinterpret_cast<uintptr_t>(boxes) % sizeof(BoxPart<T>) == 0;
}

// Row `index` of such boxes [n, 4], widened.
template <typename T>
__device__ __forceinline__ Box<compute_t<T>> load_aligned_box(const T* boxes, int64_t index) {
  constexpr int kParts = 4 * sizeof(T) / sizeof(BoxPart<T>);
  T box[4];
  for (int part = 0; part < kParts; ++part) {
    const auto loaded = reinterpret_cast<const BoxPart<T>*>(boxes)[index * kParts + part];
    for (int i = 0; i < 4 / kParts; ++i) box[part * (4 / kParts) + i] = loaded.values[i];
  }
  return {widen(box[0]), widen(box[1]), widen(box[2]), widen(box[3])};
}

// box_iou and box_iou_or_zero. Most pairs do not meet, and a division whose numerator is zero leaves its
// short path, so those pairs divide something else; the compiler, which sees that the quotient is not used,
// must not see what it is. (Where every IoU is written, lanes seldom all agree: a choice is shorter than a
// branch.)
template <typename C>
__device__ __forceinline__ C quick_iou(const Box<C>& a, C a_area, const Box<C>& b, C b_area) {
  const C inter = box_intersection(a, b), both = a_area + b_area - inter;
  const bool is_zero = inter == C(0) && both > C(0);
  C numerator = is_zero ? C(1) : inter;
  FASTRPN_OPAQUE(numerator);
  const C quotient = numerator / both;
  return is_zero ? C(0) : quotient;
}

// Where few pairs matter, those that do not meet need no division.
template <typename C>
__device__ __forceinline__ C quick_iou_or_zero(const Box<C>& a, C a_area, const Box<C>& b, C b_area) {
  const C inter = box_intersection(a, b);
  if (!(inter > C(0))) return C(0);
  const C iou = inter / (a_area + b_area - inter);
  return iou > C(0) ? iou : C(0);
}

}  // namespace fastrpn
