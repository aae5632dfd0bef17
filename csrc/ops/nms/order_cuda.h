// Brings the boxes into descending order of score (ties by row), those that take no part last. Few boxes are
// ranked by counting, in one launch; many are sorted, unless they come so.
//
// Of very many, a second sort, by position, lets near boxes lie side by side in the sweeps.
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

// The place that a row has found, and what later kernels add to there.
template <typename T>
__device__ void put_in_place(const NmsArgs& args, const Workspace<compute_t<T>>& w, int64_t image,
                             int64_t row, int64_t place) {
  const int64_t from = image * args.n + row, to = image * args.n + place;
  w.sorted_rows[to] = uint32_t(row);
  w.boxes[to].box = load_box(static_cast<const T*>(args.boxes), from);
  if (w.groups != nullptr) w.groups[to] = args.groups[from];
  w.states[to] = kOpen;
  w.summaries[to] = 0;
}

// Called by all threads of a grid: no output yet. Of an image with segments the chunks have nothing to do,
// until nms_segment_kernel meets a large group.
template <typename C>
__device__ void clear_output(const NmsArgs& args, const Workspace<C>& w) {
  const int64_t threads = int64_t(gridDim.x) * gridDim.y * kThreads;
  const int64_t thread = (int64_t(blockIdx.y) * gridDim.x + blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t i = thread; i < args.batch * args.max_output; i += threads) args.indices[i] = -1;
  for (int64_t i = thread; i < args.batch; i += threads) {
    args.kept[i] = w.sizes == nullptr ? 0 : args.max_output;
  }
}

// grid: x over groups of kRankRows rows, y over images. A row's place is the number of keys before its own.
template <typename T>
__global__ void __launch_bounds__(kThreads) nms_rank_kernel(NmsArgs args, Workspace<compute_t<T>> w) {
  using C = compute_t<T>;
  __shared__ ScoreKey<C> keys[kThreads];
  clear_output(args, w);
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
  if (mine != kTakesNoPart<C>) put_in_place<T>(args, w, image, row, before);
}

// The row or place of a thread; grid: x over them, y over images.
__device__ __forceinline__ int64_t index_of_thread() { return int64_t(blockIdx.x) * kThreads + threadIdx.x; }

// One thread a row: the key (image, score). float64: the score fills it, and each image is sorted by itself.
template <typename T>
__global__ void __launch_bounds__(kThreads) nms_key_kernel(NmsArgs args, Workspace<compute_t<T>> w) {
  const int64_t image = blockIdx.y, row = index_of_thread(), i = image * args.n + row;
  if (w.sizes != nullptr && row < kCodes) w.sizes[image * kCodes + row] = 0;
  if (row >= args.n) return;
  const uint64_t key = score_key<T>(args, image, row);
  w.keys[i] = sizeof(compute_t<T>) == 4 ? uint64_t(image) << 32 | key : key;
  w.rows[i] = uint32_t(row);
}

// Groups that differ may share a code; that costs time, never correctness. A hundred neighbouring numbers
// share none.
__device__ __forceinline__ uint8_t group_code(int64_t group) {
  static_assert(kCodes == 256, "a code is a byte");
  return uint8_t(uint64_t(group) * 0x9e3779b97f4a7c15u >> 56);
}

// Called by a whole block: adds its boxes to the sizes of their codes.
template <typename C>
__device__ void count_codes(const Workspace<C>& w, int64_t image, int64_t i, bool takes_part) {
  __shared__ unsigned counts[kCodes];
  for (int code = int(threadIdx.x); code < kCodes; code += kThreads) counts[code] = 0;
  __syncthreads();
  if (takes_part) {
    w.codes[i] = group_code(w.groups[i]);
    atomicAdd(&counts[w.codes[i]], 1u);
  }
  __syncthreads();
  for (int code = int(threadIdx.x); code < kCodes; code += kThreads) {
    if (counts[code] > 0) atomicAdd(&w.sizes[image * kCodes + code], counts[code]);
  }
}

// One thread a place of the sorted rows. Rows that came sorted keep their places, and those of them that take
// no part are removed.
template <typename T>
__global__ void __launch_bounds__(kThreads) nms_gather_kernel(NmsArgs args, Workspace<compute_t<T>> w) {
  using C = compute_t<T>;
  clear_output(args, w);
  const int64_t image = blockIdx.y, place = index_of_thread(), i = image * args.n + place;
  const auto takes_part = [&](int64_t at) {
    if (at >= args.n) return false;
    return args.is_sorted || ScoreKey<C>(w.sorted_keys[image * args.n + at]) != kTakesNoPart<C>;
  };
  const bool is_there = takes_part(place);
  if (is_there) {
    put_in_place<T>(args, w, image, args.is_sorted ? place : w.sorted_rows[i], place);
    if (args.is_sorted && score_key<T>(args, image, place) == kTakesNoPart<C>) w.states[i] = kRemoved;
    if (!takes_part(place + 1)) w.valid[image] = place + 1;
  }
  if (place == 0 && !is_there) w.valid[image] = 0;
  if (w.sizes != nullptr) count_codes(w, image, i, is_there);
}

// One thread a place: the key (image, position).
template <typename C>
__global__ void __launch_bounds__(kThreads) nms_position_kernel(NmsArgs args, Workspace<C> w) {
  const int64_t image = blockIdx.y, place = index_of_thread(), i = image * args.n + place;
  if (place >= args.n) return;
  uint32_t key = ~0u;
  if (place < w.valid[image]) key = descending_key(float(w.boxes[i].box.x1 + w.boxes[i].box.x2));
  w.keys[i] = uint64_t(image) << 32 | key;
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

// Blocks with a thread for each box.
dim3 all_boxes(const NmsArgs& args) {
  return {unsigned(ceil_div(args.n, int64_t(kThreads))), unsigned(args.batch)};
}

template <typename T>
Status launch_order(const NmsArgs& args, const Workspace<compute_t<T>>& w, Stream stream) {
  using C = compute_t<T>;
  const dim3 grid = all_boxes(args);
  if (!args.is_sorted && ranks_by_counting(args)) {
    const dim3 rows(unsigned(ceil_div(args.n, int64_t(kRankRows))), unsigned(args.batch));
    return FASTRPN_LAUNCH(nms_rank_kernel<T>, rows, kThreads, 0, stream, args, w);
  }
  if (!args.is_sorted) {
    FASTRPN_TRY(FASTRPN_LAUNCH(nms_key_kernel<T>, grid, kThreads, 0, stream, args, w));
    FASTRPN_TRY(sort_images(args, w, w.sorted_rows, score_bits<C>, stream));
  }
  FASTRPN_TRY(FASTRPN_LAUNCH(nms_gather_kernel<T>, grid, kThreads, 0, stream, args, w));
  if (w.order == nullptr) return nullptr;
  FASTRPN_TRY(FASTRPN_LAUNCH(nms_position_kernel<C>, grid, kThreads, 0, stream, args, w));
  return sort_images(args, w, w.order, 32, stream);
}

}  // namespace
}  // namespace fastrpn
