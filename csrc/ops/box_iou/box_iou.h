// box_iou: IoU of every pair of boxes.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "cuda/status.h"
#include "math/dtype.h"

namespace fastrpn {

struct BoxIouArgs {
  DType dtype;
  const void* boxes1;  // [n, 4] xyxy
  const void* boxes2;  // [m, 4] xyxy
  int64_t n, m;
  void* iou;  // [n, m], of dtype; float32 for half types, as torchvision
};

FASTRPN_DECLARE_CPU(void, box_iou_cpu, const BoxIouArgs& args, const ParallelFor& parallel_for);
Status box_iou_cuda(const BoxIouArgs& args, Stream stream);

}  // namespace fastrpn
