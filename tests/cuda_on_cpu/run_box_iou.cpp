#include "ops/box_iou/box_iou.h"
#include "runner.h"

void run_op(Run& run) {
  fastrpn::BoxIouArgs args{};
  args.dtype = run.dtype("boxes1");
  args.boxes1 = run.input("boxes1");
  args.boxes2 = run.input("boxes2");
  args.n = run.dim("boxes1", 0);
  args.m = run.dim("boxes2", 0);
  args.iou = run.output("iou", args.dtype == fastrpn::DType::float64 ? "f8" : "f4", {args.n, args.m});
  if (run.on_cpu()) {
    return run.call_cpu([&](auto& threads) { FASTRPN_CPU(box_iou_cpu)(args, threads); });
  }
  run.check(fastrpn::box_iou_cuda(args, run.stream()));
}
