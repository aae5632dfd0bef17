// Geometry of boxes, written once for CPU and CUDA. Boxes are xyxy in pixels, without a "+ 1"; T is the type
// that is computed in: float for half types, or a vector of either (cpu/vector.h). The order of operations
// is torchvision's, and nothing here may be contracted to an FMA, since IoUs are compared with thresholds.
//
// NaN: a NaN coordinate makes the area NaN, hence the union, hence the IoU, whatever the intersection made
// of it. That is why max and min below need not propagate NaN, and compile to one instruction: on a CPU that
// of `a > b ? a : b`, on a GPU that of fmaxf, which differ for a NaN and for zeros of two signs. So may
// intersections be, but a zero always becomes +0 and a NaN meets another in the union.
#pragma once

#include <math.h>

#include <cstdint>

#include "math/dtype.h"
#include "math/exponential.h"
#include "math/macros.h"

namespace fastrpn {

template <typename T>
struct Box {
  T x1, y1, x2, y2;
};

template <typename T>
FASTRPN_HD T max_of(T a, T b) {
#if defined(FASTRPN_DEVICE_CODE)
  if constexpr (sizeof(T) == sizeof(float)) return fmaxf(a, b);
#endif
  return a > b ? a : b;
}

template <typename T>
FASTRPN_HD T min_of(T a, T b) {
#if defined(FASTRPN_DEVICE_CODE)
  if constexpr (sizeof(T) == sizeof(float)) return fminf(a, b);
#endif
  return a < b ? a : b;
}

// Row `index` of a [n, 4] array, widened.
template <typename T>
FASTRPN_HD Box<compute_t<T>> load_box(const T* boxes, int64_t index) {
  const T* box = boxes + 4 * index;
  return {widen(box[0]), widen(box[1]), widen(box[2]), widen(box[3])};
}

template <typename T>
FASTRPN_HD T box_area(const Box<T>& box) {
  return (box.x2 - box.x1) * (box.y2 - box.y1);
}

// Area common to both boxes, 0 if they do not meet.
template <typename T>
FASTRPN_HD T box_intersection(const Box<T>& a, const Box<T>& b) {
  // In this order: -0 becomes 0, so that a quotient by a negative union has the same sign everywhere.
  const T width = max_of(min_of(a.x2, b.x2) - max_of(a.x1, b.x1), T{});
  const T height = max_of(min_of(a.y2, b.y2) - max_of(a.y1, b.y1), T{});
  return width * height;
}

// Intersection over union; NaN where the union is empty or a coordinate is NaN.
template <typename T>
FASTRPN_HD T box_iou(const Box<T>& a, T a_area, const Box<T>& b, T b_area) {
  const T inter = box_intersection(a, b);
  return inter / (a_area + b_area - inter);
}

// The same with 0 in place of NaN, for matching.
template <typename T>
FASTRPN_HD T box_iou_or_zero(const Box<T>& a, T a_area, const Box<T>& b, T b_area) {
  const T iou = box_iou(a, a_area, b, b_area);
  return iou > T{} ? iou : T{};
}

// Applies (dx, dy, dw, dh) to an anchor (Ren et al., equation 2). dw and dh are limited to log(1000 / 16); a
// NaN stays one.
template <typename T>
FASTRPN_HD Box<T> decode_box(const T deltas[4], const Box<T>& anchor) {
  const T limit = T(4.135166556742356);
  const T width = anchor.x2 - anchor.x1, height = anchor.y2 - anchor.y1;
  const T dw = deltas[2] > limit ? limit : deltas[2];
  const T dh = deltas[3] > limit ? limit : deltas[3];
  const T centre_x = deltas[0] * width + (anchor.x1 + T(0.5) * width);
  const T centre_y = deltas[1] * height + (anchor.y1 + T(0.5) * height);
  const T half_width = T(0.5) * (exponential(dw) * width);
  const T half_height = T(0.5) * (exponential(dh) * height);
  return {centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height};
}

// Moves every corner into an image of that size; a NaN stays one.
template <typename T>
FASTRPN_HD Box<T> clip_box(const Box<T>& box, T width, T height) {
  return {box.x1 < T(0) ? T(0) : (box.x1 > width ? width : box.x1),
          box.y1 < T(0) ? T(0) : (box.y1 > height ? height : box.y1),
          box.x2 < T(0) ? T(0) : (box.x2 > width ? width : box.x2),
          box.y2 < T(0) ? T(0) : (box.y2 > height ? height : box.y2)};
}

// Both sides at least min_size pixels; a box with a NaN is not.
template <typename T>
FASTRPN_HD bool is_large_enough(const Box<T>& box, T min_size) {
  return box.x2 - box.x1 >= min_size && box.y2 - box.y1 >= min_size;
}

}  // namespace fastrpn
