// Brings the boxes into descending order of score (ties by row), those that take no part last. Few boxes are
// ranked by counting, in one launch; many are sorted, unless they come so.
//
// Another order, for segments and sweeps, is by code of the group, then by position, so that near boxes lie
// side by side; but small segments (segment_cuda.h) keep the order of score. An index of it is a slot.
#pragma once

#include "math/score_key.h"
#include "ops/nms/workspace_cuda.h"

namespace fastrpn {
namespace {

constexpr int kThreadsPerRow = 8;  // of nms_rank_kernel
constexpr int kRankRows = kThreads / kThreadsPerRow;

template <typename C>
constexpr int score_bits = sizeof(C) * 8;
template <typename C>
constexpr ScoreKey<C> kTakesNoPart = ~ScoreKey<C>(0);

template <typename T>
__device__ ScoreKey<compute_t<T>> score_key(const NmsArgs& args, int64_t image, int64_t row) {
  const compute_t<T> score = widen(static_cast<const T*>(args.scores)[image * args.n + row]);
  const bool counted = args.counts == nullptr || row < args.counts[image];
  const bool takes_part =
      counted && (!args.has_score_threshold || score > as_element<T>(args.score_threshold));
  return takes_part ? descending_key(score) : kTakesNoPart<compute_t<T>>;
}

template <typename T>
__device__ void put_in_place(const NmsArgs& args, const Workspace<compute_t<T>>& w, int64_t image,
                             int64_t row, int64_t place) {
  const int64_t from = image * args.n + row, to = image * args.n + place;
  w.boxes[to].box = load_box(static_cast<const T*>(args.boxes), from);
  if (w.groups != nullptr) w.groups[to] = args.groups[from];
}

// Groups that differ may share a code; that costs time, never correctness. Neighbouring numbers have codes
// far apart.
__device__ __forceinline__ unsigned group_code(int64_t group) {
  return unsigned(uint64_t(group) * 0x9e3779b97f4a7c15u >> (64 - kCodeBits));
}

// Whatever later kernels add to. Called by all threads of a grid.
template <typename C>
__device__ void clear(const NmsArgs& args, const Workspace<C>& w) {
  const int64_t threads = int64_t(gridDim.x) * gridDim.y * kThreads;
  const int64_t thread = (int64_t(blockIdx.y) * gridDim.x + blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t i = thread; i < args.batch * args.max_output; i += threads) args.indices[i] = -1;
  for (int64_t i = thread; i < args.batch; i += threads) args.kept[i] = 0;
  for (int64_t i = thread; i < args.batch * args.n; i += threads) {
    w.states[i] = kOpen;
    w.summaries[i] = 0;
  }
}

// grid: x over groups of kRankRows rows, y over images. A row's place is the number of keys before its own.
template <typename T>
__global__ void __launch_bounds__(kThreads) nms_rank_kernel(NmsArgs args, Workspace<compute_t<T>> w) {
  using C = compute_t<T>;
  __shared__ ScoreKey<C> keys[kThreads];
  clear(args, w);
  const int64_t image = blockIdx.y;
  const int n = int(args.n), row = int(blockIdx.x) * kRankRows + int(threadIdx.x) / kThreadsPerRow;
  const ScoreKey<C> mine = row < n ? score_key<T>(args, image, row) : kTakesNoPart<C>;
  int before = 0, taking_part = 0;
  for (int first = 0; first < n; first += kThreads) {
    const int staged = first + int(threadIdx.x);
    keys[threadIdx.x] = staged < n ? score_key<T>(args, image, staged) : kTakesNoPart<C>;
    __syncthreads();
    for (int k = int(threadIdx.x) % kThreadsPerRow; k < kThreads; k += kThreadsPerRow) {
      before += keys[k] < mine || (keys[k] == mine && first + k < row);
      taking_part += keys[k] != kTakesNoPart<C>;
    }
    __syncthreads();
  }
  for (int step = 1; step < kThreadsPerRow; step *= 2) {
    before += __shfl_xor_sync(kAllLanes, before, step);
    taking_part += __shfl_xor_sync(kAllLanes, taking_part, step);
  }
  if (threadIdx.x % kThreadsPerRow != 0) return;
  if (row == 0) w.valid[image] = taking_part;
  if (mine == kTakesNoPart<C>) return;
  w.sorted_rows[image * n + before] = uint32_t(row);
  put_in_place<T>(args, w, image, row, before);
}

// One thread a row, where rows are sorted: each has its own place, and those that take no part are removed.
template <typename T>
__global__ void __launch_bounds__(kThreads) nms_take_kernel(NmsArgs args, Workspace<compute_t<T>> w) {
  using C = compute_t<T>;
  clear(args, w);
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;  // the same that this thread has cleared
  if (i < args.batch) w.valid[i] = args.n;
  if (i >= args.batch * args.n) return;
  const int64_t image = int(i) / int(args.n), row = int(i) % int(args.n);
  if (score_key<T>(args, image, row) == kTakesNoPart<C>) w.states[i] = kRemoved;
  w.sorted_rows[i] = uint32_t(row);
  put_in_place<T>(args, w, image, row, row);
}

// One thread a row: the key (image, score). float64: the score fills it, and each image is sorted by itself.
template <typename T>
__global__ void __launch_bounds__(kThreads) nms_key_kernel(NmsArgs args, Workspace<compute_t<T>> w) {
  clear(args, w);
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < args.batch) w.valid[i] = 0;
  if (w.sizes != nullptr) {
    if (i < args.batch) args.kept[i] = args.max_output;  // nothing to do for chunks (nms_position_kernel)
    if (i < args.batch * kCodes) w.sizes[i] = 0;
  }
  if (i >= args.batch * args.n) return;
  const int64_t image = int(i) / int(args.n), row = int(i) % int(args.n);
  const uint64_t key = score_key<T>(args, image, row);
  w.keys[i] = sizeof(compute_t<T>) == 4 ? uint64_t(image) << 32 | key : key;
  w.rows[i] = uint32_t(row);
}

// Called by a warp: each lane that `counts` adds one to a counter. Where groups are few, most have the same
// one, and a lane adds for all of them.
__device__ void count_boxes(unsigned* counters, int64_t counter, bool counts) {
  const unsigned counting = __ballot_sync(kAllLanes, counts);
  if (counting == 0) return;
  const int first = __ffs(int(counting)) - 1, lane = int(threadIdx.x) % 32;
  const int64_t its = __shfl_sync(kAllLanes, counter, first);
  const bool is_common = counts && counter == its;
  const unsigned common = __ballot_sync(kAllLanes, is_common);
  if (lane == first) atomicAdd(&counters[counter], unsigned(__popc(common)));
  if (counts && !is_common) atomicAdd(&counters[counter], 1u);
}

// One thread a place of the sorted rows.
template <typename T>
__global__ void __launch_bounds__(kThreads) nms_gather_kernel(NmsArgs args, Workspace<compute_t<T>> w) {
  using C = compute_t<T>;
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const auto takes_part = [&](int64_t at) {
    return at < args.batch * args.n && ScoreKey<C>(w.sorted_keys[at]) != kTakesNoPart<C>;
  };
  const bool is_there = takes_part(i);
  const int64_t image = int(i) / int(args.n), place = int(i) % int(args.n);
  if (is_there) {
    if (place == args.n - 1 || !takes_part(i + 1)) w.valid[image] = place + 1;
    put_in_place<T>(args, w, image, w.sorted_rows[i], place);
  }
  if (w.sizes == nullptr) return;
  count_boxes(w.sizes, image * kCodes + group_code(is_there ? w.groups[i] : 0), is_there);
}

// Of the other order's key, from the lowest bit: position, code, image. A sort takes a pass for every eight.
FASTRPN_HD int position_bits(const NmsArgs& args) { return sweeps_in_order(args) ? 32 : 0; }
template <typename C>
FASTRPN_HD int order_bits(const NmsArgs& args, const Workspace<C>& w) {
  return position_bits(args) + (w.groups == nullptr ? 0 : kCodeBits);
}

// One thread a place: its key.
template <typename C>
__global__ void __launch_bounds__(kThreads) nms_position_kernel(NmsArgs args, Workspace<C> w) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.batch * args.n) return;
  const int64_t image = int(i) / int(args.n), place = int(i) % int(args.n);
  const int bits = order_bits(args, w);
  uint64_t key = (uint64_t(1) << bits) - 1;
  if (place < w.valid[image]) {
    const Box<C> box = w.boxes[i].box;
    const uint64_t code = w.groups == nullptr ? 0 : group_code(w.groups[i]);
    const bool is_small = w.sizes != nullptr && w.sizes[image * kCodes + code] <= largest_segment(args);
    key = code << position_bits(args);
    if (!is_small && sweeps_in_order(args)) key |= descending_key(float(box.x1 + box.x2));
    if (!is_small && w.sizes != nullptr) args.kept[image] = 0;  // its chunks have something to do
  }
  w.keys[i] = uint64_t(image) << bits | key;
  w.rows[i] = uint32_t(place);
}

// Sorts w.keys, and w.rows with them, within each image; `bits` of a key lie below the image.
template <typename C>
Status sort_images(const NmsArgs& args, const Workspace<C>& w, uint32_t* sorted, int bits, Stream stream) {
  const int64_t images = images_per_sort<C>(args);
  bits += bits_to_number(images);
  for (int64_t at = 0; at < args.batch * args.n; at += images * args.n) {
    FASTRPN_TRY(device_sort(w.sort, w.keys + at, w.sorted_keys + at, w.rows + at, sorted + at,
                            images * args.n, bits, stream));
  }
  return nullptr;
}

template <typename T>
Status launch_order(const NmsArgs& args, const Workspace<compute_t<T>>& w, Stream stream) {
  using C = compute_t<T>;
  const unsigned blocks = unsigned(ceil_div(args.batch * args.n, int64_t(kThreads)));
  if (!args.is_sorted && ranks_by_counting(args)) {
    const dim3 grid(unsigned(ceil_div(args.n, int64_t(kRankRows))), unsigned(args.batch));
    return FASTRPN_LAUNCH(nms_rank_kernel<T>, grid, kThreads, 0, stream, args, w);
  }
  if (args.is_sorted) {
    FASTRPN_TRY(FASTRPN_LAUNCH(nms_take_kernel<T>, blocks, kThreads, 0, stream, args, w));
  } else {
    FASTRPN_TRY(FASTRPN_LAUNCH(nms_key_kernel<T>, blocks, kThreads, 0, stream, args, w));
    FASTRPN_TRY(sort_images(args, w, w.sorted_rows, score_bits<C>, stream));
    FASTRPN_TRY(FASTRPN_LAUNCH(nms_gather_kernel<T>, blocks, kThreads, 0, stream, args, w));
  }
  if (w.order == nullptr) return nullptr;
  FASTRPN_TRY(FASTRPN_LAUNCH(nms_position_kernel<C>, blocks, kThreads, 0, stream, args, w));
  return sort_images(args, w, w.order, order_bits(args, w), stream);
}

}  // namespace
}  // namespace fastrpn
