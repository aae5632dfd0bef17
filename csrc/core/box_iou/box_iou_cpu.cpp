// box_iou on the CPU: one pass over the output, rows split among threads.
#include "core/box_iou/box_iou.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {
namespace {

template <typename T>
void run(const BoxIouArgs& args, const ParallelFor& parallel_for) {
  using C = compute_t<T>;
  const T* boxes1 = static_cast<const T*>(args.boxes1);
  const T* boxes2 = static_cast<const T*>(args.boxes2);
  C* iou = static_cast<C*>(args.iou);
  const int64_t m = args.m;
  parallel_for(args.n, 1 + 8192 / m, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const C ax1 = widen(boxes1[4 * i]), ay1 = widen(boxes1[4 * i + 1]);
      const C ax2 = widen(boxes1[4 * i + 2]), ay2 = widen(boxes1[4 * i + 3]);
      const C a_area = (ax2 - ax1) * (ay2 - ay1);
      for (int64_t j = 0; j < m; ++j) {
        const C bx1 = widen(boxes2[4 * j]), by1 = widen(boxes2[4 * j + 1]);
        const C bx2 = widen(boxes2[4 * j + 2]), by2 = widen(boxes2[4 * j + 3]);
        C width = (ax2 < bx2 ? ax2 : bx2) - (ax1 > bx1 ? ax1 : bx1);
        C height = (ay2 < by2 ? ay2 : by2) - (ay1 > by1 ? ay1 : by1);
        width = width < 0 ? 0 : width;
        height = height < 0 ? 0 : height;
        const C inter = width * height;
        iou[i * m + j] = (inter / (a_area + (bx2 - bx1) * (by2 - by1) - inter));
      }
    }
  });
}

}  // namespace

void box_iou_cpu(const BoxIouArgs& args, const ParallelFor& parallel_for) {
  switch (args.dtype) {
    case DType::float16:
      return run<half_t>(args, parallel_for);
    case DType::bfloat16:
      return run<bfloat16_t>(args, parallel_for);
    case DType::float32:
      return run<float>(args, parallel_for);
    case DType::float64:
      return run<double>(args, parallel_for);
  }
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
