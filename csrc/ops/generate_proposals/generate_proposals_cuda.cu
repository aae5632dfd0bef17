// generate_proposals on CUDA: the whole batch and all levels in each launch, no host synchronisation.
//
// 1. select: the best pre_nms_top_n anchors of each level (select_cuda.h); a device sort ranks them.
// 2. decode: they are clipped, in the order (level, rank); those that are too small or not a number get a
//    score that keeps them out.
// 3. nms_cuda, with the levels as groups, ends an image's search at post_nms_top_n.
// 4. gather: the kept boxes and scores, zeros behind them.
//
// Cost: six readings of batch * num_anchors logits, then a sort and NMS of the survivors. Memory: 52 bytes a
// survivor and the larger of what the sort (13) and nms (75) need, 4.2 kB a level of an image, 8 bytes for
// each 2,048 anchors. Numerics: math/box.h in float (float64: double); exp differs from the CPU's in the last
// place, so a coordinate may, too.
#include "cuda/runtime.h"
#include "cuda/sort.h"
#include "cuda/workspace.h"
#include "math/box.h"
#include "ops/generate_proposals/generate_proposals.h"
#include "ops/generate_proposals/select_cuda.h"
#include "ops/nms/nms.h"

namespace fastrpn {
namespace {

template <typename C>
struct Workspace {
  Selection<C> selection;
  uint64_t* sorted_keys;     // [batch, survivors]
  uint32_t* sorted_anchors;  // [batch, survivors]
  C* boxes;                  // [batch, survivors, 4]
  C* scores;                 // [batch, survivors], -1: takes no part
  int64_t* level;            // [batch, survivors]
  int64_t* kept;             // [batch, post_nms_top_n]: survivors, then -1
  void* scratch;             // of the sort, and of nms when that is done; last
};

// float32: all levels of all images in one sort. float64: the logit fills the key, a sort for each.
template <typename C>
constexpr bool kOneSort = sizeof(C) == 4;

template <typename C>
NmsArgs nms_args(const GenerateProposalsArgs& args, const Levels& levels, const Workspace<C>& w) {
  NmsArgs nms{};
  nms.dtype = sizeof(C) == 4 ? DType::float32 : DType::float64;
  nms.boxes = w.boxes;
  nms.scores = w.scores;
  nms.groups = w.level;
  nms.batch = args.batch;
  nms.n = levels.survivors;
  nms.iou_threshold = args.nms_threshold;
  nms.has_score_threshold = true;
  nms.score_threshold = -0.5;
  nms.max_output = args.post_nms_top_n;
  nms.indices = w.kept;
  nms.kept = args.counts;
  return nms;
}

template <typename C>
Workspace<C> lay_out(const GenerateProposalsArgs& args, const Levels& levels, WorkspaceCursor& cursor) {
  const int64_t survivors = args.batch * levels.survivors;
  Workspace<C> w{Selection<C>::lay_out(args, levels, cursor)};
  w.sorted_keys = cursor.take<uint64_t>(survivors);
  w.sorted_anchors = cursor.take<uint32_t>(survivors);
  w.boxes = cursor.take<C>(survivors * 4);
  w.scores = cursor.take<C>(survivors);
  w.level = cursor.take<int64_t>(survivors);
  w.kept = cursor.take<int64_t>(args.batch * args.post_nms_top_n);
  w.scratch = cursor.rest();
  return w;
}

template <typename C>
Status scratch_bytes(const GenerateProposalsArgs& args, const Levels& levels, size_t* bytes) {
  size_t sort, nms;
  FASTRPN_TRY(device_sort_workspace_bytes((kOneSort<C> ? args.batch : 1) * levels.survivors, &sort));
  FASTRPN_TRY(nms_workspace_bytes(nms_args(args, levels, Workspace<C>{}), &nms));
  *bytes = max(sort, nms);
  return nullptr;
}

template <typename T>
__device__ Box<compute_t<T>> anchor_box(const GenerateProposalsArgs& args, int64_t anchor) {
  if constexpr (sizeof(T) == 2) {
    if (args.anchor_dtype == DType::float32) return load_box(static_cast<const float*>(args.anchors), anchor);
  }
  return load_box(static_cast<const T*>(args.anchors), anchor);
}

// One thread a survivor of an image.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    proposals_decode_kernel(GenerateProposalsArgs args, Levels levels, Workspace<compute_t<T>> w) {
  using C = compute_t<T>;
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.batch * levels.survivors) return;
  const int survivors = int(levels.survivors), place = int(i) % survivors;
  const int64_t image = int(i) / survivors;
  const int64_t level = Levels::find(levels.first_survivor, place);
  const int64_t anchor = w.sorted_anchors[i];

  const int64_t row = image * args.num_anchors + anchor;
  const T* deltas = static_cast<const T*>(args.deltas) + 4 * row;
  const C widened[4] = {widen(deltas[0]), widen(deltas[1]), widen(deltas[2]), widen(deltas[3])};
  const int64_t* height_width = args.image_sizes + 2 * image;
  const Box<C> box =
      clip_box(decode_box(widened, anchor_box<T>(args, anchor)), C(height_width[1]), C(height_width[0]));
  const C score = sigmoid(widen(static_cast<const T*>(args.objectness)[row]));
  const bool takes_part = is_large_enough(box, C(args.min_size)) && score == score;
  C* out = w.boxes + 4 * i;
  out[0] = box.x1, out[1] = box.y1, out[2] = box.x2, out[3] = box.y2;
  w.scores[i] = takes_part ? score : C(-1);
  w.level[i] = level;
}

// One thread a proposal of an image.
template <typename C>
__global__ void __launch_bounds__(kThreads)
    proposals_gather_kernel(GenerateProposalsArgs args, Levels levels, Workspace<C> w) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.batch * args.post_nms_top_n) return;
  const int64_t image = int(i) / int(args.post_nms_top_n), kept = w.kept[i];
  const int64_t from = image * levels.survivors + kept;
  C* box = static_cast<C*>(args.proposals) + 4 * i;
  for (int k = 0; k < 4; ++k) box[k] = kept < 0 ? C(0) : w.boxes[4 * from + k];
  static_cast<C*>(args.scores)[i] = kept < 0 ? C(0) : w.scores[from];
}

template <typename C>
Status rank_levels(const GenerateProposalsArgs& args, const Levels& levels, const Workspace<C>& w,
                   Stream stream) {
  const Selection<C>& from = w.selection;
  if constexpr (kOneSort<C>) {
    int bits = 32;
    while ((args.batch * levels.count - 1) >> (bits - 32) != 0) ++bits;
    return device_sort(w.scratch, from.keys, w.sorted_keys, from.anchors, w.sorted_anchors,
                       args.batch * levels.survivors, bits, stream);
  } else {
    for (int64_t i = 0; i < args.batch * levels.count; ++i) {
      const int64_t level = i % levels.count, first = levels.first_survivor[level];
      const int64_t at = i / levels.count * levels.survivors + first;
      FASTRPN_TRY(device_sort(w.scratch, from.keys + at, w.sorted_keys + at, from.anchors + at,
                              w.sorted_anchors + at, levels.first_survivor[level + 1] - first, 64, stream));
    }
    return nullptr;
  }
}

template <typename T>
Status launch(const GenerateProposalsArgs& args, void* workspace, Stream stream) {
  using C = compute_t<T>;
  const Levels levels(args);
  WorkspaceCursor cursor(workspace);
  const Workspace<C> w = lay_out<C>(args, levels, cursor);
  const auto blocks = [](int64_t items) { return unsigned(ceil_div(items, int64_t(kThreads))); };
  const int64_t survivors = args.batch * levels.survivors, proposals = args.batch * args.post_nms_top_n;
  if (survivors > 0) {
    FASTRPN_TRY(launch_selection<T>(args, levels, w.selection, stream));
    FASTRPN_TRY(rank_levels(args, levels, w, stream));
    FASTRPN_TRY(
        FASTRPN_LAUNCH(proposals_decode_kernel<T>, blocks(survivors), kThreads, 0, stream, args, levels, w));
  }
  FASTRPN_TRY(nms_cuda(nms_args(args, levels, w), w.scratch, stream));
  if (proposals == 0) return nullptr;
  return FASTRPN_LAUNCH(proposals_gather_kernel<C>, blocks(proposals), kThreads, 0, stream, args, levels, w);
}

template <typename C>
Status workspace_bytes(const GenerateProposalsArgs& args, size_t* bytes) {
  const Levels levels(args);
  WorkspaceCursor cursor(nullptr);
  lay_out<C>(args, levels, cursor);
  size_t scratch;
  FASTRPN_TRY(scratch_bytes<C>(args, levels, &scratch));
  cursor.take<char>(int64_t(scratch));
  *bytes = cursor.bytes();
  return nullptr;
}

Status check_limits(const GenerateProposalsArgs& args) {
  if (args.num_levels > kMaxLevels) return "generate_proposals: more than 32 levels";
  if (args.batch * max(args.num_anchors, args.post_nms_top_n) >= int64_t(1) << 31) {
    return "generate_proposals: 2^31 anchors or proposals, or more";
  }
  return nullptr;
}

}  // namespace

Status generate_proposals_workspace_bytes(const GenerateProposalsArgs& args, size_t* bytes) {
  FASTRPN_TRY(check_limits(args));
  return args.dtype == DType::float64 ? workspace_bytes<double>(args, bytes)
                                      : workspace_bytes<float>(args, bytes);
}

Status generate_proposals_cuda(const GenerateProposalsArgs& args, void* workspace, Stream stream) {
  if (args.batch == 0) return nullptr;
  FASTRPN_TRY(check_limits(args));
  return dispatch(args.dtype,
                  [&](auto tag) { return launch<typename decltype(tag)::type>(args, workspace, stream); });
}

}  // namespace fastrpn
