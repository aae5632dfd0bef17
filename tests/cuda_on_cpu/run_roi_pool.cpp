#include "ops/roi_pool/roi_pool.h"
#include "runner.h"

using fastrpn::RoiPoolArgs;
using fastrpn::RoiPoolBackwardArgs;

static void forward(Run& run) {
  RoiPoolArgs args{};
  args.dtype = run.dtype("features");
  args.roi_dtype = run.dtype("rois");
  args.features = run.input("features");
  args.rois = run.input("rois");
  args.channels_last = run.integer("channels_last") != 0;
  args.batch = run.integer("batch");
  args.channels = run.integer("channels");
  args.height = run.integer("height");
  args.width = run.integer("width");
  args.num_rois = run.dim("rois", 0);
  args.pooled_height = run.integer("pooled_height");
  args.pooled_width = run.integer("pooled_width");
  args.spatial_scale = run.number("spatial_scale");
  const std::vector<int64_t> shape = {args.num_rois * args.channels * args.pooled_height * args.pooled_width};
  args.output = run.output("output", run.tensor("features").type.c_str(), shape);
  if (run.has("argmax")) args.argmax = static_cast<int32_t*>(run.output("argmax", "i4", shape));
  if (run.on_cpu()) {
    return run.call_cpu([&](auto& threads) { FASTRPN_CPU(roi_pool_cpu)(args, threads); });
  }
  void* workspace = run.workspace(fastrpn::roi_pool_workspace_bytes(args));
  run.check(fastrpn::roi_pool_cuda(args, workspace, run.stream()));
}

static void backward(Run& run) {
  RoiPoolBackwardArgs args{};
  args.dtype = run.dtype("grad_output");
  args.roi_dtype = run.dtype("rois");
  args.grad_output = run.input("grad_output");
  args.rois = run.input("rois");
  args.argmax = static_cast<const int32_t*>(run.input("argmax"));
  args.channels_last = run.integer("channels_last") != 0;
  args.batch = run.integer("batch");
  args.channels = run.integer("channels");
  args.height = run.integer("height");
  args.width = run.integer("width");
  args.num_rois = run.dim("rois", 0);
  args.pooled_height = run.integer("pooled_height");
  args.pooled_width = run.integer("pooled_width");
  args.spatial_scale = run.number("spatial_scale");
  const std::vector<int64_t> shape = {args.batch * args.channels * args.height * args.width};
  args.grad_features = run.output("grad_features", run.tensor("grad_output").type.c_str(), shape);
  if (run.on_cpu()) {
    return run.call_cpu([&](auto& threads) { FASTRPN_CPU(roi_pool_backward_cpu)(args, threads); });
  }
  void* workspace = run.workspace(fastrpn::roi_pool_backward_workspace_bytes(args));
  run.check(fastrpn::roi_pool_backward_cuda(args, workspace, run.stream()));
}

void run_op(Run& run) { run.has("grad_output") ? backward(run) : forward(run); }
