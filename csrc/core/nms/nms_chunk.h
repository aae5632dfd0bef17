// Decides the boxes of a chunk.
//
// mask: which pairs suppress each other, one bit a pair, by 64 x 64 tiles. A box has a word for each tile of
//   earlier boxes, and a summary that says which of these words are not zero; only those are written.
// reduce: one block an image. A box whose earlier suppressors are all removed is kept, a box with a kept one
//   is removed, until none is undecided: as many rounds as the longest chain of suppressions, a dozen or so.
//   Kept rows go straight to the output, up to max_output.
#pragma once

#include "core/nms/nms_workspace.h"

namespace fastrpn {
namespace {

constexpr int kReduceThreads = 512;
constexpr int kBoxesPerThread = kMaxChunk / kReduceThreads;
constexpr int kMaxWords = kMaxChunk / 32;

// grid: x over pairs of a row and a column tile of the chunk, none below the diagonal: 0-0, 0-1, 1-1, 0-2,
// 1-2, 2-2, ...; y over images. Four threads a column, each testing every fourth row.
template <typename C>
__global__ void __launch_bounds__(4 * kTile) mask_kernel(NmsArgs args, Workspace<C> w, Chunk<C> chunk) {
  const int64_t image = blockIdx.y;
  const int pair = int(blockIdx.x);
  const int column_tile = int((sqrtf(float(8 * pair + 1)) - 1.0f) / 2.0f);  // exact for the few there are
  const int row_tile = pair - column_tile * (column_tile + 1) / 2;
  const int64_t first_row = chunk.begin + row_tile * kTile, first_column = chunk.begin + column_tile * kTile;
  if (is_finished(args, w, image, first_column)) return;

  const int64_t start = image * args.n, valid = w.valid[image];
  __shared__ Candidate<C> tile_boxes[kTile];
  __shared__ int64_t tile_groups[kTile];
  if (threadIdx.x < kTile && first_row + threadIdx.x < valid) {
    tile_boxes[threadIdx.x] = w.boxes[start + first_row + threadIdx.x];
    tile_groups[threadIdx.x] = w.groups == nullptr ? 0 : w.groups[start + first_row + threadIdx.x];
  }
  __syncthreads();

  const int column = int(threadIdx.x) / 4;
  const int64_t place = first_column + column;
  uint64_t word = 0;
  if (place < valid && !w.removed[start + place]) {
    const Box<C> box = w.boxes[start + place].box;
    const C area = box_area(box);
    const int64_t group = w.groups == nullptr ? 0 : w.groups[start + place];
    const int end = row_tile == column_tile ? column : kTile;
    for (int row = int(threadIdx.x) % 4; row < end; row += 4) {
      const Box<C> other = tile_boxes[row].box;
      const bool hit = tile_groups[row] == group && chunk.test(other, box_area(other), box, area);
      word |= uint64_t(hit) << row;
    }
  }
  word |= __shfl_xor_sync(kAllLanes, word, 1);
  word |= __shfl_xor_sync(kAllLanes, word, 2);
  if (threadIdx.x % 4 == 0 && word != 0) {
    const int64_t tile = image * (chunk.size / kTile) + row_tile;
    w.masks[tile * chunk.size + place - chunk.begin] = word;
    atomicOr(&w.summaries[start + place], 1ull << row_tile);
  }
}

// One bit a box of the chunk.
struct Bits {
  unsigned words[kMaxWords];

  __device__ bool has(int box) const { return words[box / 32] >> (box % 32) & 1; }
  __device__ uint64_t tile(int index) const {
    return words[2 * index] | uint64_t(words[2 * index + 1]) << 32;
  }
};

enum class Verdict { wait, keep, remove };

// `words`: those of one box, one for each tile, `stride` apart.
__device__ Verdict judge(const uint64_t* words, int64_t stride, uint64_t summary, const Bits& undecided,
                         const Bits& kept) {
  bool waits = false;
  for (; summary != 0; summary &= summary - 1) {
    const int tile = __ffsll((long long)(summary)) - 1;
    const uint64_t suppressors = words[tile * stride];
    if ((suppressors & kept.tile(tile)) != 0) return Verdict::remove;
    waits |= (suppressors & undecided.tile(tile)) != 0;
  }
  return waits ? Verdict::wait : Verdict::keep;
}

// Called by a warp: how many bits come before each word; returns how many there are.
__device__ int count_before(const Bits& bits, int before[kMaxWords]) {
  constexpr int kPerLane = kMaxWords / 32;
  const int lane = int(threadIdx.x) % 32;
  int counts[kPerLane], sum = 0;
  for (int k = 0; k < kPerLane; ++k) sum += counts[k] = __popc(bits.words[lane * kPerLane + k]);
  int running = sum;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(kAllLanes, running, step);
    if (lane >= step) running += other;
  }
  int at = running - sum;
  for (int k = 0; k < kPerLane; ++k) {
    before[lane * kPerLane + k] = at;
    at += counts[k];
  }
  return __shfl_sync(kAllLanes, running, 31);
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
  __shared__ Bits undecided, kept;
  __shared__ int before[kMaxWords];
  __shared__ int num_kept;
  const int64_t start = image * args.n + chunk.begin;
  const int present = int(min(chunk.size, w.valid[image] - chunk.begin));
  const int64_t kept_before = args.kept[image];
  const int thread = threadIdx.x;
  const uint64_t* masks = w.masks + image * chunk.size * (chunk.size / kTile);

  for (int box = thread; box < kMaxChunk; box += kReduceThreads) {
    const unsigned open = __ballot_sync(kAllLanes, box < present && !w.removed[start + box]);
    if (thread % 32 == 0) {
      undecided.words[box / 32] = open;
      kept.words[box / 32] = 0;
    }
  }

  bool is_open = true;
  while (__syncthreads_or(is_open)) {
    unsigned keep[kBoxesPerThread], remove[kBoxesPerThread];
#pragma unroll
    for (int k = 0; k < kBoxesPerThread; ++k) {
      const int box = k * kReduceThreads + thread;
      Verdict verdict = Verdict::wait;
      if (undecided.has(box)) {
        verdict = judge(masks + box, chunk.size, w.summaries[start + box], undecided, kept);
      }
      keep[k] = __ballot_sync(kAllLanes, verdict == Verdict::keep);
      remove[k] = __ballot_sync(kAllLanes, verdict == Verdict::remove);
    }
    __syncthreads();  // verdicts of a round rest on what was known before it
    is_open = false;
#pragma unroll
    for (int k = 0; k < kBoxesPerThread; ++k) {
      const int word = (k * kReduceThreads + thread) / 32;
      if (thread % 32 == 0) {
        kept.words[word] |= keep[k];
        undecided.words[word] &= ~(keep[k] | remove[k]);
        is_open |= undecided.words[word] != 0;
      }
    }
  }

  if (thread < 32) {
    const int count = count_before(kept, before);
    if (thread == 0) num_kept = int(min(int64_t(count), args.max_output - kept_before));
  }
  __syncthreads();
  for (int box = thread; box < present; box += kReduceThreads) {
    const int rank = before[box / 32] + __popc(kept.words[box / 32] & ((1u << (box % 32)) - 1));
    if (!kept.has(box) || rank >= num_kept) continue;
    args.indices[image * args.max_output + kept_before + rank] = w.sorted_rows[start + box];
    w.chunk_kept[image * chunk.size + rank] = uint32_t(chunk.begin + box);
  }
  if (thread == 0) {
    args.kept[image] = kept_before + num_kept;
    w.num_chunk_kept[image] = num_kept;
  }
}

}  // namespace
}  // namespace fastrpn
