#include "ops/roi_align/roi_align.h"
#include "runner.h"

using fastrpn::RoiAlignArgs;
using fastrpn::RoiAlignBackwardArgs;

// "heights", "widths" and "scales" have an entry for each level; features are "features0", "features1", ...
static RoiAlignArgs read_args(Run& run, const char* dtype_of) {
  RoiAlignArgs args{};
  args.dtype = run.dtype(dtype_of);
  args.roi_dtype = run.dtype("rois");
  args.rois = run.input("rois");
  args.roi_levels = static_cast<const int32_t*>(run.input("roi_levels"));
  args.num_levels = int(run.dim("heights", 0));
  for (int level = 0; level < args.num_levels; ++level) {
    args.levels[level].height = run.element<int64_t>("heights", level);
    args.levels[level].width = run.element<int64_t>("widths", level);
    args.levels[level].spatial_scale = run.element<double>("scales", level);
  }
  args.batch = run.integer("batch");
  args.channels = run.integer("channels");
  args.num_rois = run.dim("rois", 0);
  args.pooled_height = run.integer("pooled_height");
  args.pooled_width = run.integer("pooled_width");
  args.sampling_ratio = run.integer("sampling_ratio");
  args.aligned = run.integer("aligned") != 0;
  args.channels_last = run.integer("channels_last") != 0;
  return args;
}

static void forward(Run& run) {
  RoiAlignArgs args = read_args(run, "features0");
  for (int level = 0; level < args.num_levels; ++level) {
    args.levels[level].features = run.input(("features" + std::to_string(level)).c_str());
  }
  args.output = run.output("output", run.tensor("features0").type.c_str(),
                           {args.num_rois * args.channels * args.pooled_height * args.pooled_width});
  if (run.on_cpu()) {
    return run.call_cpu([&](auto& threads) { FASTRPN_CPU(roi_align_cpu)(args, threads); });
  }
  void* workspace = run.workspace(fastrpn::roi_align_workspace_bytes(args));
  run.check(fastrpn::roi_align_cuda(args, workspace, run.stream()));
}

static void backward(Run& run) {
  RoiAlignBackwardArgs args{};
  args.forward = read_args(run, "grad_output");
  args.grad_output = run.input("grad_output");
  const int64_t maps = args.forward.batch * args.forward.channels;
  for (int level = 0; level < args.forward.num_levels; ++level) {
    const auto& map = args.forward.levels[level];
    args.grad_features[level] =
        run.output(("grad_features" + std::to_string(level)).c_str(), run.tensor("grad_output").type.c_str(),
                   {maps * map.height * map.width});
  }
  if (run.on_cpu()) {
    return run.call_cpu([&](auto& threads) { FASTRPN_CPU(roi_align_backward_cpu)(args, threads); });
  }
  void* workspace = run.workspace(fastrpn::roi_align_backward_workspace_bytes(args));
  run.check(fastrpn::roi_align_backward_cuda(args, workspace, run.stream()));
}

void run_op(Run& run) { run.has("grad_output") ? backward(run) : forward(run); }
