// What the CUDA kernels of nms share: sizes, the workspace and when an image is done.
#pragma once

#include "cuda/iou_test.h"
#include "cuda/runtime.h"
#include "cuda/sort.h"
#include "cuda/workspace.h"
#include "ops/nms/nms.h"

namespace fastrpn {
namespace {

constexpr int kTileBoxes = 64;   // boxes in a tile: the bits of a mask word
constexpr int kMaxChunk = 4096;  // boxes decided between two sweeps
constexpr int kMaxTiles = kMaxChunk / kTileBoxes;
constexpr int64_t kMaskBytes = 32 << 20;
constexpr int kThreads = 256;

template <typename C>
struct alignas(16) Candidate {
  Box<C> box;
};

// A "place" is the index of a box in its image's descending order of scores.
template <typename C>
struct Workspace {
  uint64_t *keys, *sorted_keys;   // [batch, n]
  uint32_t *rows, *sorted_rows;   // [batch, n]: row in the image; sorted_rows by place
  uint32_t* order;                // [batch, n]: places, near boxes side by side; null: by place
  Candidate<C>* boxes;            // [batch, n] by place
  int64_t* groups;                // [batch, n] by place; null without groups
  uint8_t* removed;               // [batch, n] by place: suppressed by a box of an earlier chunk
  unsigned long long* summaries;  // [batch, n] by place: which tiles of the chunk suppress the box
  int64_t* valid;                 // [batch]: boxes that take part; they have the first places
  uint64_t* masks;                // [batch, chunk, tiles]: which boxes of a tile suppress the box
  uint32_t* chunk_kept;           // [batch, chunk]: places that the chunk kept
  int* num_chunk_kept;            // [batch]
  void* sort;                     // as much as sort_bytes says; last, so that its size moves nothing
};

// Places [begin, begin + size) of every image; size is a multiple of kTileBoxes.
template <typename C>
struct Chunk {
  int64_t begin, size;
  IouTest<C> test;
};

// The largest chunk: as large as the masks of the whole batch allow.
int64_t chunk_of(const NmsArgs& args) {
  int64_t chunk = min(int64_t(kMaxChunk), ceil_div(args.n, int64_t(kTileBoxes)) * kTileBoxes);
  while (chunk > kTileBoxes && args.batch * chunk * chunk / 8 > kMaskBytes)
    chunk = ceil_div(chunk / 2, int64_t(kTileBoxes)) * kTileBoxes;
  return chunk;
}

// Where a search that ends at max_output boxes will likely end in the first chunk, that one is small: the
// pairs of a chunk grow with its square. Each chunk is twice the one before, up to the largest. A few pairs
// are not worth the launches of another chunk.
int64_t first_chunk_of(const NmsArgs& args) {
  const int64_t largest = chunk_of(args);
  if (args.batch * largest * largest < kMaxChunk * kMaxChunk) return largest;
  return min(largest, ceil_div(4 * args.max_output, int64_t(kTileBoxes)) * kTileBoxes);
}

// One launch that counts smaller keys, n * n comparisons, takes the place of a sort's eight or so.
bool ranks_by_counting(const NmsArgs& args) {
  return args.n <= kMaxChunk && args.batch * args.n <= 8 * kMaxChunk;
}

// So many that the pairs which another sort rules out cost more than the sort.
bool sweeps_in_order(const NmsArgs& args) { return args.n > 4 * kMaxChunk; }

// Whether keys are sorted at all.
bool sorts(const NmsArgs& args) {
  return sweeps_in_order(args) || !(args.is_sorted || ranks_by_counting(args));
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
  w.sorted_rows = cursor.take<uint32_t>(total);
  w.boxes = cursor.take<Candidate<C>>(total);
  w.groups = cursor.take<int64_t>(total);  // room for them in any case: the size depends on no pointer
  if (args.groups == nullptr) w.groups = nullptr;
  w.removed = cursor.take<uint8_t>(total);
  w.summaries = cursor.take<unsigned long long>(total);
  w.valid = cursor.take<int64_t>(args.batch);
  w.masks = cursor.take<uint64_t>(args.batch * chunk * (chunk / kTileBoxes));
  w.chunk_kept = cursor.take<uint32_t>(args.batch * chunk);
  w.num_chunk_kept = cursor.take<int>(args.batch);
  if (!sorts(args)) return w;
  w.keys = cursor.take<uint64_t>(total);
  w.sorted_keys = cursor.take<uint64_t>(total);
  w.rows = cursor.take<uint32_t>(total);
  if (sweeps_in_order(args)) w.order = cursor.take<uint32_t>(total);
  w.sort = cursor.rest();
  return w;
}

template <typename C>
Status sort_bytes(const NmsArgs& args, size_t* bytes) {
  *bytes = 0;
  if (!sorts(args)) return nullptr;
  return device_sort_workspace_bytes(images_per_sort<C>(args) * args.n, bytes);
}

// Whether the boxes from `place` on need no decision.
template <typename C>
__device__ __forceinline__ bool is_finished(const NmsArgs& args, const Workspace<C>& w, int64_t image,
                                            int64_t place) {
  return place >= w.valid[image] || args.kept[image] >= args.max_output;
}

}  // namespace
}  // namespace fastrpn
