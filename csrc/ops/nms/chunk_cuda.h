// Decides the boxes of a chunk.
//
// mask: which pairs suppress each other, one bit a pair, by 64 x 64 tiles. A box has a word for each tile of
//   earlier boxes, and a summary that says which of these words are not zero; only those are written.
// reduce: one block an image decides tile after tile. Eight lanes a box ask whether a kept box of an earlier
//   tile suppresses it; their words were loaded while earlier tiles were decided. One warp then decides the
//   tile in registers, in as many rounds as its longest chain of suppressions, at most 64. Kept rows go
//   straight to the output, and the search ends with the tile that fills it.
#pragma once

#include "cuda/scan.h"
#include "ops/nms/tile_cuda.h"

namespace fastrpn {
namespace {

constexpr int kReduceThreads = 512;
constexpr int kTilesAhead = 2;  // whose words are on their way
constexpr int kLanesPerBox = kReduceThreads / kTileBoxes;
constexpr int kWordsPerLane = kMaxTiles / kLanesPerBox;
constexpr unsigned kEveryLaneth = 0xffffffffu / ((1u << kLanesPerBox) - 1);  // bits 0, kLanesPerBox, ...
constexpr int kBoxesPerThread = kMaxChunk / kReduceThreads;

// grid: x over pairs of a row and a column tile of the chunk, none below the diagonal: 0-0, 0-1, 1-1, 0-2,
// 1-2, 2-2, ...; y over images. Four threads a column.
template <typename C>
__global__ void __launch_bounds__(kTileThreads)
    nms_mask_kernel(NmsArgs args, Workspace<C> w, Chunk<C> chunk) {
  const int64_t image = blockIdx.y;
  const int pair = int(blockIdx.x);
  const int column_tile = int((sqrtf(float(8 * pair + 1)) - 1.0f) / 2.0f);  // exact for the few there are
  const int row_tile = pair - column_tile * (column_tile + 1) / 2;
  const int64_t first_row = chunk.begin + row_tile * kTileBoxes,
                first_column = chunk.begin + column_tile * kTileBoxes;
  if (is_finished(args, w, image, first_column)) return;

  const int64_t start = image * args.n, valid = w.valid[image];
  __shared__ Staged<C, kTileBoxes> rows;
  if (threadIdx.x < kTileBoxes && first_row + threadIdx.x < valid) {
    rows.load(threadIdx.x, w, start + first_row + threadIdx.x);
  }
  __syncthreads();

  const int column = int(threadIdx.x) / kLanesPerColumn;
  const int64_t place = first_column + column;
  uint64_t word = 0;
  if (place < valid && w.states[start + place] == kOpen) {
    const Box<C> box = w.boxes[start + place].box;
    const int end = row_tile == column_tile ? column : kTileBoxes;
    word = suppressors_in(rows, end, box, box_area(box), w.group(start + place), chunk.test);
  }
  word = join_lanes(word);
  if (threadIdx.x % kLanesPerColumn == 0 && word != 0) {
    const int64_t box = image * chunk.size + place - chunk.begin;
    w.masks[box * (chunk.size / kTileBoxes) + row_tile] = word;
    atomicOr(&w.summaries[start + place], 1ull << row_tile);
  }
}

// What a lane looks at of a box: its words for every kLanesPerBox-th tile. Of most boxes in a dense scene
// there is none. The block spends its time on instructions, with these loops unrolled and four warps a
// scheduler: so offsets are constants, and nothing is moved from one tile to the next.
struct Suppressors {
  bool is_open, any;
  uint64_t own;  // of the box's own tile; in the first lane alone
  uint64_t words[kWordsPerLane];

  // `words_of_box`: one for each tile; those that the summary does not name do not exist. No box of the own
  // tile is kept yet, so its word may be among them.
  __device__ void load(bool open, const uint64_t* words_of_box, uint64_t summary, int tile) {
    const int lane = int(threadIdx.x) % kLanesPerBox;
    is_open = open;
    any = false;
    own = 0;
    if (summary == 0) return;
    if (lane == 0 && (summary >> tile & 1)) own = words_of_box[tile];
    const unsigned named[] = {unsigned(summary) >> lane, unsigned(summary >> 32) >> lane};
    any = ((named[0] | named[1]) & kEveryLaneth) != 0;
    if (!any) return;
    words_of_box += lane;
#pragma unroll
    for (int k = 0; k < kWordsPerLane; ++k) {
      const int bit = k * kLanesPerBox;
      words[k] = named[bit / 32] & (1u << (bit % 32)) ? words_of_box[bit] : 0;
    }
  }
  __device__ bool meet(const uint64_t kept[kMaxTiles]) const {
    if (!any) return false;
    uint64_t met = 0;
#pragma unroll
    for (int k = 0; k < kWordsPerLane; ++k) {
      met |= words[k] & kept[k * kLanesPerBox + int(threadIdx.x) % kLanesPerBox];
    }
    return met != 0;
  }
};

// One block an image.
template <typename C>
__global__ void __launch_bounds__(kReduceThreads)
    nms_reduce_kernel(NmsArgs args, Workspace<C> w, Chunk<C> chunk) {
  const int64_t image = blockIdx.x;
  if (is_finished(args, w, image, chunk.begin)) {
    if (threadIdx.x == 0) w.num_chunk_kept[image] = 0;
    return;
  }
  __shared__ uint64_t kept[kMaxTiles], summaries[kMaxChunk];
  __shared__ bool undecided[kMaxChunk];
  __shared__ bool open[kTileBoxes];
  __shared__ uint64_t own[kTileBoxes];
  __shared__ int num_kept, of_warps[kReduceThreads / 32];
  const int64_t start = image * args.n + chunk.begin;
  const int present = int(min(chunk.size, w.valid[image] - chunk.begin));
  const int64_t kept_before = args.kept[image], room = args.max_output - kept_before;
  const int thread = threadIdx.x, box_in_tile = thread / kLanesPerBox;
  const int tiles = int(chunk.size) / kTileBoxes;
  const uint64_t* masks = w.masks + image * chunk.size * tiles;
  if (thread < kMaxTiles) kept[thread] = 0;
  if (thread == 0) num_kept = 0;
  for (int box = thread; box < present; box += kReduceThreads) {
    summaries[box] = w.summaries[start + box];
    undecided[box] = w.states[start + box] == kOpen;
  }
  __syncthreads();

  Suppressors ahead[kTilesAhead];
  const auto load = [&](int tile, Suppressors* to) {
    const int box = tile * kTileBoxes + box_in_tile;
    const bool is_open = box < present && undecided[box];
    to->load(is_open, masks + box * tiles, is_open ? summaries[box] : 0, tile);
  };
  // Decides a tile and returns whether there is more to do; then `mine` has the tile kTilesAhead later.
  const auto decide = [&](int tile, Suppressors& mine) {
    bool is_suppressed = mine.meet(kept);
    for (int flip = 1; flip < kLanesPerBox; flip *= 2) {
      is_suppressed |= bool(__shfl_xor_sync(kAllLanes, int(is_suppressed), flip));
    }
    if (thread % kLanesPerBox == 0) {
      open[box_in_tile] = mine.is_open && !is_suppressed;
      own[box_in_tile] = mine.own;
    }
    load(tile + kTilesAhead, &mine);
    __syncthreads();
    if (thread < 32) {
      const uint64_t found = decide_tile(open, own);
      if (thread == 0) {
        kept[tile] = found;
        num_kept += __popcll(found);
      }
    }
    __syncthreads();
    return (tile + 1) * kTileBoxes < present && num_kept < room;
  };
#pragma unroll
  for (int k = 0; k < kTilesAhead; ++k) load(k, &ahead[k]);
  bool goes_on = true;
  for (int tile = 0; goes_on; tile += kTilesAhead) {
#pragma unroll
    for (int k = 0; k < kTilesAhead; ++k) goes_on = goes_on && decide(tile + k, ahead[k]);
  }

  const int mine = thread * kBoxesPerThread;
  const unsigned found = unsigned(kept[mine / 64] >> (mine % 64)) & ((1u << kBoxesPerThread) - 1);
  int count;
  int rank = sum_before(__popc(found), of_warps, &count);
  for (unsigned rest = found; rest != 0 && rank < room; rest &= rest - 1, ++rank) {
    const int box = mine + __ffs(int(rest)) - 1;
    w.chunk_kept[image * chunk.size + rank] = uint32_t(chunk.begin + box);
    if (w.sizes != nullptr) {
      w.states[start + box] = kKept;
    } else {
      args.indices[image * args.max_output + kept_before + rank] = w.sorted_rows[start + box];
    }
  }
  if (thread == 0) {
    count = int(min(int64_t(count), room));
    w.num_chunk_kept[image] = count;
    args.kept[image] = kept_before + count;
  }
}

}  // namespace
}  // namespace fastrpn
