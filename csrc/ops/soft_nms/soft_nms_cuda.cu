// soft_nms on CUDA.
//
// Every selection depends on all decays before it, so the loop is serial; one block runs all of it, without
// returning to the host. In each round a thread decays its boxes by the box just selected and remembers the
// best, shuffles and one barrier find the best of the block, and so on until no score exceeds the threshold.
//
// Cost: a round for each kept box, n / kThreads IoUs a thread in each. Numerics: float (float64: double);
// scores are rounded to the storage type only when written or compared with the threshold. Equal scores: the
// lower row is selected first.
#include "cuda/box.h"
#include "cuda/iou_test.h"
#include "cuda/workspace.h"
#include "ops/soft_nms/soft_nms.h"

namespace fastrpn {
namespace {

constexpr int kThreads = 1024;
constexpr int kPrepareThreads = 256;

template <typename C>
struct Workspace {
  Box<C>* boxes;  // [n]
  C* scores;      // [n], -infinity once selected
};

template <typename C>
Workspace<C> lay_out(const SoftNmsArgs& args, WorkspaceCursor& cursor) {
  Workspace<C> w{};
  w.boxes = cursor.take<Box<C>>(args.n);
  w.scores = cursor.take<C>(args.n);
  return w;
}

template <typename T>
__global__ void __launch_bounds__(kPrepareThreads)
    soft_nms_prepare_kernel(SoftNmsArgs args, Workspace<compute_t<T>> w) {
  const int64_t i = int64_t(blockIdx.x) * kPrepareThreads + threadIdx.x;
  if (i >= args.n) return;
  w.boxes[i] = load_box(static_cast<const T*>(args.boxes), i);
  w.scores[i] = widen(static_cast<const T*>(args.scores)[i]);
  args.indices[i] = -1;
  static_cast<T*>(args.decayed)[i] = narrow<T>(0);
}

template <typename C>
struct Best {
  C score;
  int index;  // -1: none

  __device__ void take(C other_score, int other_index) {
    const bool better = index < 0 || other_score > score || (other_score == score && other_index < index);
    if (other_index < 0 || !better) return;
    score = other_score;
    index = other_index;
  }

  // The best of a warp, in lane 0.
  __device__ void reduce() {
    for (int step = 16; step > 0; step /= 2) {
      const C other_score = __shfl_down_sync(kAllLanes, score, step);
      const int other_index = __shfl_down_sync(kAllLanes, index, step);
      take(other_score, other_index);
    }
  }
};

// A single block.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    soft_nms_select_kernel(SoftNmsArgs args, Workspace<compute_t<T>> w, SoftNmsDecay<compute_t<T>> decay,
                           compute_t<T> threshold) {
  using C = compute_t<T>;
  __shared__ C scores[32];
  __shared__ int indices[32];
  __shared__ Best<C> winner;
  const int thread = threadIdx.x, n = int(args.n);
  Box<C> selected{};
  C selected_area = 0;
  const auto survives = [&](C score) { return widen(narrow<T>(score)) > threshold; };
  int kept = 0;
  for (;; ++kept) {
    Best<C> best{0, -1};
    for (int i = thread; i < n; i += kThreads) {
      C score = w.scores[i];
      if (!survives(score)) continue;
      if (kept > 0) {
        const Box<C> box = w.boxes[i];
        const C iou = quick_iou_or_zero(selected, selected_area, box, box_area(box));
        if (iou > C(0)) w.scores[i] = score *= decay.weight(iou);  // the weight of 0 is 1
        if (!survives(score)) continue;
      }
      best.take(score, i);
    }
    best.reduce();
    if (thread % 32 == 0) {
      scores[thread / 32] = best.score;
      indices[thread / 32] = best.index;
    }
    __syncthreads();
    if (thread < 32) {
      best = thread < kThreads / 32 ? Best<C>{scores[thread], indices[thread]} : Best<C>{0, -1};
      best.reduce();
      if (thread == 0) winner = best;
    }
    __syncthreads();
    const int index = winner.index;
    if (index < 0) break;
    selected = w.boxes[index];
    selected_area = box_area(selected);
    if (index % kThreads == thread) {
      w.scores[index] = C(-INFINITY);
      args.indices[kept] = index;
      static_cast<T*>(args.decayed)[kept] = narrow<T>(winner.score);
    }
    __syncthreads();  // before the next round's results replace this one's
  }
  if (thread == 0) *args.kept = kept;
}

template <typename C>
size_t workspace_bytes(const SoftNmsArgs& args) {
  WorkspaceCursor cursor(nullptr);
  lay_out<C>(args, cursor);
  return cursor.bytes();
}

}  // namespace

size_t soft_nms_workspace_bytes(const SoftNmsArgs& args) {
  return args.dtype == DType::float64 ? workspace_bytes<double>(args) : workspace_bytes<float>(args);
}

Status soft_nms_cuda(const SoftNmsArgs& args, void* workspace, Stream stream) {
  if (args.n >= int64_t(1) << 31) return "soft_nms: 2^31 boxes or more";
  return dispatch(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    WorkspaceCursor cursor(workspace);
    const Workspace<C> w = lay_out<C>(args, cursor);
    const unsigned blocks = unsigned(ceil_div(args.n, int64_t(kPrepareThreads)));
    const auto decay = SoftNmsDecay<C>::of(args.method, args.sigma, args.iou_threshold);
    const C threshold = as_element<T>(args.score_threshold);
    if (blocks > 0)
      FASTRPN_TRY(FASTRPN_LAUNCH(soft_nms_prepare_kernel<T>, blocks, kPrepareThreads, 0, stream, args, w));
    return FASTRPN_LAUNCH(soft_nms_select_kernel<T>, 1, kThreads, 0, stream, args, w, decay, threshold);
  });
}

}  // namespace fastrpn
