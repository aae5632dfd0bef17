#include "core/soft_nms/soft_nms.h"
#include "runner.h"

void run_op(Run& run) {
  fastrpn::SoftNmsArgs args{};
  args.dtype = run.dtype("boxes");
  args.boxes = run.input("boxes");
  args.scores = run.input("scores");
  args.n = run.dim("scores", 0);
  args.method = run.integer("gaussian") ? fastrpn::SoftNmsMethod::gaussian : fastrpn::SoftNmsMethod::linear;
  args.sigma = run.number("sigma");
  args.iou_threshold = run.number("iou_threshold");
  args.score_threshold = run.number("score_threshold");
  args.indices = static_cast<int64_t*>(run.output("indices", "i8", {args.n}));
  args.decayed = run.output("decayed", run.tensor("boxes").type.c_str(), {args.n});
  args.kept = static_cast<int64_t*>(run.output("kept", "i8", {1}));
  void* workspace = run.workspace(fastrpn::soft_nms_workspace_bytes(args));
  run.check(fastrpn::soft_nms_cuda(args, workspace, run.stream()));
}
