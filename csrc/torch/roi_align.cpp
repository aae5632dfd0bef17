#include "ops/roi_align/roi_align.h"

#include <optional>
#include <vector>

#include "torch/op.h"
#include "torch/rois.h"

namespace fastrpn {
namespace {

FASTRPN_DEFINE_RUN(roi_align, RoiAlignArgs, roi_align_workspace_bytes, roi_align_cuda)
FASTRPN_DEFINE_RUN(roi_align_backward, RoiAlignBackwardArgs, roi_align_backward_workspace_bytes,
                   roi_align_backward_cuda)

// What forward and backward share: the RoIs and where they read. Keeps the tensors that `args` points into.
struct Request {
  RoiAlignArgs args = {};
  Tensor rois;
  std::optional<Tensor> roi_levels;

  Request(const Tensor& features, const char* name, const Tensor& rois_in,
          const std::optional<Tensor>& levels_in, const std::vector<double>& spatial_scales)
      : rois(as_contiguous(rois_in)) {
    check_rois(rois_in, features, name);
    const int64_t num_levels = static_cast<int64_t>(spatial_scales.size());
    STD_TORCH_CHECK(num_levels >= 1 && num_levels <= kMaxRoiLevels, "there must be 1 to ", kMaxRoiLevels,
                    " levels");
    STD_TORCH_CHECK(levels_in.has_value() || num_levels == 1, "several levels need roi_levels");
    args.dtype = dtype_of(features, name);
    args.roi_dtype = dtype_of(rois, "rois");
    args.num_levels = static_cast<int>(num_levels);
    args.num_rois = rois.size(0);
    args.rois = rois.const_data_ptr();
    for (int64_t i = 0; i < num_levels; ++i) args.levels[i].spatial_scale = spatial_scales[i];
    if (levels_in.has_value()) {
      check_same_device(*levels_in, "roi_levels", features, name);
      STD_TORCH_CHECK(levels_in->scalar_type() == ScalarType::Int && levels_in->dim() == 1 &&
                          levels_in->size(0) == args.num_rois,
                      "roi_levels must be int32 of shape [K]");
      roi_levels = as_contiguous(*levels_in);
      args.roi_levels = static_cast<const int32_t*>(roi_levels->const_data_ptr());
    }
  }
};

Tensor roi_align(std::vector<Tensor> inputs, Tensor rois, std::optional<Tensor> roi_levels,
                 std::vector<double> spatial_scales, int64_t pooled_height, int64_t pooled_width,
                 int64_t sampling_ratio, bool aligned) {
  STD_TORCH_CHECK(!inputs.empty() && inputs.size() == spatial_scales.size(),
                  "inputs and spatial_scales must have one element for each level");
  STD_TORCH_CHECK(pooled_height > 0 && pooled_width > 0, "output_size must be positive");
  const Tensor& first = inputs[0];
  Request request(first, "inputs[0]", rois, roi_levels, spatial_scales);
  RoiAlignArgs& args = request.args;
  const bool channels_last = is_channels_last(first);
  std::vector<Tensor> features;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Tensor& input = inputs[i];
    STD_TORCH_CHECK(input.dim() == 4 && input.size(0) == first.size(0) && input.size(1) == first.size(1),
                    "inputs must have shape [N, C, H, W] with the same N and C");
    STD_TORCH_CHECK(input.scalar_type() == first.scalar_type(), "inputs must have the same dtype");
    check_same_device(input, "inputs", first, "inputs[0]");
    check_map(input.size(2), input.size(3));
    features.push_back(as_contiguous(input, channels_last));
    args.levels[i].features = features[i].const_data_ptr();
    args.levels[i].height = input.size(2);
    args.levels[i].width = input.size(3);
  }
  Tensor output = new_empty_tensor({rois.size(0), first.size(1), pooled_height, pooled_width},
                                   first.scalar_type(), first, channels_last);
  if (output.numel() == 0) return output;
  args.batch = first.size(0);
  args.channels = first.size(1);
  args.pooled_height = pooled_height;
  args.pooled_width = pooled_width;
  STD_TORCH_CHECK(sampling_ratio <= INT32_MAX, "sampling_ratio must be less than 2^31");
  args.sampling_ratio = sampling_ratio;
  args.aligned = aligned;
  args.channels_last = channels_last;
  args.output = output.mutable_data_ptr();
  run_roi_align(args, first);
  return output;
}

std::vector<Tensor> roi_align_backward(Tensor grad, Tensor rois, std::optional<Tensor> roi_levels,
                                       std::vector<double> spatial_scales, int64_t sampling_ratio,
                                       bool aligned, int64_t batch, std::vector<int64_t> heights,
                                       std::vector<int64_t> widths, bool channels_last) {
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == rois.size(0),
                  "grad must have shape [K, C, pooled_height, pooled_width]");
  STD_TORCH_CHECK(heights.size() == spatial_scales.size() && widths.size() == spatial_scales.size(),
                  "heights and widths must have one element for each level");
  Request request(grad, "grad", rois, roi_levels, spatial_scales);
  RoiAlignBackwardArgs args = {request.args, nullptr, {}};
  std::vector<Tensor> results;
  bool any = false;
  for (size_t i = 0; i < heights.size(); ++i) {
    check_map(heights[i], widths[i]);
    results.push_back(new_empty_tensor({batch, grad.size(1), heights[i], widths[i]}, grad.scalar_type(), grad,
                                       channels_last));
    args.forward.levels[i].height = heights[i];
    args.forward.levels[i].width = widths[i];
    args.grad_features[i] = results[i].mutable_data_ptr();
    any = any || results[i].numel() > 0;
  }
  if (!any) return results;
  const Tensor gradient = as_contiguous(grad, channels_last);
  args.grad_output = gradient.const_data_ptr();
  args.forward.batch = batch;
  args.forward.channels = grad.size(1);
  args.forward.pooled_height = grad.size(2);
  args.forward.pooled_width = grad.size(3);
  STD_TORCH_CHECK(sampling_ratio <= INT32_MAX, "sampling_ratio must be less than 2^31");
  args.forward.sampling_ratio = sampling_ratio;
  args.forward.aligned = aligned;
  args.forward.channels_last = channels_last;
  run_roi_align_backward(args, grad);
  return results;
}

}  // namespace
}  // namespace fastrpn

FASTRPN_IMPL(m) {
  m.impl("roi_align", TORCH_BOX(&fastrpn::roi_align));
  m.impl("roi_align_backward", TORCH_BOX(&fastrpn::roi_align_backward));
}
