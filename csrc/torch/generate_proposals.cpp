#include "ops/generate_proposals/generate_proposals.h"

#include <tuple>
#include <vector>

#include "torch/op.h"

namespace fastrpn {
namespace {

FASTRPN_DEFINE_RUN(generate_proposals, GenerateProposalsArgs, generate_proposals_workspace_bytes,
                   generate_proposals_cuda)

void check_inputs(const Tensor& objectness, const Tensor& deltas, const Tensor& anchors,
                  const Tensor& image_sizes, const std::vector<int64_t>& anchors_per_level) {
  STD_TORCH_CHECK(objectness.dim() == 2, "objectness must have shape [B, A]");
  const int64_t batch = objectness.size(0), num_anchors = objectness.size(1);
  STD_TORCH_CHECK(
      deltas.dim() == 3 && deltas.size(0) == batch && deltas.size(1) == num_anchors && deltas.size(2) == 4,
      "deltas must have shape [B, A, 4]");
  STD_TORCH_CHECK(anchors.dim() == 2 && anchors.size(0) == num_anchors && anchors.size(1) == 4,
                  "anchors must have shape [A, 4]");
  STD_TORCH_CHECK(image_sizes.dim() == 2 && image_sizes.size(0) == batch && image_sizes.size(1) == 2,
                  "image_sizes must have shape [B, 2]");
  STD_TORCH_CHECK(image_sizes.scalar_type() == ScalarType::Long, "image_sizes must be int64");
  STD_TORCH_CHECK(deltas.scalar_type() == objectness.scalar_type(),
                  "objectness and deltas must have the same dtype");
  const bool half =
      objectness.scalar_type() == ScalarType::Half || objectness.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(anchors.scalar_type() == objectness.scalar_type() ||
                      (half && anchors.scalar_type() == ScalarType::Float),
                  "anchors must have the dtype of objectness, or be float32 beside half types");
  check_same_device(deltas, "deltas", objectness, "objectness");
  check_same_device(anchors, "anchors", objectness, "objectness");
  check_same_device(image_sizes, "image_sizes", objectness, "objectness");
  int64_t sum = 0;
  for (int64_t size : anchors_per_level) {
    STD_TORCH_CHECK(size >= 0, "anchors_per_level must not be negative");
    STD_TORCH_CHECK(size <= num_anchors - sum, "anchors_per_level must sum to the number of anchors");
    sum += size;
  }
  STD_TORCH_CHECK(sum == num_anchors, "anchors_per_level must sum to the number of anchors");
  STD_TORCH_CHECK(num_anchors < UINT32_MAX, "at most 2^32 - 2 anchors");
}

std::tuple<Tensor, Tensor, Tensor> generate_proposals(Tensor objectness, Tensor deltas, Tensor anchors,
                                                      Tensor image_sizes, int64_t pre_nms_top_n,
                                                      int64_t post_nms_top_n, double nms_threshold,
                                                      double min_size,
                                                      std::vector<int64_t> anchors_per_level) {
  // No sizes mean one level. So the number of anchors is in no list, where torch.jit.trace could not follow.
  if (anchors_per_level.empty() && objectness.dim() == 2) anchors_per_level = {objectness.size(1)};
  check_inputs(objectness, deltas, anchors, image_sizes, anchors_per_level);
  STD_TORCH_CHECK(pre_nms_top_n > 0 && post_nms_top_n > 0, "pre_nms_top_n, post_nms_top_n must be positive");
  check_not_nan(nms_threshold, "nms_threshold");
  check_not_nan(min_size, "min_size");
  const int64_t batch = objectness.size(0);
  const ScalarType type =
      objectness.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Tensor proposals = new_empty_tensor({batch, post_nms_top_n, 4}, type, objectness);
  Tensor scores = new_empty_tensor({batch, post_nms_top_n}, type, objectness);
  Tensor counts = new_empty_tensor({batch}, ScalarType::Long, objectness);
  if (batch == 0) return {proposals, scores, counts};
  const Tensor o = as_contiguous(objectness), d = as_contiguous(deltas), a = as_contiguous(anchors),
               s = as_contiguous(image_sizes);

  GenerateProposalsArgs args{};
  args.dtype = dtype_of(o, "objectness");
  args.objectness = o.const_data_ptr();
  args.deltas = d.const_data_ptr();
  args.anchors = a.const_data_ptr();
  args.anchor_dtype = dtype_of(a, "anchors");
  args.image_sizes = static_cast<const int64_t*>(s.const_data_ptr());
  args.anchors_per_level = anchors_per_level.data();
  args.batch = batch;
  args.num_anchors = objectness.size(1);
  args.num_levels = int64_t(anchors_per_level.size());
  args.pre_nms_top_n = pre_nms_top_n;
  args.post_nms_top_n = post_nms_top_n;
  args.nms_threshold = nms_threshold;
  args.min_size = min_size;
  args.proposals = proposals.mutable_data_ptr();
  args.scores = scores.mutable_data_ptr();
  args.counts = static_cast<int64_t*>(counts.mutable_data_ptr());
  run_generate_proposals(args, objectness);
  return {proposals, scores, counts};
}

}  // namespace
}  // namespace fastrpn

FASTRPN_IMPL(m) { m.impl("generate_proposals", TORCH_BOX(&fastrpn::generate_proposals)); }
