#include "ops/box_iou/box_iou.h"

#include "torch/op.h"

namespace fastrpn {
namespace {

FASTRPN_DEFINE_RUN(box_iou, BoxIouArgs, box_iou_cuda)

void check_boxes(const Tensor& boxes, const char* name) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, name, " must have shape [N, 4]");
}

Tensor box_iou(Tensor boxes1, Tensor boxes2) {
  check_boxes(boxes1, "boxes1");
  check_boxes(boxes2, "boxes2");
  check_same_device(boxes1, "boxes1", boxes2, "boxes2");
  STD_TORCH_CHECK(boxes1.scalar_type() == boxes2.scalar_type(), "boxes1 and boxes2 must have the same dtype");
  const ScalarType iou_type =
      boxes1.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Tensor iou = new_empty_tensor({boxes1.size(0), boxes2.size(0)}, iou_type, boxes1);
  if (iou.numel() == 0) return iou;
  const Tensor a = as_contiguous(boxes1), b = as_contiguous(boxes2);
  run_box_iou({dtype_of(a, "boxes1"), a.const_data_ptr(), b.const_data_ptr(), a.size(0), b.size(0),
               iou.mutable_data_ptr()},
              boxes1);
  return iou;
}

}  // namespace
}  // namespace fastrpn

FASTRPN_IMPL(m) {
  m.impl("box_iou", TORCH_BOX(&fastrpn::box_iou));
  m.impl("box_iou_values", TORCH_BOX(&fastrpn::box_iou));
}
