// match_anchors on CUDA: O(A + G) memory, three launches for the whole batch.
//
// 1. The best IoU of every ground truth is set to 0.
// 2. maxima: a thread walks over the ground truths of its anchor's image, which pass through shared memory,
//    and keeps its anchor's best. Where a warp's anchors meet a ground truth at all, their maximum raises its
//    best by an integer atomicMax on the bits of the IoU (not negative, so the bits order as the numbers do).
// 3. label: an anchor below `high` asks whether it attains the best of some ground truth. Only those can say
//    yes whose best is not above the anchor's own, so few IoUs are computed again.
//
// A maximum depends on no order, and ties of an anchor go to the lowest ground truth, which comes first.
// Cost: A * G IoUs. Numerics: math/box.h in float (float64: double) without FMA contraction, as on the CPU.
#include "cuda/box.h"
#include "cuda/workspace.h"
#include "ops/match_anchors/match_anchors.h"

namespace fastrpn {
namespace {

constexpr int kThreads = 256;

// Numbers >= 0 as integers of the same order.
FASTRPN_HD unsigned ordered_bits(float value) { return float_to_bits(value); }
FASTRPN_HD unsigned long long ordered_bits(double value) {
  unsigned long long bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}
template <typename C>
using bits_t = decltype(ordered_bits(C()));

// Called by a whole warp.
template <typename Bits>
__device__ Bits warp_max(Bits mine) {
  for (int flip = 16; flip > 0; flip /= 2) mine = max(mine, __shfl_xor_sync(kAllLanes, mine, flip));
  return mine;
}

template <typename C>
struct GroundTruth {
  Box<C> box;
  C area;
};

template <typename T>
struct Problem {
  using C = compute_t<T>;
  const MatchAnchorsArgs args;
  bits_t<C>* gt_best;  // [batch, num_gt]

  __device__ int64_t num_gt(int64_t image) const {
    const int64_t count = args.gt_counts[image];
    return count < 0 ? 0 : min(count, args.num_gt);
  }
  __device__ bool is_valid(int64_t image, int64_t anchor) const {
    return args.valid == nullptr || args.valid[(args.batched_valid ? image * args.num_anchors : 0) + anchor];
  }
  __device__ Box<C> anchor_box(int64_t image, int64_t anchor) const {
    const int64_t row = (args.batched_anchors ? image * args.num_anchors : 0) + anchor;
    return load_box(static_cast<const T*>(args.anchors), row);
  }
  __device__ GroundTruth<C> ground_truth(int64_t image, int64_t g) const {
    const Box<C> box = load_box(static_cast<const T*>(args.gt_boxes), image * args.num_gt + g);
    return {box, box_area(box)};
  }
};

// grid: x over anchors, y over images.
template <typename T>
__global__ void __launch_bounds__(kThreads) match_maxima_kernel(Problem<T> problem) {
  using C = compute_t<T>;
  __shared__ GroundTruth<C> gts[kThreads];
  __shared__ bits_t<C> gt_best[kThreads];
  const MatchAnchorsArgs& args = problem.args;
  const int64_t image = blockIdx.y;
  const int64_t anchor = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t num_gt = problem.num_gt(image);
  const bool takes_part = anchor < args.num_anchors && problem.is_valid(image, anchor);
  const Box<C> box = takes_part ? problem.anchor_box(image, anchor) : Box<C>{};
  const C area = box_area(box);

  C best = 0;
  int64_t best_gt = 0;
  for (int64_t first = 0; first < num_gt; first += kThreads) {
    const int count = int(min(int64_t(kThreads), num_gt - first));
    if (int(threadIdx.x) < count) {
      gts[threadIdx.x] = problem.ground_truth(image, first + threadIdx.x);
      gt_best[threadIdx.x] = 0;
    }
    __syncthreads();
    for (int g = 0; g < count; ++g) {
      const C iou = takes_part ? quick_iou_or_zero(gts[g].box, gts[g].area, box, area) : C(0);
      if (iou > best) {
        best = iou;
        best_gt = first + g;
      }
      if (!__any_sync(kAllLanes, iou > C(0))) continue;
      const bits_t<C> bits = warp_max(ordered_bits(iou));
      if (threadIdx.x % 32 == 0) atomicMax(&gt_best[g], bits);
    }
    __syncthreads();
    if (int(threadIdx.x) < count && gt_best[threadIdx.x] != 0) {
      atomicMax(&problem.gt_best[image * args.num_gt + first + threadIdx.x], gt_best[threadIdx.x]);
    }
  }
  if (anchor < args.num_anchors) {
    args.matched_gt[image * args.num_anchors + anchor] = best_gt;
    static_cast<C*>(args.max_iou)[image * args.num_anchors + anchor] = best;
  }
}

// grid: x over anchors, y over images. matched_gt holds each anchor's best ground truth, then the label.
template <typename T>
__global__ void __launch_bounds__(kThreads) match_label_kernel(Problem<T> problem) {
  using C = compute_t<T>;
  const MatchAnchorsArgs& args = problem.args;
  const int64_t image = blockIdx.y;
  const int64_t anchor = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (anchor >= args.num_anchors) return;
  int64_t* matched_gt = &args.matched_gt[image * args.num_anchors + anchor];
  if (!problem.is_valid(image, anchor)) {
    *matched_gt = kIgnore;
    return;
  }
  const C best = static_cast<const C*>(args.max_iou)[image * args.num_anchors + anchor];
  const int64_t num_gt = problem.num_gt(image);
  bool is_matched = best >= C(args.high);
  if (!is_matched && args.allow_low_quality && best > C(0)) {
    const Box<C> box = problem.anchor_box(image, anchor);
    const C area = box_area(box);
    const bits_t<C>* gt_best = problem.gt_best + image * args.num_gt;
    for (int64_t g = 0; g < num_gt && !is_matched; ++g) {
      if (gt_best[g] == 0 || gt_best[g] > ordered_bits(best)) continue;
      const GroundTruth<C> gt = problem.ground_truth(image, g);
      is_matched = ordered_bits(quick_iou_or_zero(gt.box, gt.area, box, area)) == gt_best[g];
    }
  }
  if (!is_matched) *matched_gt = best < C(args.low) ? kBackground : kIgnore;
}

template <typename C>
size_t workspace_bytes(const MatchAnchorsArgs& args) {
  WorkspaceCursor cursor(nullptr);
  cursor.take<C>(args.batch * args.num_gt);
  return cursor.bytes();
}

}  // namespace

size_t match_anchors_workspace_bytes(const MatchAnchorsArgs& args) {
  return args.dtype == DType::float64 ? workspace_bytes<double>(args) : workspace_bytes<float>(args);
}

Status match_anchors_cuda(const MatchAnchorsArgs& args, void* workspace, Stream stream) {
  if (args.batch * args.num_anchors == 0) return nullptr;
  if (args.batch > 65535) return "match_anchors: more than 65535 images";
  const size_t bytes = match_anchors_workspace_bytes(args);
  if (bytes > 0) FASTRPN_TRY(status_of(cudaMemsetAsync(workspace, 0, bytes, stream)));
  return dispatch(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Problem<T> problem{args, static_cast<bits_t<compute_t<T>>*>(workspace)};
    const dim3 grid(unsigned(ceil_div(args.num_anchors, int64_t(kThreads))), unsigned(args.batch));
    FASTRPN_TRY(FASTRPN_LAUNCH(match_maxima_kernel<T>, grid, kThreads, 0, stream, problem));
    return FASTRPN_LAUNCH(match_label_kernel<T>, grid, kThreads, 0, stream, problem);
  });
}

}  // namespace fastrpn
