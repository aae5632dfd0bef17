// generate_proposals on CUDA: the whole batch and all levels in each launch, no host synchronisation.
//
// 1. select: the best pre_nms_top_n anchors of each level (select_cuda.h); a device sort ranks them.
// 2. decode: they are clipped; those that are too small or not a number get a score that keeps them out.
// 3. nms_cuda takes each level of each image as an image of its own, sorted already, and ends its search at
//    post_nms_top_n.
// 4. merge: a sort of what each image's levels kept; the best post_nms_top_n are written, zeros behind them.
//
// Cost: six readings of batch * num_anchors logits, then NMS of the survivors and two sorts of about as many
// as there are. Numerics: math/box.h in float (float64: double); exp differs from the CPU's in the last
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

// A level has `most` rows, of which it uses the first. A list holds what its NMS kept.
template <typename C>
struct Workspace {
  Selection<C> selection;
  uint64_t* sorted_keys;              // [batch, survivors]
  uint32_t* sorted_anchors;           // [batch, survivors]
  C* boxes;                           // [batch, levels, most, 4]
  C* scores;                          // [batch, levels, most], -1: takes no part
  int64_t* kept;                      // [batch, levels, list]: rows of the level, then -1
  int64_t* num_kept;                  // [batch, levels]
  uint64_t *list_keys, *merged_keys;  // [batch, levels, list]: image and score; float64: score
  uint32_t *list_rows, *merged_rows;  // [batch, levels, list]: rows of the image
  void* nms;
  void* sort;
};

constexpr int64_t kMostLists = 65535;  // images of nms

// The most that a level's NMS keeps.
int64_t list_size(const GenerateProposalsArgs& args, const Levels& levels) {
  return min(levels.most, args.post_nms_top_n);
}

// float32: the segments or images share one sort. float64: the number fills the key, a sort for each.
template <typename C>
constexpr bool kOneSort = sizeof(C) == 4;

template <typename C>
NmsArgs nms_args(const GenerateProposalsArgs& args, const Levels& levels, const Workspace<C>& w) {
  NmsArgs nms{};
  nms.dtype = sizeof(C) == 4 ? DType::float32 : DType::float64;
  nms.boxes = w.boxes;
  nms.scores = w.scores;
  nms.batch = args.batch * levels.count;
  nms.n = levels.most;
  nms.is_sorted = true;
  nms.iou_threshold = args.nms_threshold;
  nms.has_score_threshold = true;
  nms.score_threshold = -0.5;
  nms.max_output = list_size(args, levels);
  nms.indices = w.kept;
  nms.kept = w.num_kept;
  return nms;
}

template <typename C>
Status lay_out(const GenerateProposalsArgs& args, const Levels& levels, WorkspaceCursor& cursor,
               Workspace<C>* workspace) {
  const int64_t survivors = args.batch * levels.survivors, lists = args.batch * levels.count;
  const int64_t rows = lists * levels.most, listed = lists * list_size(args, levels);
  size_t nms_bytes;
  FASTRPN_TRY(nms_workspace_bytes(nms_args(args, levels, Workspace<C>{}), &nms_bytes));
  Workspace<C>& w = *workspace;
  w.selection = Selection<C>::lay_out(args, levels, cursor);
  w.sorted_keys = cursor.take<uint64_t>(survivors);
  w.sorted_anchors = cursor.take<uint32_t>(survivors);
  w.boxes = cursor.take<C>(rows * 4);
  w.scores = cursor.take<C>(rows);
  w.kept = cursor.take<int64_t>(listed);
  w.num_kept = cursor.take<int64_t>(lists);
  w.list_keys = cursor.take<uint64_t>(listed);
  w.merged_keys = cursor.take<uint64_t>(listed);
  w.list_rows = cursor.take<uint32_t>(listed);
  w.merged_rows = cursor.take<uint32_t>(listed);
  w.nms = cursor.take<char>(int64_t(nms_bytes));
  const int64_t of_image = max(levels.survivors, levels.count * list_size(args, levels));
  w.sort = cursor.take<char>(device_sort_workspace_bytes((kOneSort<C> ? args.batch : 1) * of_image));
  return nullptr;
}

template <typename T>
__device__ Box<compute_t<T>> anchor_box(const GenerateProposalsArgs& args, int64_t anchor) {
  if constexpr (sizeof(T) == 2) {
    if (args.anchor_dtype == DType::float32) return load_box(static_cast<const float*>(args.anchors), anchor);
  }
  return load_box(static_cast<const T*>(args.anchors), anchor);
}

// One thread a row of a level.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    proposals_decode_kernel(GenerateProposalsArgs args, Levels levels, Workspace<compute_t<T>> w) {
  using C = compute_t<T>;
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.batch * levels.count * levels.most) return;
  const int64_t list = int(i) / int(levels.most), rank = int(i) % int(levels.most);
  const int64_t image = int(list) / int(levels.count), level = int(list) % int(levels.count);
  Box<C> box{};
  C score = C(-1);
  const int64_t place = levels.first_survivor[level] + rank;
  if (place < levels.first_survivor[level + 1]) {
    const int64_t anchor = w.sorted_anchors[image * levels.survivors + place];
    const int64_t row = image * args.num_anchors + anchor;
    const T* deltas = static_cast<const T*>(args.deltas) + 4 * row;
    const C widened[4] = {widen(deltas[0]), widen(deltas[1]), widen(deltas[2]), widen(deltas[3])};
    const int64_t* height_width = args.image_sizes + 2 * image;
    box = clip_box(decode_box(widened, anchor_box<T>(args, anchor)), C(height_width[1]), C(height_width[0]));
    const C found = sigmoid(widen(static_cast<const T*>(args.objectness)[row]));
    if (is_large_enough(box, C(args.min_size)) && found == found) score = found;
  }
  C* out = w.boxes + 4 * i;
  out[0] = box.x1, out[1] = box.y1, out[2] = box.x2, out[3] = box.y2;
  w.scores[i] = score;
}

// One thread a place of a list.
template <typename C>
__global__ void __launch_bounds__(kThreads)
    proposals_list_kernel(GenerateProposalsArgs args, Levels levels, Workspace<C> w, int size) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.batch * levels.count * size) return;
  const int list = int(i) / size, image = list / int(levels.count), level = list % int(levels.count);
  const int64_t kept = w.kept[i];
  const ScoreKey<C> key = kept < 0 ? ~ScoreKey<C>(0) : descending_key(w.scores[list * levels.most + kept]);
  w.list_keys[i] = kOneSort<C> ? uint64_t(image) << 32 | key : key;
  w.list_rows[i] = uint32_t(level * levels.most + kept);
}

// One thread a proposal of an image. An image's lists, merged, have `size` places.
template <typename C>
__global__ void __launch_bounds__(kThreads)
    proposals_write_kernel(GenerateProposalsArgs args, Levels levels, Workspace<C> w, int64_t size) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.batch * args.post_nms_top_n) return;
  const int64_t image = int(i) / int(args.post_nms_top_n), place = int(i) % int(args.post_nms_top_n);
  const auto exists = [&](int64_t at) {
    return at < min(size, args.post_nms_top_n) &&
           ScoreKey<C>(w.merged_keys[image * size + at]) != ~ScoreKey<C>(0);
  };
  const bool is_proposal = exists(place);
  if (is_proposal && !exists(place + 1)) args.counts[image] = place + 1;
  if (place == 0 && !is_proposal) args.counts[image] = 0;
  const int64_t from =
      is_proposal ? image * levels.count * levels.most + w.merged_rows[image * size + place] : 0;
  C* box = static_cast<C*>(args.proposals) + 4 * i;
  for (int k = 0; k < 4; ++k) box[k] = is_proposal ? w.boxes[4 * from + k] : C(0);
  static_cast<C*>(args.scores)[i] = is_proposal ? w.scores[from] : C(0);
}

unsigned blocks_of(int64_t items) { return unsigned(ceil_div(items, int64_t(kThreads))); }

// Ranks the survivors within their levels.
template <typename C>
Status rank_survivors(const GenerateProposalsArgs& args, const Levels& levels, const Workspace<C>& w,
                      Stream stream) {
  const Selection<C>& from = w.selection;
  const int64_t segments = args.batch * levels.count;
  if constexpr (kOneSort<C>) {
    return device_sort(w.sort, from.keys, w.sorted_keys, from.anchors, w.sorted_anchors,
                       args.batch * levels.survivors, 32 + bits_to_number(segments), stream);
  } else {
    for (int64_t segment = 0; segment < segments; ++segment) {
      const int64_t level = segment % levels.count, first = levels.first_survivor[level];
      const int64_t at = segment / levels.count * levels.survivors + first;
      FASTRPN_TRY(device_sort(w.sort, from.keys + at, w.sorted_keys + at, from.anchors + at,
                              w.sorted_anchors + at, levels.first_survivor[level + 1] - first, 64, stream));
    }
    return nullptr;
  }
}

// Brings the lists of each image into one order: by score, then level, then rank.
template <typename C>
Status merge_lists(const GenerateProposalsArgs& args, const Levels& levels, const Workspace<C>& w,
                   Stream stream) {
  const int64_t of_image = levels.count * list_size(args, levels);
  const int64_t images = kOneSort<C> ? args.batch : 1;  // of a sort
  const int bits = kOneSort<C> ? 32 + bits_to_number(images) : 64;
  for (int64_t image = 0; image < args.batch; image += images) {
    const int64_t at = image * of_image;
    FASTRPN_TRY(device_sort(w.sort, w.list_keys + at, w.merged_keys + at, w.list_rows + at,
                            w.merged_rows + at, images * of_image, bits, stream));
  }
  return nullptr;
}

template <typename T>
Status launch(const GenerateProposalsArgs& args, void* workspace, Stream stream) {
  using C = compute_t<T>;
  const Levels levels(args);
  WorkspaceCursor cursor(workspace);
  Workspace<C> w{};
  FASTRPN_TRY(lay_out(args, levels, cursor, &w));
  const int64_t lists = args.batch * levels.count, size = list_size(args, levels);
  if (levels.survivors > 0) {
    FASTRPN_TRY(launch_selection<T>(args, levels, w.selection, stream));
    FASTRPN_TRY(rank_survivors(args, levels, w, stream));
    const unsigned rows = blocks_of(lists * levels.most), listed = blocks_of(lists * size);
    FASTRPN_TRY(FASTRPN_LAUNCH(proposals_decode_kernel<T>, rows, kThreads, 0, stream, args, levels, w));
    FASTRPN_TRY(nms_cuda(nms_args(args, levels, w), w.nms, stream));
    FASTRPN_TRY(
        FASTRPN_LAUNCH(proposals_list_kernel<C>, listed, kThreads, 0, stream, args, levels, w, int(size)));
    FASTRPN_TRY(merge_lists(args, levels, w, stream));
  }
  const unsigned proposals = blocks_of(args.batch * args.post_nms_top_n);
  return FASTRPN_LAUNCH(proposals_write_kernel<C>, proposals, kThreads, 0, stream, args, levels, w,
                        levels.count * size);
}

template <typename C>
Status workspace_bytes(const GenerateProposalsArgs& args, size_t* bytes) {
  const Levels levels(args);
  WorkspaceCursor cursor(nullptr);
  Workspace<C> w{};
  FASTRPN_TRY(lay_out(args, levels, cursor, &w));
  *bytes = cursor.bytes();
  return nullptr;
}

Status check_limits(const GenerateProposalsArgs& args) {
  if (args.num_levels > kMaxLevels) return "generate_proposals: more than 32 levels";
  if (args.batch * max(args.num_anchors, args.post_nms_top_n) >= int64_t(1) << 31) {
    return "generate_proposals: 2^31 anchors or proposals, or more";
  }
  if (args.batch * args.num_levels > kMostLists)
    return "generate_proposals: more than 65535 levels of images";
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
