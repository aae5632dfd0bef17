#include "ops/box_iou/box_iou.h"

#include "torch/tensor.h"

namespace fastrpn {
namespace {

void check_boxes(const Tensor& boxes, const char* name) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, name, " must have shape [N, 4]");
}

// Everything but the launch, which differs by device.
template <typename Launch>
Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2, const Launch& launch) {
  check_boxes(boxes1, "boxes1");
  check_boxes(boxes2, "boxes2");
  check_same_device(boxes1, "boxes1", boxes2, "boxes2");
  STD_TORCH_CHECK(boxes1.scalar_type() == boxes2.scalar_type(), "boxes1 and boxes2 must have the same dtype");
  const ScalarType iou_type =
      boxes1.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Tensor iou = new_empty_tensor({boxes1.size(0), boxes2.size(0)}, iou_type, boxes1);
  if (iou.numel() == 0) return iou;
  const Tensor a = as_contiguous(boxes1), b = as_contiguous(boxes2);
  launch({dtype_of(a, "boxes1"), a.const_data_ptr(), b.const_data_ptr(), a.size(0), b.size(0),
          iou.mutable_data_ptr()});
  return iou;
}

Tensor box_iou_on_cpu(Tensor boxes1, Tensor boxes2) {
  return box_iou(boxes1, boxes2,
                 [](const BoxIouArgs& args) { FASTRPN_CPU(box_iou_cpu)(args, torch_parallel_for()); });
}

#if defined(FASTRPN_WITH_CUDA)
Tensor box_iou_on_cuda(Tensor boxes1, Tensor boxes2) {
  const torch::stable::accelerator::DeviceGuard guard(boxes1.get_device_index());
  return box_iou(boxes1, boxes2, [&](const BoxIouArgs& args) {
    check_status(box_iou_cuda(args, current_stream(boxes1)), "box_iou");
  });
}
#endif

}  // namespace
}  // namespace fastrpn

STABLE_TORCH_LIBRARY_IMPL(fastrpn, CPU, m) {
  m.impl("box_iou", TORCH_BOX(&fastrpn::box_iou_on_cpu));
  m.impl("box_iou_values", TORCH_BOX(&fastrpn::box_iou_on_cpu));
}

#if defined(FASTRPN_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(fastrpn, CUDA, m) {
  m.impl("box_iou", TORCH_BOX(&fastrpn::box_iou_on_cuda));
  m.impl("box_iou_values", TORCH_BOX(&fastrpn::box_iou_on_cuda));
}
#endif
