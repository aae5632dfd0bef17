// nms, batched_nms and nms_padded: one kernel, three ways to hand out its result.
#include "ops/nms/nms.h"

#include <cstring>
#include <memory>
#include <tuple>
#include <utility>

#include "torch/op.h"

namespace fastrpn {
namespace {

FASTRPN_DEFINE_RUN(nms, NmsArgs, nms_workspace_bytes, nms_cuda)

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

Tensor as_int64(const Tensor& tensor, const char* name, const Tensor& like, int64_t dims, int64_t numel) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Long, name, " must be int64");
  STD_TORCH_CHECK(tensor.dim() == dims && tensor.size(0) == like.size(0) && tensor.numel() == numel, name,
                  " has the wrong shape");
  check_same_device(tensor, name, like, "boxes");
  return as_contiguous(tensor);
}

// Checked arguments, all but the outputs, and the tensors that `args` points into.
struct Inputs {
  Tensor boxes, scores;
  std::optional<Tensor> counts, groups;
  NmsArgs args;
};

Inputs check_and_prepare(const Tensor& boxes, const Tensor& scores, double iou_threshold, int64_t max_output,
                         const std::optional<Tensor>& counts, const std::optional<Tensor>& groups,
                         std::optional<double> score_threshold, bool batched) {
  check_inputs(boxes, scores, batched);
  check_not_nan(iou_threshold, "iou_threshold");
  check_not_nan(score_threshold.value_or(0), "score_threshold");
  STD_TORCH_CHECK(max_output >= 0, "max_output must not be negative");
  Inputs inputs{as_contiguous(boxes), as_contiguous(scores), std::nullopt, std::nullopt, {}};
  NmsArgs& args = inputs.args;
  args.dtype = dtype_of(boxes, "boxes");
  args.boxes = inputs.boxes.const_data_ptr();
  args.scores = inputs.scores.const_data_ptr();
  args.batch = batched ? boxes.size(0) : 1;
  args.n = boxes.size(batched ? 1 : 0);
  if (counts) {
    inputs.counts = as_int64(*counts, "counts", boxes, 1, args.batch);
    args.counts = static_cast<const int64_t*>(inputs.counts->const_data_ptr());
  }
  if (groups) {
    inputs.groups = as_int64(*groups, "groups", boxes, scores.dim(), args.batch * args.n);
    args.groups = static_cast<const int64_t*>(inputs.groups->const_data_ptr());
  }
  args.iou_threshold = iou_threshold;
  args.has_score_threshold = score_threshold.has_value();
  args.score_threshold = score_threshold.value_or(0);
  args.max_output = max_output;
  return inputs;
}

// The kept rows of one set of boxes, no more.
Tensor keep_on_cpu(Inputs inputs) {
  // A tensor costs more than a small problem: make one only, when its size is known.
  const std::unique_ptr<int64_t[]> rows(new int64_t[inputs.args.max_output]);
  int64_t count = 0;
  inputs.args.indices = rows.get();
  inputs.args.kept = &count;
  run_nms(inputs.args, inputs.boxes);
  Tensor indices = new_empty_tensor({count}, ScalarType::Long, inputs.boxes);
  if (count > 0) memcpy(indices.mutable_data_ptr(), rows.get(), size_t(count) * sizeof(int64_t));
  return indices;
}

// The same on CUDA, where reading the count waits for the kernel. It lies behind the rows: one tensor.
Tensor keep_on_device(Inputs inputs) {
  NmsArgs& args = inputs.args;
  Tensor found = new_empty_tensor({args.max_output + 1}, ScalarType::Long, inputs.boxes);
  args.indices = static_cast<int64_t*>(found.mutable_data_ptr());
  args.kept = args.indices + args.max_output;
  run_nms(args, inputs.boxes);
  return torch::stable::narrow(found, 0, 0, read_number(args.kept, inputs.boxes));
}

Tensor keep(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
            double iou_threshold) {
  const int64_t n = boxes.dim() > 0 ? boxes.size(0) : 0;
  Inputs inputs = check_and_prepare(boxes, scores, iou_threshold, n, std::nullopt, idxs, std::nullopt, false);
  if (n == 0) return new_empty_tensor({0}, ScalarType::Long, boxes);
  return boxes.is_cpu() ? keep_on_cpu(std::move(inputs)) : keep_on_device(std::move(inputs));
}

Tensor nms(Tensor boxes, Tensor scores, double iou_threshold) {
  return keep(boxes, scores, std::nullopt, iou_threshold);
}

Tensor batched_nms(Tensor boxes, Tensor scores, Tensor idxs, double iou_threshold) {
  return keep(boxes, scores, idxs, iou_threshold);
}

std::tuple<Tensor, Tensor> nms_padded(Tensor boxes, Tensor scores, double iou_threshold, int64_t max_output,
                                      std::optional<Tensor> counts, std::optional<Tensor> groups,
                                      std::optional<double> score_threshold) {
  Inputs inputs =
      check_and_prepare(boxes, scores, iou_threshold, max_output, counts, groups, score_threshold, true);
  NmsArgs& args = inputs.args;
  Tensor indices = new_empty_tensor({args.batch, max_output}, ScalarType::Long, boxes);
  Tensor kept = new_empty_tensor({args.batch}, ScalarType::Long, boxes);
  args.indices = static_cast<int64_t*>(indices.mutable_data_ptr());
  args.kept = static_cast<int64_t*>(kept.mutable_data_ptr());
  if (args.batch > 0) run_nms(args, boxes);
  return {indices, kept};
}

}  // namespace
}  // namespace fastrpn

FASTRPN_IMPL(m) {
  m.impl("nms", TORCH_BOX(&fastrpn::nms));
  m.impl("batched_nms", TORCH_BOX(&fastrpn::batched_nms));
  m.impl("nms_padded", TORCH_BOX(&fastrpn::nms_padded));
}
