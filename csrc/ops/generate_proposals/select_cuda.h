// The best pre_nms_top_n logits of each level of each image, in order of their anchors: what a sort of all of
// them would put first, without that sort.
//
// Radix selection, as on the CPU (cpu/select.h). A segment is a level of an image, a block has a tile of it.
// histogram: once for each digit of the key, from the highest: how many keys that begin as the border's does
//   have which digit. The next launch finds the border's digit: the one that the last wanted key has.
// count: how many keys of each tile lie before the border, and how many at it.
// pick: each tile writes its chosen anchors behind those of the tiles before it; of keys at the border the
//   first are chosen.
//
// Cost: num_anchors logits are read 6 times (float64: 10), after the first time from the cache.
#pragma once

#include "cuda/runtime.h"
#include "cuda/scan.h"
#include "cuda/workspace.h"
#include "math/score_key.h"
#include "ops/generate_proposals/generate_proposals.h"

namespace fastrpn {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxLevels = 32;
constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;  // one for each thread of a block
constexpr int kThreadAnchors = 8;
constexpr int kTileAnchors = kThreadAnchors * kThreads;

template <typename C>
constexpr int kPasses = 8 * sizeof(ScoreKey<C>) / kDigitBits;

// Where each level begins: among an image's anchors, among its survivors, and among its tiles. `most`: the
// survivors of the largest.
struct Levels {
  int64_t count, survivors, most;
  int64_t first_anchor[kMaxLevels + 1], first_survivor[kMaxLevels + 1];
  int first_tile[kMaxLevels + 1];

  explicit Levels(const GenerateProposalsArgs& args) : count(args.num_levels), survivors(0), most(0) {
    first_anchor[0] = first_survivor[0] = first_tile[0] = 0;
    for (int64_t level = 0; level < count; ++level) {
      const int64_t anchors = args.anchors_per_level[level];
      first_anchor[level + 1] = first_anchor[level] + anchors;
      const int64_t chosen = min(anchors, args.pre_nms_top_n);
      first_survivor[level + 1] = survivors += chosen;
      most = max(most, chosen);
      first_tile[level + 1] = first_tile[level] + int(ceil_div(anchors, int64_t(kTileAnchors)));
    }
  }

  int tiles() const { return first_tile[count]; }

  template <typename Index>
  static __device__ int64_t find(const Index* first, int64_t place) {
    int64_t level = 0;
    while (place >= first[level + 1]) ++level;
    return level;
  }
};

// What is known of a segment's border after some passes.
template <typename Key>
struct Border {
  Key prefix;  // its highest digits
  int wanted;  // of the keys with these digits, so many are chosen
};

// Keys of a tile.
struct TileCount {
  int before, at;  // the border
};

template <typename C>
struct Selection {
  unsigned* counts;              // [passes, segments, kDigits]
  Border<ScoreKey<C>>* borders;  // [passes + 1, segments]
  TileCount* tiles;              // [batch, tiles]
  uint64_t* keys;                // [batch, survivors]: segment and logit; float64: logit
  uint32_t* anchors;             // [batch, survivors]

  static Selection lay_out(const GenerateProposalsArgs& args, const Levels& levels, WorkspaceCursor& cursor) {
    const int64_t segments = args.batch * levels.count, survivors = args.batch * levels.survivors;
    Selection s{};
    s.counts = cursor.take<unsigned>(kPasses<C> * segments * kDigits);
    s.borders = cursor.take<Border<ScoreKey<C>>>((kPasses<C> + 1) * segments);
    s.tiles = cursor.take<TileCount>(args.batch * levels.tiles());
    s.keys = cursor.take<uint64_t>(survivors);
    s.anchors = cursor.take<uint32_t>(survivors);
    return s;
  }

  // To be cleared before the first pass.
  static size_t counts_bytes(const GenerateProposalsArgs& args) {
    return size_t(kPasses<C> * args.batch * args.num_levels * kDigits) * sizeof(unsigned);
  }
};

// A block's part of a segment.
template <typename T>
struct SegmentTile {
  using Key = ScoreKey<compute_t<T>>;
  int64_t image, level, segment, segments;
  int64_t begin, end;  // anchors
  const T* logits;     // of the image

  __device__ SegmentTile(const GenerateProposalsArgs& args, const Levels& levels)
      : image(blockIdx.y),
        level(Levels::find(levels.first_tile, blockIdx.x)),
        segment(image * levels.count + level),
        segments(args.batch * levels.count),
        begin(levels.first_anchor[level] +
              int64_t(int(blockIdx.x) - levels.first_tile[level]) * kTileAnchors),
        end(min(begin + kTileAnchors, levels.first_anchor[level + 1])),
        logits(static_cast<const T*>(args.objectness) + image * args.num_anchors) {}

  __device__ bool is_first(const Levels& levels) const { return int(blockIdx.x) == levels.first_tile[level]; }

  __device__ int64_t anchor(int k) const { return begin + k * kThreads + threadIdx.x; }

  // The keys of a thread's anchors, all on their way at once; behind the end one that is no score's, and so
  // lies behind every border.
  __device__ void load(Key keys[kThreadAnchors]) const {
    T values[kThreadAnchors];
#pragma unroll
    for (int k = 0; k < kThreadAnchors; ++k) values[k] = anchor(k) < end ? logits[anchor(k)] : T();
#pragma unroll
    for (int k = 0; k < kThreadAnchors; ++k) {
      keys[k] = anchor(k) < end ? descending_key(widen(values[k])) : ~Key(0);
    }
  }
};

// Called by a whole block: a segment's border, known by one more digit after each pass. Its first tile leaves
// the border for the next launch.
template <typename T>
__device__ Border<typename SegmentTile<T>::Key> find_border(const SegmentTile<T>& tile, const Levels& levels,
                                                            const Selection<compute_t<T>>& selection,
                                                            int passes) {
  using Key = typename SegmentTile<T>::Key;
  __shared__ int of_warps[kThreads / 32];
  __shared__ Border<Key> found;
  if (passes == 0) {
    const int wanted = int(levels.first_survivor[tile.level + 1] - levels.first_survivor[tile.level]);
    if (threadIdx.x == 0) found = {0, wanted};
  } else {
    const int64_t last = (passes - 1) * tile.segments + tile.segment;
    const Border<Key> border = selection.borders[last];
    const int mine = int(selection.counts[last * kDigits + threadIdx.x]);
    int all;
    const int before = sum_before(mine, of_warps, &all);
    if (before < border.wanted && border.wanted <= before + mine) {
      found = {Key(border.prefix << kDigitBits | threadIdx.x), border.wanted - before};
    }
  }
  __syncthreads();
  if (threadIdx.x == 0 && tile.is_first(levels)) {
    selection.borders[passes * tile.segments + tile.segment] = found;
  }
  return found;
}

// grid of this kernel and of those below: x over the tiles of all levels, y over images.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    proposals_histogram_kernel(GenerateProposalsArgs args, Levels levels, Selection<compute_t<T>> selection,
                               int pass) {
  using Key = typename SegmentTile<T>::Key;
  __shared__ unsigned counts[kDigits];
  const SegmentTile<T> tile(args, levels);
  Key keys[kThreadAnchors];
  tile.load(keys);
  counts[threadIdx.x] = 0;
  const auto border = find_border(tile, levels, selection, pass);  // and a barrier
  const int shift = 8 * int(sizeof(Key)) - kDigitBits * (pass + 1);
#pragma unroll
  for (int k = 0; k < kThreadAnchors; ++k) {
    const Key digits = keys[k] >> shift;
    if (pass == 0 || digits >> kDigitBits == border.prefix) {
      atomicAdd(&counts[int(digits & (kDigits - 1))], 1u);
    }
  }
  __syncthreads();
  const unsigned count = counts[threadIdx.x];
  const int64_t at = (pass * tile.segments + tile.segment) * kDigits + threadIdx.x;
  if (count != 0) atomicAdd(&selection.counts[at], count);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    proposals_count_kernel(GenerateProposalsArgs args, Levels levels, Selection<compute_t<T>> selection) {
  __shared__ TileCount count;
  const SegmentTile<T> tile(args, levels);
  typename SegmentTile<T>::Key keys[kThreadAnchors];
  tile.load(keys);
  if (threadIdx.x == 0) count = {0, 0};
  const auto border = find_border(tile, levels, selection, kPasses<compute_t<T>>);  // and a barrier
  TileCount mine = {0, 0};
#pragma unroll
  for (int k = 0; k < kThreadAnchors; ++k) {
    mine.before += keys[k] < border.prefix;
    mine.at += keys[k] == border.prefix;
  }
  if (mine.before != 0) atomicAdd(&count.before, mine.before);
  if (mine.at != 0) atomicAdd(&count.at, mine.at);
  __syncthreads();
  if (threadIdx.x == 0) selection.tiles[tile.image * gridDim.x + blockIdx.x] = count;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    proposals_pick_kernel(GenerateProposalsArgs args, Levels levels, Selection<compute_t<T>> selection) {
  using C = compute_t<T>;
  __shared__ int of_warps[kThreads / 32];
  const SegmentTile<T> tile(args, levels);
  ScoreKey<C> keys[kThreadAnchors];
  tile.load(keys);
  const auto border = selection.borders[kPasses<C> * tile.segments + tile.segment];
  int before = 0, at = 0;  // keys of earlier tiles, then also of earlier anchors
  for (int other = levels.first_tile[tile.level] + int(threadIdx.x); other < int(blockIdx.x);
       other += kThreads) {
    const TileCount count = selection.tiles[tile.image * gridDim.x + other];
    before += count.before;
    at += count.at;
  }
  sum_before(before, of_warps, &before);
  sum_before(at, of_warps, &at);

  const int64_t start = tile.image * levels.survivors + levels.first_survivor[tile.level];
#pragma unroll
  for (int k = 0; k < kThreadAnchors; ++k) {
    const bool is_before = keys[k] < border.prefix, is_at = keys[k] == border.prefix;
    int all;
    const int earlier = sum_before(int(is_before) | int(is_at) << 16, of_warps, &all);
    const int before_mine = before + (earlier & 0xffff), at_mine = at + (earlier >> 16);
    if (is_before || (is_at && at_mine < border.wanted)) {
      const int64_t to = start + before_mine + min(at_mine, border.wanted);
      selection.keys[to] = sizeof(C) == 4 ? uint64_t(tile.segment) << 32 | keys[k] : keys[k];
      selection.anchors[to] = uint32_t(tile.anchor(k));
    }
    before += all & 0xffff;
    at += all >> 16;
  }
}

template <typename T>
Status launch_selection(const GenerateProposalsArgs& args, const Levels& levels,
                        const Selection<compute_t<T>>& selection, Stream stream) {
  using C = compute_t<T>;
  const size_t bytes = Selection<C>::counts_bytes(args);
  FASTRPN_TRY(status_of(cudaMemsetAsync(selection.counts, 0, bytes, stream)));
  const dim3 grid(unsigned(levels.tiles()), unsigned(args.batch));
  for (int pass = 0; pass < kPasses<C>; ++pass) {
    FASTRPN_TRY(FASTRPN_LAUNCH(proposals_histogram_kernel<T>, grid, kThreads, 0, stream, args, levels,
                               selection, pass));
  }
  FASTRPN_TRY(FASTRPN_LAUNCH(proposals_count_kernel<T>, grid, kThreads, 0, stream, args, levels, selection));
  return FASTRPN_LAUNCH(proposals_pick_kernel<T>, grid, kThreads, 0, stream, args, levels, selection);
}

}  // namespace
}  // namespace fastrpn
