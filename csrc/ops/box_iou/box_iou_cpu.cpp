// box_iou on the CPU. O(n m) operations, each output written once.
//
// The second set is transposed into one array for each coordinate, so that one box of the first set meets a
// whole vector of boxes. The output is written as a stream of whole, aligned vectors, whatever the length of
// its rows: the columns are repeated for as many rows as fill whole vectors together, and a vector that
// begins in one row and ends in a later one mixes their boxes. Long rows are written one by one, a tile of
// columns (80 kB of float32) at a time.
//
// What limits is arithmetic, 12 operations and a division for each vector, then the first touch of fresh
// pages. Skipping the division where no lane meets was measured to be slower: the branch cannot be predicted.
// Threads split the longer set.
//
// Numerics: math/box.h, in float for half types; results do not depend on tiles, threads or SIMD level.
#include "cpu/buffer.h"
#include "cpu/interval.h"
#include "math/box.h"
#include "math/dispatch.h"
#include "ops/box_iou/box_iou.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {
namespace {

constexpr int64_t kTileColumns = 4096;    // columns
constexpr int64_t kPairsGrain = 1 << 15;  // 8 us of work: worth a second thread

// Boxes of the second set, one array for each coordinate, with room for whole vectors.
template <typename C>
struct Columns {
  alignas(64) C x1[kTileColumns], y1[kTileColumns], x2[kTileColumns], y2[kTileColumns], area[kTileColumns];
};

// `count` boxes, `repeats` times over.
template <typename T, typename C>
void load_columns(const T* boxes, int64_t count, int64_t repeats, Columns<C>& columns) {
  const int64_t used = count * repeats;
  for (int64_t j = 0; j < whole_vectors<C>(used); ++j) {
    const Box<C> box = j < count ? load_box(boxes, j) : Box<C>{};
    columns.x1[j] = box.x1, columns.y1[j] = box.y1, columns.x2[j] = box.x2, columns.y2[j] = box.y2;
    columns.area[j] = box_area(box);
  }
  C* const all[] = {columns.x1, columns.y1, columns.x2, columns.y2, columns.area};
  for (C* column : all) {
    for (int64_t j = count; j < used; ++j) column[j] = column[j - count];
  }
}

// Boxes of the first set, one in each lane.
template <typename C>
struct Rows {
  Vec<C> x1, y1, x2, y2, area;

  static Rows all_of(const Box<C>& box) {
    Rows rows = {splat(box.x1), splat(box.y1), splat(box.x2), splat(box.y2), {}};
    rows.area = (rows.x2 - rows.x1) * (rows.y2 - rows.y1);
    return rows;
  }

  // Lanes before `lane` as they are, those from it on of `later`.
  Rows until(int64_t lane, const Rows& later) const {
    IndexVec<C> numbers;
    for (int i = 0; i < kLanes<C>; ++i) numbers[i] = i;
    const IndexVec<C> is_mine = numbers < index_t<C>(lane);
    return {is_mine ? x1 : later.x1, is_mine ? y1 : later.y1, is_mine ? x2 : later.x2,
            is_mine ? y2 : later.y2, is_mine ? area : later.area};
  }

  // Whether no coordinate in the first lane has its sign bit set.
  bool has_no_sign() const { return signs<C>(x1, y1, x2, y2)[0] >= 0; }
};

template <typename C, bool kAsIntegers>
inline Vec<C> iou_of(const Rows<C>& rows, const Columns<C>& columns, int64_t j) {
  const Vec<C> width =
      shared_length<C, kAsIntegers>(rows.x1, rows.x2, load(columns.x1 + j), load(columns.x2 + j));
  const Vec<C> height =
      shared_length<C, kAsIntegers>(rows.y1, rows.y2, load(columns.y1 + j), load(columns.y2 + j));
  const Vec<C> inter = not_negative<C>(width) * not_negative<C>(height);
  return inter / (rows.area + load(columns.area + j) - inter);
}

// Writes vectors of one row from `at` on, as long as they end by `end`; returns where the next begins.
template <bool kAsIntegers, typename C>
inline int64_t write_row(const Rows<C>& row, const Columns<C>& columns, int64_t at, int64_t end, C* iou) {
  for (; at + kLanes<C> <= end; at += kLanes<C>) {
    store<C>(iou_of<C, kAsIntegers>(row, columns, at), iou + at);
  }
  return at;
}

// IoUs of `count` boxes, each with `width` columns, one row after the other to `iou`.
template <typename T, typename C>
inline void write_rows(const T* boxes, int64_t count, const Columns<C>& columns, int64_t width, C* iou) {
  Rows<C> open;    // of the vector that comes next
  int64_t at = 0;  // where it begins
  for (int64_t i = 0; i < count; ++i) {
    const Rows<C> row = Rows<C>::all_of(load_box(boxes, i));
    const int64_t begin = i * width, end = begin + width;
    if (at < begin) {
      open = open.until(begin - at, row);
      if (at + kLanes<C> > end) continue;
      at = write_row<false>(open, columns, at, at + kLanes<C>, iou);
    }
    at = kComparesIntegers<C> && row.has_no_sign()
             ? write_row<kComparesIntegers<C>>(row, columns, at, end, iou)
             : write_row<false>(row, columns, at, end, iou);
    open = row;
  }
  if (at == count * width) return;
  const Vec<C> last = iou_of<C, false>(open, columns, at);
  memcpy(iou + at, &last, size_t(count * width - at) * sizeof(C));
}

// How many rows of m fill whole vectors together; 1 if their columns do not fit a tile.
template <typename C>
int64_t rows_at_once(int64_t m) {
  int64_t rows = kLanes<C>;
  while (rows > 1 && rows / 2 * m % kLanes<C> == 0) rows /= 2;
  return rows * m <= kTileColumns ? rows : 1;
}

// Boxes [begin1, end1) against [begin2, end2), `rows` at a time; more than one only if begin2 == 0 and
// end2 == m.
template <typename T, typename C>
void iou_block(const BoxIouArgs& args, int64_t begin1, int64_t end1, int64_t begin2, int64_t end2,
               int64_t rows) {
  const T* boxes1 = static_cast<const T*>(args.boxes1);
  const T* boxes2 = static_cast<const T*>(args.boxes2);
  Columns<C> columns;
  for (int64_t j = begin2; j < end2; j += kTileColumns) {
    const int64_t width = min_of(kTileColumns, end2 - j);
    load_columns(boxes2 + 4 * j, width, rows, columns);
    for (int64_t i = begin1; i < end1; i += rows) {
      write_rows(boxes1 + 4 * i, min_of(rows, end1 - i), columns, width,
                 static_cast<C*>(args.iou) + i * args.m + j);
    }
  }
}

template <typename T>
void run(const BoxIouArgs& args, const ParallelFor& parallel_for) {
  using C = compute_t<T>;
  const int64_t n = args.n, m = args.m;
  if (m == 1 && n > 1) {  // IoU is symmetric: a column is as good as a row
    run<T>({args.dtype, args.boxes2, args.boxes1, 1, n, args.iou}, parallel_for);
  } else if (n >= m) {
    const int64_t rows = rows_at_once<C>(m), groups = (n + rows - 1) / rows;
    parallel_for(groups, 1 + kPairsGrain / (m * rows), [&](int64_t begin, int64_t end) {
      iou_block<T, C>(args, begin * rows, min_of(end * rows, n), 0, m, rows);
    });
  } else {
    parallel_for(m, 1 + kPairsGrain / n,
                 [&](int64_t begin, int64_t end) { iou_block<T, C>(args, 0, n, begin, end, 1); });
  }
}

}  // namespace

void box_iou_cpu(const BoxIouArgs& args, const ParallelFor& parallel_for) {
  if (args.n == 0 || args.m == 0) return;
  dispatch(args.dtype, [&](auto tag) { run<typename decltype(tag)::type>(args, parallel_for); });
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
