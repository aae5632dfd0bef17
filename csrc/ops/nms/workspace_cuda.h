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
constexpr int kCodes = 256;  // that groups are told apart by (group_code)

enum State : uint8_t { kOpen, kRemoved, kKept };  // kKept: where nms_merge_kernel writes the output

template <typename C>
struct alignas(16) Candidate {
  Box<C> box;
};

// A "place" is the index of a box in its image's descending order of scores.
template <typename C>
struct Workspace {
  uint64_t *keys, *sorted_keys;   // [batch, n]
  uint32_t *rows, *sorted_rows;   // [batch, n]: row in the image; sorted_rows by place
  uint32_t* order;                // [batch, n]: places by position (order_cuda.h); null: by place
  Candidate<C>* boxes;            // [batch, n] by place
  int64_t* groups;                // [batch, n] by place; null without groups
  State* states;                  // [batch, n] by place: whether earlier chunks, or segments, decided the box
  unsigned long long* summaries;  // [batch, n] by place: which tiles of the chunk suppress the box
  int64_t* valid;                 // [batch]: boxes that take part; they have the first places
  uint64_t* masks;                // [batch, chunk, tiles]: which boxes of a tile suppress the box
  uint32_t* chunk_kept;           // [batch, chunk]: places that the chunk kept
  int* num_chunk_kept;            // [batch]
  void* sort;                     // for a sort of images_per_sort images
  uint8_t* codes;                 // [batch, n] by place: of the group; null: no segments
  unsigned* sizes;                // [batch, kCodes]: boxes of each code
  uint32_t* segments;             // [batch, n]: places by code, then those that a segment kept

  __device__ int64_t group(int64_t at) const { return groups == nullptr ? 0 : groups[at]; }
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

// Whether small groups are decided as segments. Not where three launches do it all, and not where the search
// likely ends in a small first chunk.
bool has_segments(const NmsArgs& args) {
  return args.groups != nullptr && args.n > kMaxChunk && 4 * args.max_output >= kMaxChunk && !args.is_sorted;
}

// The most boxes of a segment that one block decides, in a time that grows with their square; those of larger
// ones are decided in chunks, all together, in a time that grows with n.
__device__ int64_t largest_segment(const NmsArgs& args) {
  return min(int64_t(8192), max(int64_t(1024), args.n / 16));
}

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
  if (args.groups != nullptr) w.groups = cursor.take<int64_t>(total);
  w.states = cursor.take<State>(total);
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
  w.sort = cursor.take<char>(device_sort_workspace_bytes(images_per_sort<C>(args) * args.n));
  if (!has_segments(args)) return w;
  w.codes = cursor.take<uint8_t>(total);
  w.sizes = cursor.take<unsigned>(args.batch * kCodes);
  w.segments = w.rows;  // free after the last sort
  return w;
}

// Whether the boxes from `place` on need no decision.
template <typename C>
__device__ __forceinline__ bool is_finished(const NmsArgs& args, const Workspace<C>& w, int64_t image,
                                            int64_t place) {
  return place >= w.valid[image] || args.kept[image] >= args.max_output;
}

}  // namespace
}  // namespace fastrpn
