#include "ops/roi_pool/roi_pool.h"

#include <limits>
#include <tuple>

#include "torch/op.h"
#include "torch/rois.h"

namespace fastrpn {
namespace {

FASTRPN_DEFINE_RUN(roi_pool, RoiPoolArgs, roi_pool_workspace_bytes, roi_pool_cuda)
FASTRPN_DEFINE_RUN(roi_pool_backward, RoiPoolBackwardArgs, roi_pool_backward_workspace_bytes,
                   roi_pool_backward_cuda)

// `argmax` is allocated and filled if it is not null.
Tensor forward(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
               int64_t pooled_width, Tensor* argmax) {
  STD_TORCH_CHECK(input.dim() == 4, "input must have shape [N, C, H, W]");
  check_rois(rois, input, "input");
  STD_TORCH_CHECK(pooled_height > 0 && pooled_width > 0, "output_size must be positive");
  const int64_t batch = input.size(0), channels = input.size(1), height = input.size(2),
                width = input.size(3);
  check_map(height, width);
  STD_TORCH_CHECK(argmax == nullptr || height * width <= std::numeric_limits<int32_t>::max(),
                  "input must have fewer than 2^31 cells where a gradient is needed");
  const bool channels_last = is_channels_last(input);
  const auto empty = [&](ScalarType dtype) {
    return new_empty_tensor({rois.size(0), channels, pooled_height, pooled_width}, dtype, input,
                            channels_last);
  };
  Tensor output = empty(input.scalar_type());
  if (argmax != nullptr) *argmax = empty(ScalarType::Int);
  if (output.numel() == 0) return output;
  const Tensor features = as_contiguous(input, channels_last), boxes = as_contiguous(rois);
  run_roi_pool({dtype_of(features, "input"), dtype_of(boxes, "rois"), features.const_data_ptr(),
                boxes.const_data_ptr(), batch, channels, height, width, boxes.size(0), pooled_height,
                pooled_width, spatial_scale, channels_last, output.mutable_data_ptr(),
                argmax == nullptr ? nullptr : static_cast<int32_t*>(argmax->mutable_data_ptr())},
               input);
  return output;
}

Tensor roi_pool(Tensor input, Tensor rois, double spatial_scale, int64_t pooled_height,
                int64_t pooled_width) {
  return forward(input, rois, spatial_scale, pooled_height, pooled_width, nullptr);
}

std::tuple<Tensor, Tensor> roi_pool_argmax(Tensor input, Tensor rois, double spatial_scale,
                                           int64_t pooled_height, int64_t pooled_width) {
  Tensor argmax;
  Tensor output = forward(input, rois, spatial_scale, pooled_height, pooled_width, &argmax);
  return {output, argmax};
}

Tensor roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, double spatial_scale, int64_t batch,
                         int64_t channels, int64_t height, int64_t width) {
  check_rois(rois, grad, "grad");
  check_same_device(argmax, "argmax", grad, "grad");
  STD_TORCH_CHECK(argmax.scalar_type() == ScalarType::Int, "argmax must be int32");
  STD_TORCH_CHECK(
      grad.dim() == 4 && argmax.dim() == 4 && grad.size(0) == rois.size(0) && grad.size(1) == channels,
      "grad must have shape [K, C, pooled_height, pooled_width]");
  for (int64_t i = 0; i < 4; ++i) {
    STD_TORCH_CHECK(grad.size(i) == argmax.size(i), "argmax must have the shape of grad");
  }
  const bool channels_last = is_channels_last(argmax);
  Tensor result = new_empty_tensor({batch, channels, height, width}, grad.scalar_type(), grad, channels_last);
  if (result.numel() == 0) return result;
  const Tensor gradient = as_contiguous(grad, channels_last), winners = as_contiguous(argmax, channels_last),
               boxes = as_contiguous(rois);
  run_roi_pool_backward(
      {dtype_of(gradient, "grad"), dtype_of(boxes, "rois"), gradient.const_data_ptr(), boxes.const_data_ptr(),
       static_cast<const int32_t*>(winners.const_data_ptr()), batch, channels, height, width, boxes.size(0),
       grad.size(2), grad.size(3), spatial_scale, channels_last, result.mutable_data_ptr()},
      grad);
  return result;
}

}  // namespace
}  // namespace fastrpn

FASTRPN_IMPL(m) {
  m.impl("roi_pool", TORCH_BOX(&fastrpn::roi_pool));
  m.impl("roi_pool_argmax", TORCH_BOX(&fastrpn::roi_pool_argmax));
  m.impl("roi_pool_backward", TORCH_BOX(&fastrpn::roi_pool_backward));
}
