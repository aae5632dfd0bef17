#include "ops/soft_nms/soft_nms.h"
#include "runner.h"

// As on CUDA; the CPU kernel leaves what nobody reads.
static void clear_behind_kept(const fastrpn::SoftNmsArgs& args, size_t element_size) {
  for (int64_t i = *args.kept; i < args.n; ++i) {
    args.indices[i] = -1;
    memset(static_cast<char*>(args.decayed) + i * element_size, 0, element_size);
  }
}

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
  if (run.on_cpu()) {
    run.call_cpu([&](auto& threads) { FASTRPN_CPU(soft_nms_cpu)(args, threads); });
    return clear_behind_kept(args, run.tensor("scores").bytes.size() / size_t(args.n + (args.n == 0)));
  }
  void* workspace = run.workspace(fastrpn::soft_nms_workspace_bytes(args));
  run.check(fastrpn::soft_nms_cuda(args, workspace, run.stream()));
}
