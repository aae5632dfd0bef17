// Puts our kernels behind torchvision's own operators, and takes them away again. The registrations live in
// library objects that exist only while torchvision is accelerated: deleting them gives torchvision's
// kernels back to the dispatcher. Meta and Autograd stay torchvision's, so outputs are NCHW-contiguous and
// the argmax of roi_pool is always there.
//
// The adapters call our operators through the dispatcher, so each serves every device.
#include <math.h>

#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <vector>

#include "torch/tensor.h"

namespace fastrpn {
namespace {

// Calls fastrpn::<name>; returns its first N results.
template <size_t N, typename... Args>
std::array<StableIValue, N> call(const char* name, const Args&... args) {
  std::array<StableIValue, (sizeof...(Args) > N ? sizeof...(Args) : N)> stack{
      torch::stable::detail::from(args)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "", stack.data(), TORCH_ABI_VERSION));
  std::array<StableIValue, N> results;
  for (size_t i = 0; i < N; ++i) results[i] = stack[i];
  return results;
}

Tensor to_tensor(StableIValue value) { return torch::stable::detail::to<Tensor>(value); }

// A NaN threshold suppresses nothing in torchvision; our operator refuses it.
Tensor nms(Tensor dets, Tensor scores, double iou_threshold) {
  if (iou_threshold != iou_threshold) iou_threshold = INFINITY;
  return to_tensor(call<1>("fastrpn::nms", dets, scores, iou_threshold)[0]);
}

std::tuple<Tensor, Tensor> roi_pool(Tensor input, Tensor rois, double spatial_scale, int64_t pooled_height,
                                    int64_t pooled_width) {
  const auto results = call<2>("fastrpn::roi_pool_argmax", as_contiguous(input), rois, spatial_scale,
                               pooled_height, pooled_width);
  return {to_tensor(results[0]), to_tensor(results[1])};
}

Tensor roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, double spatial_scale, int64_t, int64_t,
                         int64_t batch, int64_t channels, int64_t height, int64_t width) {
  return to_tensor(call<1>("fastrpn::roi_pool_backward", as_contiguous(grad), rois, argmax, spatial_scale,
                           batch, channels, height, width)[0]);
}

Tensor roi_align(Tensor input, Tensor rois, double spatial_scale, int64_t pooled_height, int64_t pooled_width,
                 int64_t sampling_ratio, bool aligned) {
  const std::vector<Tensor> inputs{as_contiguous(input)};
  return to_tensor(call<1>("fastrpn::roi_align", inputs, rois, std::optional<Tensor>(),
                           std::vector<double>{spatial_scale}, pooled_height, pooled_width, sampling_ratio,
                           aligned)[0]);
}

Tensor roi_align_backward(Tensor grad, Tensor rois, double spatial_scale, int64_t, int64_t, int64_t batch,
                          int64_t, int64_t height, int64_t width, int64_t sampling_ratio, bool aligned) {
  const auto results =
      call<1>("fastrpn::roi_align_backward", as_contiguous(grad), rois, std::optional<Tensor>(),
              std::vector<double>{spatial_scale}, sampling_ratio, aligned, batch,
              std::vector<int64_t>{height}, std::vector<int64_t>{width}, false);
  return torch::stable::detail::to<std::vector<Tensor>>(results[0])[0];
}

using torch::stable::detail::StableLibrary;

std::unique_ptr<StableLibrary> registered_for(const char* device) {
  auto library = std::make_unique<StableLibrary>(StableLibrary::Kind::IMPL, "torchvision", device, __FILE__,
                                                 uint32_t(__LINE__));
  library->impl("nms", TORCH_BOX(&nms));
  library->impl("roi_pool", TORCH_BOX(&roi_pool));
  library->impl("_roi_pool_backward", TORCH_BOX(&roi_pool_backward));
  library->impl("roi_align", TORCH_BOX(&roi_align));
  library->impl("_roi_align_backward", TORCH_BOX(&roi_align_backward));
  return library;
}

void accelerate_torchvision(bool on) {
  static std::mutex mutex;
  static std::unique_ptr<StableLibrary> cpu, cuda;
  const std::lock_guard<std::mutex> lock(mutex);
  if (on == (cpu != nullptr)) return;
  cpu = on ? registered_for("CPU") : nullptr;
#if defined(FASTRPN_WITH_CUDA)
  cuda = on ? registered_for("CUDA") : nullptr;
#endif
}

}  // namespace
}  // namespace fastrpn

STABLE_TORCH_LIBRARY_IMPL(fastrpn, CompositeExplicitAutograd, m) {
  m.impl("accelerate_torchvision", TORCH_BOX(&fastrpn::accelerate_torchvision));
}
