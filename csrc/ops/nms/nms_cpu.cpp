// Greedy NMS on the CPU.
//
// For each image: a stable radix sort of the scores, a stable sort of that order by group, greedy
// suppression of every group on its own (greedy_cpu.h says by which strategy), and the kept boxes of all
// groups written in score order. Cost: O(n) for the sorts and, for a threshold in (0, 1) and ordinary areas,
// for each group; memory O(n). A small max_output ends a group's search at its last kept box.
//
// Numerics: IoU is computed in the boxes' type (half types: float) as inter / (a + b - inter) and compared
// with the threshold as a double. Threads: images run in parallel, else the groups of the one image; the
// result depends on neither the threads nor the SIMD level.
#include "cpu/buffer.h"
#include "cpu/sort.h"
#include "math/dispatch.h"
#include "ops/nms/greedy_cpu.h"
#include "ops/nms/nms.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {
namespace {

// Below this many boxes a problem is done before a second thread wakes.
constexpr int64_t kParallelGrain = 8192;

int64_t participants(const NmsArgs& args, int64_t image) {
  if (args.counts == nullptr) return args.n;
  const int64_t count = args.counts[image];
  return count < 0 ? 0 : count < args.n ? count : args.n;
}

// Fills `order` with the rows that take part, by descending score; returns how many.
template <typename Storage>
int64_t sort_by_score(const NmsArgs& args, int64_t image, uint32_t* order) {
  using Key = ScoreKey<compute_t<Storage>>;
  const Storage* scores = static_cast<const Storage*>(args.scores) + image * args.n;
  const int64_t count = participants(args, image);
  const auto threshold = as_element<Storage>(args.score_threshold);
  Buffer<SortItem<Key>> items(count);
  int64_t size = 0;
  if (args.has_score_threshold) {
    for (int64_t row = 0; row < count; ++row) {
      const auto score = widen(scores[row]);
      if (score > threshold) items[size++] = {descending_key(score), uint32_t(row)};
    }
  } else {  // a loop of its own, which vectorises: a tenth of nms_padded's time for few outputs
    for (; size < count; ++size) items[size] = {descending_key(widen(scores[size])), uint32_t(size)};
  }
  if (!args.is_sorted) stable_sort(items.data(), size);
  for (int64_t i = 0; i < size; ++i) order[i] = items[i].index;
  return size;
}

// The groups of one image as segments: segment s holds the ranks (places in score order)
// ranks[starts[s]] .. ranks[starts[s + 1]], ascending. Returns the number of segments.
int64_t sort_by_group(const int64_t* groups, const uint32_t* order, int64_t size, uint32_t* ranks,
                      int64_t* starts) {
  Buffer<SortItem<uint64_t>> items(size);
  int64_t lowest = groups[order[0]];
  for (int64_t rank = 1; rank < size; ++rank) {
    if (groups[order[rank]] < lowest) lowest = groups[order[rank]];
  }
  for (int64_t rank = 0; rank < size; ++rank) {
    items[rank] = {uint64_t(groups[order[rank]]) - uint64_t(lowest), uint32_t(rank)};
  }
  stable_sort(items.data(), size);
  int64_t segments = 0;
  for (int64_t i = 0; i < size; ++i) {
    if (i == 0 || items[i].key != items[i - 1].key) starts[segments++] = i;
    ranks[i] = items[i].index;
  }
  starts[segments] = size;
  return segments;
}

void write_output(const NmsArgs& args, int64_t image, const uint32_t* rows, int64_t count) {
  int64_t* indices = args.indices + image * args.max_output;
  for (int64_t i = 0; i < count; ++i) indices[i] = rows[i];
  for (int64_t i = count; i < args.max_output; ++i) indices[i] = -1;
  args.kept[image] = count;
}

template <typename Storage>
void suppress_one_group(const NmsArgs& args, int64_t image, const uint32_t* order, int64_t size) {
  const Storage* boxes = static_cast<const Storage*>(args.boxes) + image * args.n * 4;
  Buffer<uint32_t> kept(size);
  const int64_t count =
      greedy<Storage>({boxes, order, size}, args.iou_threshold, args.max_output, kept.data());
  for (int64_t i = 0; i < count; ++i) kept[i] = order[kept[i]];
  write_output(args, image, kept.data(), count);
}

template <typename Storage>
void suppress_groups(const NmsArgs& args, int64_t image, const uint32_t* order, int64_t size,
                     const ParallelFor& parallel_for) {
  const Storage* boxes = static_cast<const Storage*>(args.boxes) + image * args.n * 4;
  Buffer<uint32_t> ranks(size), rows(size), kept(size);
  Buffer<int64_t> starts(size + 1);
  Buffer<bool> is_kept(size);
  memset(is_kept.data(), 0, size);
  const int64_t segments =
      sort_by_group(args.groups + image * args.n, order, size, ranks.data(), starts.data());
  for (int64_t i = 0; i < size; ++i) rows[i] = order[ranks[i]];

  const int64_t grain = segments * kParallelGrain / size + 1;
  parallel_for(segments, grain, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      const int64_t start = starts[s];
      const int64_t count = greedy<Storage>({boxes, rows.data() + start, starts[s + 1] - start},
                                            args.iou_threshold, args.max_output, kept.data() + start);
      for (int64_t i = 0; i < count; ++i) is_kept[ranks[start + kept[start + i]]] = true;
    }
  });

  int64_t count = 0;
  for (int64_t rank = 0; rank < size && count < args.max_output; ++rank) {
    if (is_kept[rank]) kept[count++] = order[rank];
  }
  write_output(args, image, kept.data(), count);
}

template <typename Storage>
void suppress_image(const NmsArgs& args, int64_t image, const ParallelFor& parallel_for) {
  Buffer<uint32_t> order(args.n);
  const int64_t size = sort_by_score<Storage>(args, image, order.data());
  if (args.groups == nullptr || size == 0) {
    suppress_one_group<Storage>(args, image, order.data(), size);
  } else {
    suppress_groups<Storage>(args, image, order.data(), size, parallel_for);
  }
}

template <typename Storage>
void suppress_batch(const NmsArgs& args, const ParallelFor& parallel_for) {
  if (args.batch == 1) return suppress_image<Storage>(args, 0, parallel_for);
  parallel_for(args.batch, kParallelGrain / (args.n + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) suppress_image<Storage>(args, image, parallel_for);
  });
}

}  // namespace

void nms_cpu(const NmsArgs& args, const ParallelFor& parallel_for) {
  dispatch(args.dtype, [&](auto tag) { suppress_batch<typename decltype(tag)::type>(args, parallel_for); });
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
