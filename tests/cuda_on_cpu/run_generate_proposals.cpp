#include "ops/generate_proposals/generate_proposals.h"
#include "runner.h"

void run_op(Run& run) {
  fastrpn::GenerateProposalsArgs args{};
  args.dtype = run.dtype("objectness");
  args.objectness = run.input("objectness");
  args.deltas = run.input("deltas");
  args.anchors = run.input("anchors");
  args.anchor_dtype = run.dtype("anchors");
  args.image_sizes = static_cast<const int64_t*>(run.input("image_sizes"));
  std::vector<int64_t> anchors_per_level;
  args.num_levels = run.dim("anchors_per_level", 0);
  for (int64_t level = 0; level < args.num_levels; ++level) {
    anchors_per_level.push_back(run.element<int64_t>("anchors_per_level", level));
  }
  args.anchors_per_level = anchors_per_level.data();
  args.batch = run.dim("objectness", 0);
  args.num_anchors = run.dim("objectness", 1);
  args.pre_nms_top_n = run.integer("pre_nms_top_n");
  args.post_nms_top_n = run.integer("post_nms_top_n");
  args.nms_threshold = run.number("nms_threshold");
  args.min_size = run.number("min_size");
  const char* type = args.dtype == fastrpn::DType::float64 ? "f8" : "f4";
  args.proposals = run.output("proposals", type, {args.batch, args.post_nms_top_n, 4});
  args.scores = run.output("scores", type, {args.batch, args.post_nms_top_n});
  args.counts = static_cast<int64_t*>(run.output("counts", "i8", {args.batch}));
  if (run.on_cpu()) {
    return run.call_cpu([&](auto& threads) { FASTRPN_CPU(generate_proposals_cpu)(args, threads); });
  }
  size_t bytes = 0;
  run.check(fastrpn::generate_proposals_workspace_bytes(args, &bytes));
  void* workspace = run.workspace(bytes);
  run.check(fastrpn::generate_proposals_cuda(args, workspace, run.stream()));
}
