// Greedy NMS on CUDA, without a host synchronisation: every launch is known beforehand, and kernels that have
// nothing left to do return at once.
//
// 1. prepare: a key (image, descending score) for each row, rows that do not take part last; a device sort.
// 2. gather: boxes and groups in score order.
// 3. For each chunk of up to kMaxChunk boxes, in score order, all images at once:
//    mask:   which pairs of the chunk suppress each other, one bit a pair, by 64 x 64 tiles;
//    reduce: one block an image walks over the chunk's tiles; a warp decides each tile, the block spreads
//            the decision over the rest of the chunk; kept rows go straight to the output;
//    sweep:  every later box is tested against the boxes the chunk has kept.
//    When an image has max_output boxes, the rest of its work is skipped.
//
// Inside a tile a box is kept if no kept earlier box suppresses it. All 64 are decided together: a box whose
// earlier suppressors are all removed is kept, a box with a kept one is removed, until none is undecided
// (as many rounds as the longest chain of suppressions, 2 to 4 as a rule).
//
// Cost: n log n to sort, chunk * n / 2 + kept * n pair tests. Memory: 60 bytes a box, plus masks of at most
// kMaskBytes. Numerics: the IoU test is the CPU's bit for bit (iou_test.h; compiled without FMA contraction).
#include "core/cuda_runtime.h"
#include "core/device_sort.h"
#include "core/nms/iou_test.h"
#include "core/nms/nms.h"
#include "core/workspace.h"

namespace fastrpn {
namespace {

constexpr int kTile = 64;        // boxes in a tile: the bits of a mask word
constexpr int kMaxChunk = 4096;  // boxes decided between two sweeps
constexpr int kMaxTiles = kMaxChunk / kTile;
constexpr int64_t kMaskBytes = 32 << 20;
constexpr int kThreads = 256;
constexpr int kReduceThreads = 512;
constexpr unsigned kAllLanes = 0xffffffffu;

template <typename C>
struct alignas(16) Candidate {
  Box<C> box;
};

template <typename C>
struct Workspace {
  uint64_t *keys, *sorted_keys;  // [batch, n]
  uint32_t *rows, *sorted_rows;  // [batch, n]: row in the image
  Candidate<C>* boxes;           // [batch, n] in score order
  int64_t* groups;               // [batch, n] in score order; null without groups
  uint32_t* removed;             // [batch, 2 * tiles of n]: bits of suppressed boxes
  int64_t* valid;                // [batch]: boxes that take part
  uint64_t* masks;               // [batch, chunk, chunk / kTile]
  uint32_t* chunk_kept;          // [batch, chunk]: places in score order that the chunk kept
  int* num_chunk_kept;           // [batch]
  void* sort;
};

template <typename C>
constexpr int key_bits = sizeof(C) * 8;

// Words of 32 bits for one image, a whole number of tiles.
FASTRPN_HD int64_t removed_words(int64_t n) { return ceil_div(n, int64_t(kTile)) * 2; }

// Chunk size: as large as the masks of the whole batch allow.
int64_t chunk_of(const NmsArgs& args) {
  int64_t chunk = min(int64_t(kMaxChunk), ceil_div(args.n, int64_t(kTile)) * kTile);
  while (chunk > kTile && args.batch * chunk * chunk / 8 > kMaskBytes)
    chunk = ceil_div(chunk / 2, int64_t(kTile)) * kTile;
  return chunk;
}

// Images sorted together: all, if the image fits into the key beside the score.
template <typename C>
int64_t images_per_sort(const NmsArgs& args) {
  return sizeof(C) == 4 ? args.batch : 1;
}

template <typename C>
Workspace<C> lay_out(const NmsArgs& args, WorkspaceCursor& cursor) {
  const int64_t total = args.batch * args.n, chunk = chunk_of(args);
  Workspace<C> w{};
  w.keys = cursor.take<uint64_t>(total);
  w.sorted_keys = cursor.take<uint64_t>(total);
  w.rows = cursor.take<uint32_t>(total);
  w.sorted_rows = cursor.take<uint32_t>(total);
  w.boxes = cursor.take<Candidate<C>>(total);
  w.groups = cursor.take<int64_t>(total);  // room for them in any case: the size depends on no pointer
  if (args.groups == nullptr) w.groups = nullptr;
  w.removed = cursor.take<uint32_t>(args.batch * removed_words(args.n));
  w.valid = cursor.take<int64_t>(args.batch);
  w.masks = cursor.take<uint64_t>(args.batch * chunk * (chunk / kTile));
  w.chunk_kept = cursor.take<uint32_t>(args.batch * chunk);
  w.num_chunk_kept = cursor.take<int>(args.batch);
  w.sort = cursor.take<char>(int64_t(device_sort_workspace_bytes(images_per_sort<C>(args) * args.n)));
  return w;
}

// One thread a row, and the outputs' fill.
template <typename T>
__global__ void __launch_bounds__(kThreads) prepare_kernel(NmsArgs args, Workspace<compute_t<T>> w) {
  using C = compute_t<T>;
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < args.batch * args.max_output) args.indices[i] = -1;
  if (i < args.batch) args.kept[i] = w.valid[i] = 0;
  if (i < args.batch * removed_words(args.n)) w.removed[i] = 0;
  if (i >= args.batch * args.n) return;

  const int n = int(args.n), image = int(i) / n, row = int(i) % n;
  const C score = widen(static_cast<const T*>(args.scores)[i]);
  const bool counted = args.counts == nullptr || row < args.counts[image];
  const bool takes_part = counted && (!args.has_score_threshold || double(score) > args.score_threshold);
  auto key = descending_key(score);
  if (!takes_part) key = ~decltype(key)(0);
  w.keys[i] = sizeof(C) == 4 ? uint64_t(image) << 32 | key : key;
  w.rows[i] = uint32_t(row);
}

// One thread a place in score order.
template <typename T>
__global__ void __launch_bounds__(kThreads) gather_kernel(NmsArgs args, Workspace<compute_t<T>> w) {
  using C = compute_t<T>;
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.batch * args.n) return;
  const int n = int(args.n), place = int(i) % n;
  const int64_t image = int(i) / n;
  constexpr uint64_t kScoreBits = sizeof(C) == 4 ? 0xffffffffu : ~uint64_t(0);
  const auto takes_part = [&](int64_t at) { return (w.sorted_keys[at] & kScoreBits) != kScoreBits; };
  if (!takes_part(i)) return;
  if (place == args.n - 1 || !takes_part(i + 1)) w.valid[image] = place + 1;

  const int64_t row = image * args.n + w.sorted_rows[i];
  w.boxes[i].box = load_box(static_cast<const T*>(args.boxes), row);
  if (w.groups != nullptr) w.groups[i] = args.groups[row];
}

template <typename C>
struct Chunk {
  int64_t begin, size;  // places [begin, begin + size) of every image; size is a multiple of kTile
  IouTest<C> test;
};

template <typename C>
__device__ __forceinline__ bool is_finished(const NmsArgs& args, const Workspace<C>& w, int64_t image,
                                            int64_t place) {
  return place >= w.valid[image] || args.kept[image] >= args.max_output;
}

// grid: x over column tiles of the chunk, y over row tiles, z over images; nothing below the diagonal. Four
// threads a row, each testing every fourth column. Above the diagonal a row's word says which columns it
// suppresses; on it, which earlier boxes of the tile suppress the row.
template <typename C>
__global__ void __launch_bounds__(4 * kTile) mask_kernel(NmsArgs args, Workspace<C> w, Chunk<C> chunk) {
  const int64_t image = blockIdx.z;
  const int column_tile = blockIdx.x, row_tile = blockIdx.y;
  if (row_tile > column_tile) return;
  const int64_t first_column = chunk.begin + column_tile * kTile;
  if (is_finished(args, w, image, first_column)) return;

  const Candidate<C>* boxes = w.boxes + image * args.n;
  const int64_t* groups = w.groups == nullptr ? nullptr : w.groups + image * args.n;
  const int columns = int(min(int64_t(kTile), w.valid[image] - first_column));
  __shared__ Candidate<C> tile_boxes[kTile];
  __shared__ int64_t tile_groups[kTile];
  if (int(threadIdx.x) < columns) {
    tile_boxes[threadIdx.x] = boxes[first_column + threadIdx.x];
    tile_groups[threadIdx.x] = groups == nullptr ? 0 : groups[first_column + threadIdx.x];
  }
  __syncthreads();

  const int row = threadIdx.x / 4;
  const int64_t place = chunk.begin + row_tile * kTile + row;
  uint64_t word = 0;
  if (place < w.valid[image]) {
    const Box<C> box = boxes[place].box;
    const C area = box_area(box);
    const int64_t group = groups == nullptr ? 0 : groups[place];
    const int end = row_tile == column_tile ? row : columns;
    for (int column = threadIdx.x % 4; column < end; column += 4) {
      const Box<C> other = tile_boxes[column].box;
      const bool hit = tile_groups[column] == group && chunk.test(box, area, other, box_area(other));
      word |= uint64_t(hit) << column;
    }
  }
  word |= __shfl_xor_sync(kAllLanes, word, 1);
  word |= __shfl_xor_sync(kAllLanes, word, 2);
  if (threadIdx.x % 4 == 0) {
    const int64_t tiles = chunk.size / kTile;
    w.masks[(image * chunk.size + row_tile * kTile + row) * tiles + column_tile] = word;
  }
}

// Decides a tile; called by a whole warp. `candidates`: boxes not suppressed from outside. `low`, `high`:
// which earlier boxes of the tile suppress box `lane` and box `lane + 32`. Returns the kept boxes to every
// lane.
__device__ uint64_t decide_tile(uint64_t candidates, uint64_t low, uint64_t high) {
  uint64_t undecided = candidates, kept = 0;
  while (undecided != 0) {
    const uint64_t open = undecided, chosen = kept;
    const auto is_removed = [&](uint64_t suppressors) { return (suppressors & chosen) != 0; };
    const auto is_kept = [&](uint64_t suppressors) { return (suppressors & (open | chosen)) == 0; };
    const uint64_t now_kept = uint64_t(__ballot_sync(kAllLanes, is_kept(low))) |
                              uint64_t(__ballot_sync(kAllLanes, is_kept(high))) << 32;
    const uint64_t now_removed = uint64_t(__ballot_sync(kAllLanes, is_removed(low))) |
                                 uint64_t(__ballot_sync(kAllLanes, is_removed(high))) << 32;
    kept |= now_kept & open;
    undecided &= ~(now_kept | now_removed);
  }
  return kept;
}

// The lowest `count` set bits.
__device__ uint64_t lowest_bits(uint64_t bits, int64_t count) {
  uint64_t rest = bits;
  for (; count > 0 && rest != 0; --count) rest &= rest - 1;
  return bits & ~rest;
}

// One block an image.
template <typename C>
__global__ void __launch_bounds__(kReduceThreads)
    reduce_kernel(NmsArgs args, Workspace<C> w, Chunk<C> chunk) {
  const int64_t image = blockIdx.x;
  if (is_finished(args, w, image, chunk.begin)) {
    if (threadIdx.x == 0) w.num_chunk_kept[image] = 0;
    return;
  }
  __shared__ unsigned long long removed[kMaxTiles];
  __shared__ uint64_t tile_kept;
  const int stride = int(chunk.size / kTile);
  const int64_t valid = w.valid[image] - chunk.begin;
  const int tiles = int(min(int64_t(stride), ceil_div(valid, int64_t(kTile))));
  const uint64_t* masks = w.masks + image * chunk.size * stride;
  const uint32_t* removed_before = w.removed + image * removed_words(args.n) + chunk.begin / 32;
  const int64_t kept_before = args.kept[image];
  const int thread = threadIdx.x;
  if (thread < tiles) {
    removed[thread] = removed_before[2 * thread] | uint64_t(removed_before[2 * thread + 1]) << 32;
  }
  __syncthreads();

  int64_t kept = kept_before;
  for (int tile = 0; tile < tiles && kept < args.max_output; ++tile) {
    if (thread < 32) {
      const uint64_t* diagonal = masks + int64_t(tile) * kTile * stride + tile;
      const int64_t boxes = valid - tile * kTile;
      const uint64_t present = boxes >= kTile ? ~uint64_t(0) : (uint64_t(1) << boxes) - 1;
      const uint64_t chosen =
          decide_tile(present & ~removed[tile], diagonal[thread * stride], diagonal[(thread + 32) * stride]);
      if (thread == 0) tile_kept = lowest_bits(chosen, args.max_output - kept);
    }
    __syncthreads();
    const uint64_t chosen = tile_kept;
    if (thread < kTile && (chosen >> thread & 1)) {
      const int64_t rank = kept + __popcll(chosen & ((uint64_t(1) << thread) - 1));
      const int64_t place = chunk.begin + tile * kTile + thread;
      args.indices[image * args.max_output + rank] = w.sorted_rows[image * args.n + place];
      w.chunk_kept[image * chunk.size + rank - kept_before] = uint32_t(place);
    }
    // Eight threads a later tile, each joining eight rows.
    for (int item = thread; item < (tiles - tile - 1) * 8; item += kReduceThreads) {
      const int later = tile + 1 + item % (tiles - tile - 1), first_row = item / (tiles - tile - 1) * 8;
      uint64_t word = 0;
      for (int row = first_row; row < first_row + 8; ++row) {
        if (chosen >> row & 1) word |= masks[(int64_t(tile) * kTile + row) * stride + later];
      }
      if (word != 0) atomicOr(&removed[later], word);
    }
    kept += __popcll(chosen);
    __syncthreads();
  }
  if (thread == 0) {
    args.kept[image] = kept;
    w.num_chunk_kept[image] = int(kept - kept_before);
  }
}

// grid: x over boxes behind the chunk, one thread each, y over images.
template <typename C>
__global__ void __launch_bounds__(kThreads) sweep_kernel(NmsArgs args, Workspace<C> w, Chunk<C> chunk) {
  const int64_t image = blockIdx.y;
  const int64_t first = chunk.begin + chunk.size + int64_t(blockIdx.x) * kThreads;
  if (is_finished(args, w, image, first)) return;
  const Candidate<C>* boxes = w.boxes + image * args.n;
  const int64_t* groups = w.groups == nullptr ? nullptr : w.groups + image * args.n;
  const int num_kept = w.num_chunk_kept[image];
  __shared__ Candidate<C> kept_boxes[kThreads];
  __shared__ int64_t kept_groups[kThreads];

  const int64_t place = first + threadIdx.x;
  uint32_t* removed = w.removed + image * removed_words(args.n);
  bool is_removed = place >= w.valid[image] || (removed[place / 32] >> (place % 32) & 1);
  const bool was_removed = is_removed;
  const Box<C> box = is_removed ? Box<C>{} : boxes[place].box;
  const C area = box_area(box);
  const int64_t group = is_removed || groups == nullptr ? 0 : groups[place];

  for (int begin = 0; begin < num_kept; begin += kThreads) {
    const int count = min(kThreads, num_kept - begin);
    if (int(threadIdx.x) < count) {
      const int64_t kept = w.chunk_kept[image * chunk.size + begin + threadIdx.x];
      kept_boxes[threadIdx.x] = boxes[kept];
      kept_groups[threadIdx.x] = groups == nullptr ? 0 : groups[kept];
    }
    __syncthreads();
    for (int k = 0; k < count && !is_removed; ++k) {
      const Box<C> other = kept_boxes[k].box;
      is_removed = kept_groups[k] == group && chunk.test(other, box_area(other), box, area);
    }
    if (__syncthreads_and(is_removed)) break;
  }
  const unsigned newly_removed = __ballot_sync(kAllLanes, is_removed && !was_removed);
  if (threadIdx.x % 32 == 0 && newly_removed != 0) removed[place / 32] |= newly_removed;
}

template <typename T>
Status launch(const NmsArgs& args, void* workspace, Stream stream) {
  using C = compute_t<T>;
  WorkspaceCursor cursor(workspace);
  const Workspace<C> w = lay_out<C>(args, cursor);
  const int64_t total = args.batch * args.n;
  const int64_t outputs = max(args.batch, args.batch * args.max_output);
  const auto blocks = [](int64_t items) { return unsigned(ceil_div(items, int64_t(kThreads))); };
  FASTRPN_LAUNCH(prepare_kernel<T>, blocks(max(total, outputs)), kThreads, 0, stream, args, w);
  if (total == 0 || args.max_output == 0) return launch_status();

  const int64_t images = images_per_sort<C>(args);
  int bits = key_bits<C>;
  while (images > 1 && (images - 1) >> (bits - 32) != 0) ++bits;
  for (int64_t image = 0; image < args.batch; image += images) {
    const int64_t at = image * args.n;
    const Status status = device_sort(w.sort, w.keys + at, w.sorted_keys + at, w.rows + at,
                                      w.sorted_rows + at, images * args.n, bits, stream);
    if (status != nullptr) return status;
  }
  FASTRPN_LAUNCH(gather_kernel<T>, blocks(total), kThreads, 0, stream, args, w);

  Chunk<C> chunk{0, chunk_of(args), IouTest<C>(args.iou_threshold)};
  const unsigned tiles = unsigned(chunk.size / kTile), batch = unsigned(args.batch);
  for (; chunk.begin < args.n; chunk.begin += chunk.size) {
    FASTRPN_LAUNCH(mask_kernel<C>, dim3(tiles, tiles, batch), 4 * kTile, 0, stream, args, w, chunk);
    FASTRPN_LAUNCH(reduce_kernel<C>, batch, kReduceThreads, 0, stream, args, w, chunk);
    const int64_t later = args.n - chunk.begin - chunk.size;
    if (later > 0)
      FASTRPN_LAUNCH(sweep_kernel<C>, dim3(blocks(later), batch), kThreads, 0, stream, args, w, chunk);
  }
  return launch_status();
}

}  // namespace

size_t nms_workspace_bytes(const NmsArgs& args) {
  WorkspaceCursor cursor(nullptr);
  args.dtype == DType::float64 ? (void)lay_out<double>(args, cursor) : (void)lay_out<float>(args, cursor);
  return cursor.bytes();
}

Status nms_cuda(const NmsArgs& args, void* workspace, Stream stream) {
  if (args.batch == 0) return nullptr;
  if (args.batch > 65535) return "nms: more than 65535 images";
  if (args.batch * args.n >= int64_t(1) << 31) return "nms: 2^31 boxes or more";
  return dispatch(args.dtype,
                  [&](auto tag) { return launch<typename decltype(tag)::type>(args, workspace, stream); });
}

}  // namespace fastrpn
