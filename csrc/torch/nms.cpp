// nms, batched_nms and nms_padded: one kernel, three ways to hand out its result.
#include "core/nms/nms.h"

#include <tuple>

#include "torch/tensor.h"

namespace fastrpn {
namespace {

// Runs the kernel on the device of `boxes`.
using Launch = void (*)(const NmsArgs& args, const Tensor& boxes);

void launch_cpu(const NmsArgs& args, const Tensor&) { FASTRPN_CPU(nms_cpu)(args, torch_parallel_for()); }

#if defined(FASTRPN_WITH_CUDA)
void launch_cuda(const NmsArgs& args, const Tensor& boxes) {
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  Tensor workspace = new_empty_tensor({int64_t(nms_workspace_bytes(args))}, ScalarType::Byte, boxes);
  check_status(nms_cuda(args, workspace.mutable_data_ptr(), current_stream(boxes)), "nms");
}
#endif

struct Kept {
  Tensor indices;  // [batch, max_output]; [max_output] for boxes of shape [N, 4]
  Tensor counts;   // [batch]
};

void check_inputs(const Tensor& boxes, const Tensor& scores, bool batched) {
  const int64_t dims = batched ? 3 : 2;
  STD_TORCH_CHECK(boxes.dim() == dims && boxes.size(dims - 1) == 4, "boxes must have shape ",
                  batched ? "[B, N, 4]" : "[N, 4]");
  STD_TORCH_CHECK(scores.dim() == dims - 1, "scores must have shape ", batched ? "[B, N]" : "[N]");
  for (int64_t dim = 0; dim < dims - 1; ++dim) {
    STD_TORCH_CHECK(boxes.size(dim) == scores.size(dim), "boxes and scores must have the same length");
  }
  STD_TORCH_CHECK(boxes.scalar_type() == scores.scalar_type(), "boxes and scores must have the same dtype");
  check_same_device(boxes, "boxes", scores, "scores");
  STD_TORCH_CHECK(boxes.size(dims - 2) <= UINT32_MAX, "at most 2^32 - 1 boxes an image");
}

Tensor as_int64(const Tensor& tensor, const char* name, const Tensor& like, int64_t numel) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Long, name, " must be int64");
  STD_TORCH_CHECK(tensor.numel() == numel, name, " has the wrong shape");
  check_same_device(tensor, name, like, "boxes");
  return as_contiguous(tensor);
}

Kept suppress(const Tensor& boxes, const Tensor& scores, double iou_threshold, int64_t max_output,
              const std::optional<Tensor>& counts, const std::optional<Tensor>& groups,
              std::optional<double> score_threshold, bool batched, Launch launch) {
  check_inputs(boxes, scores, batched);
  STD_TORCH_CHECK(max_output >= 0, "max_output must not be negative");
  const int64_t batch = batched ? boxes.size(0) : 1;
  const int64_t n = boxes.size(batched ? 1 : 0);
  Kept kept{batched ? new_empty_tensor({batch, max_output}, ScalarType::Long, boxes)
                    : new_empty_tensor({max_output}, ScalarType::Long, boxes),
            new_empty_tensor({batch}, ScalarType::Long, boxes)};
  if (batch == 0) return kept;
  const Tensor all_boxes = as_contiguous(boxes), all_scores = as_contiguous(scores);
  const Tensor all_counts = counts ? as_int64(*counts, "counts", boxes, batch) : kept.counts;
  const Tensor all_groups = groups ? as_int64(*groups, "groups", boxes, batch * n) : kept.counts;

  NmsArgs args{};
  args.dtype = dtype_of(boxes, "boxes");
  args.boxes = all_boxes.const_data_ptr();
  args.scores = all_scores.const_data_ptr();
  if (counts) args.counts = static_cast<const int64_t*>(all_counts.const_data_ptr());
  if (groups) args.groups = static_cast<const int64_t*>(all_groups.const_data_ptr());
  args.batch = batch;
  args.n = n;
  args.iou_threshold = iou_threshold;
  args.has_score_threshold = score_threshold.has_value();
  args.score_threshold = score_threshold.value_or(0);
  args.max_output = max_output;
  args.indices = static_cast<int64_t*>(kept.indices.mutable_data_ptr());
  args.kept = static_cast<int64_t*>(kept.counts.mutable_data_ptr());
  launch(args, boxes);
  return kept;
}

// The rows that are there. Reads the count: on CUDA this waits for the kernel.
Tensor without_padding(Kept kept) {
  const Tensor count =
      kept.counts.is_cpu()
          ? kept.counts
          : torch::stable::to(kept.counts, torch::stable::Device(torch::headeronly::DeviceType::CPU));
  return torch::stable::narrow(kept.indices, 0, 0, *static_cast<const int64_t*>(count.const_data_ptr()));
}

template <Launch launch>
Tensor nms(Tensor boxes, Tensor scores, double iou_threshold) {
  const int64_t n = boxes.dim() > 0 ? boxes.size(0) : 0;
  return without_padding(
      suppress(boxes, scores, iou_threshold, n, std::nullopt, std::nullopt, std::nullopt, false, launch));
}

template <Launch launch>
Tensor batched_nms(Tensor boxes, Tensor scores, Tensor idxs, double iou_threshold) {
  const int64_t n = boxes.dim() > 0 ? boxes.size(0) : 0;
  return without_padding(
      suppress(boxes, scores, iou_threshold, n, std::nullopt, idxs, std::nullopt, false, launch));
}

template <Launch launch>
std::tuple<Tensor, Tensor> nms_padded(Tensor boxes, Tensor scores, double iou_threshold, int64_t max_output,
                                      std::optional<Tensor> counts, std::optional<Tensor> groups,
                                      std::optional<double> score_threshold) {
  const Kept kept =
      suppress(boxes, scores, iou_threshold, max_output, counts, groups, score_threshold, true, launch);
  return {kept.indices, kept.counts};
}

}  // namespace
}  // namespace fastrpn

STABLE_TORCH_LIBRARY_IMPL(fastrpn, CPU, m) {
  m.impl("nms", TORCH_BOX(&fastrpn::nms<fastrpn::launch_cpu>));
  m.impl("batched_nms", TORCH_BOX(&fastrpn::batched_nms<fastrpn::launch_cpu>));
  m.impl("nms_padded", TORCH_BOX(&fastrpn::nms_padded<fastrpn::launch_cpu>));
}

#if defined(FASTRPN_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(fastrpn, CUDA, m) {
  m.impl("nms", TORCH_BOX(&fastrpn::nms<fastrpn::launch_cuda>));
  m.impl("batched_nms", TORCH_BOX(&fastrpn::batched_nms<fastrpn::launch_cuda>));
  m.impl("nms_padded", TORCH_BOX(&fastrpn::nms_padded<fastrpn::launch_cuda>));
}
#endif
