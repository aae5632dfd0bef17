// box_iou on the CPU. O(n m) operations, each output written once.
//
// The second set is transposed, a tile at a time, into one array for each coordinate, so that one box of the
// first set meets a whole vector of boxes. Tiles are as long as the second-level cache allows (80 kB of
// float32): rows of the output are then written in one go, twice as fast as in pieces once they are too large
// for the caches. A row's last vector may reach past its end; the rows after it overwrite what it left there.
// What limits is arithmetic, 12 operations and a division for each vector, then the first touch of fresh
// pages. Skipping the division where no lane meets was measured to be slower: the branch cannot be
// predicted. Threads split the longer set.
//
// Numerics: box_math.h, in float for half types; results do not depend on tiles, threads or SIMD level.
#include "core/box_iou/box_iou.h"
#include "core/box_math.h"
#include "core/vector.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {
namespace {

constexpr int64_t kTile = 4096;
constexpr int64_t kPairsGrain = 1 << 15;  // 8 us of work: worth a second thread

// A tile of boxes, one array for each coordinate, zeros after the last box.
template <typename C>
struct Columns {
  alignas(64) C x1[kTile], y1[kTile], x2[kTile], y2[kTile], area[kTile];
};

template <typename T, typename C>
void load(const T* boxes, int64_t begin, int64_t count, Columns<C>& tile) {
  const int64_t padded = (count + lanes<C> - 1) / lanes<C> * lanes<C>;
  for (int64_t j = 0; j < padded; ++j) {
    const Box<C> box = j < count ? load_box(boxes, begin + j) : Box<C>{};
    tile.x1[j] = box.x1, tile.y1[j] = box.y1, tile.x2[j] = box.x2, tile.y2[j] = box.y2;
    tile.area[j] = box_area(box);
  }
}

// IoU of one box with boxes [begin, end) of the tile, in whole vectors, to iou[0...].
template <typename C>
void iou_row(const Box<C>& a, const Columns<C>& tile, int64_t begin, int64_t end, C* __restrict iou) {
  const C a_area = box_area(a);
  for (int64_t first = begin; first < end; first += lanes<C>) {
    for (int64_t j = first; j < first + lanes<C>; ++j) {
      const Box<C> b = {tile.x1[j], tile.y1[j], tile.x2[j], tile.y2[j]};
      iou[j - begin] = box_iou(a, a_area, b, tile.area[j]);
    }
  }
}

// The same without writing past the end.
template <typename C>
void iou_row_exactly(const Box<C>& a, const Columns<C>& tile, int64_t count, C* iou) {
  const int64_t whole = count / lanes<C> * lanes<C>;
  iou_row(a, tile, 0, whole, iou);
  if (whole == count) return;
  alignas(64) C last[lanes<C>];
  iou_row(a, tile, whole, count, last);
  memcpy(iou + whole, last, size_t(count - whole) * sizeof(C));
}

// Boxes [begin1, end1) against [begin2, end2).
template <typename T, typename C>
void iou_block(const BoxIouArgs& args, int64_t begin1, int64_t end1, int64_t begin2, int64_t end2) {
  const T* boxes1 = static_cast<const T*>(args.boxes1);
  const T* boxes2 = static_cast<const T*>(args.boxes2);
  C* iou = static_cast<C*>(args.iou);
  // Rows before this one may run over their end: the rest is written after them.
  const bool whole_rows = begin2 == 0 && end2 == args.m && args.m <= kTile;
  const int64_t overwritten = whole_rows ? end1 - (lanes<C> - 1) / args.m - 1 : begin1;
  Columns<C> tile;
  for (int64_t j = begin2; j < end2; j += kTile) {
    const int64_t count = min_of(kTile, end2 - j);
    load(boxes2, j, count, tile);
    int64_t i = begin1;
    for (; i < overwritten; ++i) iou_row(load_box(boxes1, i), tile, 0, count, iou + i * args.m);
    for (; i < end1; ++i) iou_row_exactly(load_box(boxes1, i), tile, count, iou + i * args.m + j);
  }
}

template <typename T>
void run(const BoxIouArgs& args, const ParallelFor& parallel_for) {
  using C = compute_t<T>;
  const int64_t n = args.n, m = args.m;
  if (m == 1 && n > 1) {  // IoU is symmetric: a column is as good as a row, and fills the vectors
    run<T>({args.dtype, args.boxes2, args.boxes1, 1, n, args.iou}, parallel_for);
  } else if (n >= m) {
    parallel_for(n, 1 + kPairsGrain / m,
                 [&](int64_t begin, int64_t end) { iou_block<T, C>(args, begin, end, 0, m); });
  } else {
    parallel_for(m, 1 + kPairsGrain / n,
                 [&](int64_t begin, int64_t end) { iou_block<T, C>(args, 0, n, begin, end); });
  }
}

}  // namespace

void box_iou_cpu(const BoxIouArgs& args, const ParallelFor& parallel_for) {
  if (args.n == 0 || args.m == 0) return;
  switch (args.dtype) {
    case DType::float16:
      return run<half_t>(args, parallel_for);
    case DType::bfloat16:
      return run<bfloat16_t>(args, parallel_for);
    case DType::float32:
      return run<float>(args, parallel_for);
    case DType::float64:
      return run<double>(args, parallel_for);
  }
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
