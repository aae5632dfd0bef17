#include "ops/nms/nms.h"
#include "runner.h"

// What a problem would need, without running it.
static void report_workspace(Run& run, fastrpn::NmsArgs args) {
  if (run.on_cpu()) return;
  args.batch = run.integer("batch");
  args.n = args.max_output = run.integer("n");
  const int64_t some_group = 0;
  args.groups = &some_group;
  size_t bytes = 0;
  run.check(fastrpn::nms_workspace_bytes(args, &bytes));
  run.report("workspace_bytes", int64_t(bytes));
}

void run_op(Run& run) {
  fastrpn::NmsArgs args{};
  args.dtype = run.dtype("boxes");
  if (run.has("batch")) return report_workspace(run, args);
  args.boxes = run.input("boxes");
  args.scores = run.input("scores");
  args.counts = static_cast<const int64_t*>(run.input("counts"));
  args.groups = static_cast<const int64_t*>(run.input("groups"));
  args.batch = run.dim("scores", 0);
  args.n = run.dim("scores", 1);
  args.is_sorted = run.has("is_sorted") && run.integer("is_sorted") != 0;
  args.iou_threshold = run.number("iou_threshold");
  args.has_score_threshold = run.has("score_threshold");
  if (args.has_score_threshold) args.score_threshold = run.number("score_threshold");
  args.max_output = run.integer("max_output");
  args.indices = static_cast<int64_t*>(run.output("indices", "i8", {args.batch, args.max_output}));
  args.kept = static_cast<int64_t*>(run.output("kept", "i8", {args.batch}));
  if (run.on_cpu()) {
    return run.call_cpu([&](auto& threads) { FASTRPN_CPU(nms_cpu)(args, threads); });
  }
  size_t bytes = 0;
  run.check(fastrpn::nms_workspace_bytes(args, &bytes));
  void* workspace = run.workspace(bytes);
  run.check(fastrpn::nms_cuda(args, workspace, run.stream()));
}
