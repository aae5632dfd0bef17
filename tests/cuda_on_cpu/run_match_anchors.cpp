#include "ops/match_anchors/match_anchors.h"
#include "runner.h"

void run_op(Run& run) {
  fastrpn::MatchAnchorsArgs args{};
  args.dtype = run.dtype("anchors");
  args.anchors = run.input("anchors");
  args.batched_anchors = run.tensor("anchors").shape.size() == 3;
  args.gt_boxes = run.input("gt_boxes");
  args.gt_counts = static_cast<const int64_t*>(run.input("gt_counts"));
  args.valid = static_cast<const uint8_t*>(run.input("valid"));
  args.batched_valid = run.has("valid") && run.tensor("valid").shape.size() == 2;
  args.batch = run.dim("gt_boxes", 0);
  args.num_anchors = run.dim("anchors", args.batched_anchors ? 1 : 0);
  args.num_gt = run.dim("gt_boxes", 1);
  args.high = run.number("high");
  args.low = run.number("low");
  args.allow_low_quality = run.integer("allow_low_quality") != 0;
  const std::vector<int64_t> shape = {args.batch, args.num_anchors};
  args.matched_gt = static_cast<int64_t*>(run.output("matched_gt", "i8", shape));
  args.max_iou = run.output("max_iou", args.dtype == fastrpn::DType::float64 ? "f8" : "f4", shape);
  if (run.on_cpu()) {
    return run.call_cpu([&](auto& threads) { FASTRPN_CPU(match_anchors_cpu)(args, threads); });
  }
  void* workspace = run.workspace(fastrpn::match_anchors_workspace_bytes(args));
  run.check(fastrpn::match_anchors_cuda(args, workspace, run.stream()));
}
