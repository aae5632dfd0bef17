// Where a box that suppresses a given candidate can be: kept boxes hashed by size and place.
//
// IoU(a, b) > t bounds the pair in each axis by itself, because the IoU of two boxes is at most the IoU of
// their sides seen as intervals. For widths u, v with centres a distance d apart that means
//     t < u / v < 1 / t     and     d < (u + v) / 2 * (1 - t) / (1 + t).
// So boxes are sorted into classes of similar width and height, each class into cells about as large as that
// distance, and a candidate looks at a few cells of one to four classes. Kept boxes cannot overlap much, so
// that these hold a number of boxes that depends on t, not on n: a query takes constant time, and the grid
// O(n) time and memory.
//
// Cells are hashed into a table of at most 2 n buckets, so that neither the extent of the scene nor outliers
// matter; collisions cost tests, never correctness. Cells that are neighbours in x stay neighbours. A bucket
// owns a run of slots in one array of blocks, as many as candidates fall into it; kept boxes fill its front.
// A slot not filled overlaps nothing, so reading past the end of a run is harmless, and a few buckets in a
// row are read in one go.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/buffer.h"
#include "ops/nms/suppression_cpu.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {

struct Interval {
  double centre, size;
};

template <typename T>
static inline Interval horizontal(const Box<T>& box) {
  return {0.5 * double(box.x1) + 0.5 * double(box.x2), double(box.x2) - double(box.x1)};
}

template <typename T>
static inline Interval vertical(const Box<T>& box) {
  return {0.5 * double(box.y1) + 0.5 * double(box.y2), double(box.y2) - double(box.y1)};
}

// Size classes along one axis, each a factor of 16 wide, and the cells of each.
class GridAxis {
 public:
  // The mean of the sample falls into the middle of a class. A cell is `cell_size` times as large as a box
  // in the middle of its class.
  void fit(const Interval* sample, int64_t count, double cell_size) {
    int64_t sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += logarithm(sample[i].size);
    origin_ = (sum / count - kSpan / 2) % kSpan - kSpan;
    for (int64_t k = 0; k < kClasses; ++k) {
      int64_t middle = origin_ + k * kSpan + kSpan / 2;
      middle = middle < 0x00800000 ? 0x00800000 : middle > 0x7f000000 ? 0x7f000000 : middle;
      cells_per_pixel_[k] = 1 / (cell_size * double(bits_to_float(uint32_t(middle))));
      const int64_t end = origin_ + (k + 1) * kSpan;
      largest_[k] = end < 0x7f800000 ? double(bits_to_float(uint32_t(end))) : DBL_MAX;
    }
  }

  int64_t class_of(double size) const { return (logarithm(size) - origin_) >> kShift; }

  // No side of class k is longer.
  double largest(int64_t k) const { return largest_[k]; }

  // Distance from the origin in cells of class k.
  double position(int64_t k, double x) const { return x * cells_per_pixel_[k]; }

 private:
  static constexpr int kShift = 23 + 2;
  static constexpr int64_t kSpan = int64_t(1) << kShift;
  static constexpr int64_t kClasses = (int64_t(1) << (31 - kShift)) + 2;

  // The bits of a float: monotone, and 2^23 apart for each factor of two.
  static int64_t logarithm(double size) { return int64_t(float_to_bits(float(size))); }

  int64_t origin_;
  double cells_per_pixel_[kClasses], largest_[kClasses];
};

template <typename T>
class KeptGrid {
 public:
  // For candidates[0 .. n), of which those that are active can be inserted and asked for.
  KeptGrid(const Box<T>* candidates, int64_t n, double threshold)
      : threshold_(threshold < 0x1p-20 ? 0 : threshold * (1 - kSlack)),
        reach_(0.5 * (1 - threshold_) / (1 + threshold_) + kSlack),
        ratio_(threshold_ > 0 ? 1 / threshold_ : DBL_MAX),
        n_(n),
        bits_(table_bits(n)),
        mask_((uint32_t(1) << bits_) - 1),
        buckets_of_(n),
        starts_(int64_t(mask_) + 2),
        filled_(int64_t(mask_) + 2),
        blocks_(assign_slots(candidates, n)) {
    for (int64_t b = 0; b < num_blocks(); ++b) blocks_[b].clear();
  }

  void insert(int64_t i, const Box<T>& box, T bound) {
    const uint32_t bucket = buckets_of_[i];
    const uint32_t slot = starts_[bucket] + filled_[bucket]++;
    blocks_[slot / kLanes<T>].set(int(slot % kLanes<T>), box, bound);
  }

  // Whether a box inserted so far suppresses candidate i.
  bool hit(int64_t i, const Suppression<T>& suppression, const Box<T>& box, T bound) {
    // Most boxes that are suppressed at all are suppressed by one in their own cell. It is looked at first as
    // long as that settles one in eight.
    if (own_tries_ <= 128 + 8 * own_hits_) {
      const uint32_t own = buckets_of_[i];
      ++own_tries_;
      if (hit_in_slots(starts_[own], starts_[own] + filled_[own], suppression, box, bound)) {
        ++own_hits_;
        return true;
      }
    }

    const Interval x = horizontal(box), y = vertical(box);
    const double widest = smaller(x.size * ratio_, max_width_);
    const double highest = smaller(y.size * ratio_, max_height_);
    const int64_t first_w = x_.class_of(larger(x.size * threshold_, min_width_)),
                  last_w = x_.class_of(widest);
    const int64_t first_h = y_.class_of(larger(y.size * threshold_, min_height_)),
                  last_h = y_.class_of(highest);
    for (int64_t h = first_h; h <= last_h; ++h) {
      const double reach_y = reach_ * (y.size + smaller(highest, y_.largest(h)));
      const Range rows = cells_within(y_.position(h, y.centre), y_.position(h, reach_y));
      for (int64_t w = first_w; w <= last_w; ++w) {
        const double reach_x = reach_ * (x.size + smaller(widest, x_.largest(w)));
        const Range columns = cells_within(x_.position(w, x.centre), x_.position(w, reach_x));
        if (hit_in_cells(h, w, rows, columns, suppression, box, bound)) return true;
      }
    }
    return false;
  }

  // Fetches what the candidates soon after i will look at first.
  void prefetch(int64_t i) const {
    if (i + 16 >= n_) return;
    __builtin_prefetch(&starts_[buckets_of_[i + 16]]);
    __builtin_prefetch(&filled_[buckets_of_[i + 16]]);
    const char* block = reinterpret_cast<const char*>(&blocks_[starts_[buckets_of_[i + 8]] / kLanes<T>]);
    for (int64_t offset = 0; offset < int64_t(sizeof(BoxBlock<T>)); offset += 64) {
      __builtin_prefetch(block + offset);
    }
  }

 private:
  static constexpr double kSlack = 1e-5;       // far above the relative error of an IoU in float
  static constexpr double kFarthest = 0x1p60;  // in cells: what still fits an int64_t
  static constexpr double kCellSize = 7;       // in reaches of a mean box; measured

  struct Range {
    int64_t first, last;
  };

  static double smaller(double a, double b) { return a < b ? a : b; }
  static double larger(double a, double b) { return a > b ? a : b; }

  static int64_t floor_of(double position) {
    if (!(position > -kFarthest)) return -int64_t(kFarthest);
    if (position > kFarthest) return int64_t(kFarthest);
    const int64_t truncated = int64_t(position);
    return truncated - (position < double(truncated));
  }

  static Range cells_within(double position, double distance) {
    const double magnitude = position < 0 ? -position : position;
    const double reach = distance + 1e-6 + magnitude * 0x1p-48;
    return {floor_of(position - reach), floor_of(position + reach)};
  }

  // Rows are spread over the table by the golden ratio, which keeps them as far apart as can be.
  uint32_t bucket_of(int64_t h, int64_t w, int64_t row, int64_t column) const {
    const uint64_t spread = uint64_t(row + 0x632be5ab * (h * 64 + w)) * 0x9e3779b97f4a7c15u;
    return uint32_t((spread >> (64 - bits_)) + uint64_t(column)) & mask_;
  }

  uint32_t bucket_of(const Interval& x, const Interval& y) const {
    const int64_t w = x_.class_of(x.size), h = y_.class_of(y.size);
    return bucket_of(h, w, floor_of(y_.position(h, y.centre)), floor_of(x_.position(w, x.centre)));
  }

  bool hit_in_cells(int64_t h, int64_t w, Range rows, Range columns, const Suppression<T>& suppression,
                    const Box<T>& box, T bound) const {
    const int64_t length = columns.last - columns.first;
    // More cells than the table has buckets (slender boxes): look at all of it once.
    if (double(length + 1) * double(rows.last - rows.first + 1) > double(mask_)) {
      return hit_in_slots(0, starts_[int64_t(mask_) + 1], suppression, box, bound);
    }
    for (int64_t row = rows.first; row <= rows.last; ++row) {
      const int64_t first = bucket_of(h, w, row, columns.first), last = first + length;
      if (last <= mask_) {
        if (hit_in_buckets(first, last, suppression, box, bound)) return true;
      } else {
        if (hit_in_buckets(first, mask_, suppression, box, bound)) return true;
        if (hit_in_buckets(0, last - mask_ - 1, suppression, box, bound)) return true;
      }
    }
    return false;
  }

  bool hit_in_buckets(int64_t first, int64_t last, const Suppression<T>& suppression, const Box<T>& box,
                      T bound) const {
    const uint32_t begin = starts_[first], end = starts_[last + 1];
    if (end - begin <= 2 * kLanes<T>) return hit_in_slots(begin, end, suppression, box, bound);
    for (int64_t b = first; b <= last; ++b) {
      if (hit_in_slots(starts_[b], starts_[b] + filled_[b], suppression, box, bound)) return true;
    }
    return false;
  }

  bool hit_in_slots(uint32_t begin, uint32_t end, const Suppression<T>& suppression, const Box<T>& box,
                    T bound) const {
    for (uint32_t b = begin / kLanes<T>; b * kLanes<T> < end; ++b) {
      if (suppression.hit(blocks_[b], box, bound)) return true;
    }
    return false;
  }

  void choose_cells(const Box<T>* candidates, int64_t n) {
    constexpr int64_t kSample = 512;
    Buffer<Interval> x(kSample), y(kSample);
    int64_t count = 0;
    const int64_t step = n / kSample + 1;
    for (int64_t i = 0; i < n; i += step) {
      if (active_area(candidates[i]) == 0) continue;
      x[count] = horizontal(candidates[i]);
      y[count++] = vertical(candidates[i]);
    }
    if (count == 0) x[0] = y[0] = {0, 1}, count = 1;
    x_.fit(x.data(), count, kCellSize * reach_);
    y_.fit(y.data(), count, kCellSize * reach_);
  }

  // 2^bits buckets.
  static int table_bits(int64_t n) {
    int bits = 8;
    while ((int64_t(1) << bits) < n && bits < 31) ++bits;
    return bits;
  }

  // The bucket of each candidate; the slots of each bucket. Returns how many blocks those take.
  int64_t assign_slots(const Box<T>* candidates, int64_t n) {
    choose_cells(candidates, n);
    const int64_t buckets = int64_t(mask_) + 1;
    memset(filled_.data(), 0, (buckets + 1) * sizeof(uint32_t));
    max_width_ = max_height_ = 0;
    min_width_ = min_height_ = DBL_MAX;
    for (int64_t i = 0; i < n; ++i) {
      buckets_of_[i] = 0;
      if (active_area(candidates[i]) == 0) continue;
      const Interval x = horizontal(candidates[i]), y = vertical(candidates[i]);
      max_width_ = larger(max_width_, x.size);
      min_width_ = smaller(min_width_, x.size);
      max_height_ = larger(max_height_, y.size);
      min_height_ = smaller(min_height_, y.size);
      buckets_of_[i] = bucket_of(x, y);
      ++filled_[buckets_of_[i]];
    }
    uint32_t slots = 0;
    for (int64_t bucket = 0; bucket <= buckets; ++bucket) {
      const uint32_t size = filled_[bucket];
      if (size >= kLanes<T>) slots = (slots + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
      starts_[bucket] = slots;
      slots += size;
      filled_[bucket] = 0;
    }
    return num_blocks();
  }

  // The last bucket, which nobody uses, starts behind all slots.
  int64_t num_blocks() const { return starts_[int64_t(mask_) + 1] / kLanes<T> + 1; }

  int64_t own_tries_ = 0, own_hits_ = 0;
  double threshold_, reach_, ratio_;
  double min_width_, max_width_, min_height_, max_height_;
  GridAxis x_, y_;
  const int64_t n_;
  const int bits_;
  const uint32_t mask_;
  Buffer<uint32_t> buckets_of_;       // [n]
  Buffer<uint32_t> starts_, filled_;  // [buckets + 1]: a bucket's first slot, and how many hold a kept box
  Buffer<BoxBlock<T>> blocks_;
};

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
