// Candidates in chunks, for NMS by blocks: kLanes<T> of them are compared with many kept boxes in one loop
// without a branch, and those that are suppressed leave their chunk.
#pragma once

#include <cstdint>

#include "cpu/buffer.h"
#include "ops/nms/kept_list_cpu.h"
#include "ops/nms/suppression_cpu.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {

// The boxes of one group: row `rows[i]` of `boxes` is the i-th candidate.
template <typename Storage>
struct Candidates {
  using T = compute_t<Storage>;
  const Storage* boxes;
  const uint32_t* rows;
  int64_t size;

  Box<T> operator[](int64_t i) const { return load_box(boxes, rows[i]); }
};

// A box with its bound, for Suppression.
template <typename T>
struct Bounded {
  Box<T> box;
  T bound;
};

// Lanes of a block that one of the kept boxes suppresses. Nothing branches on a box but where rounding
// decides.
template <typename T, bool kAsIntegers>
uint32_t suppressed_lanes(const BoxBlock<T>& block, const Bounded<T>* kept, int64_t count,
                          const Suppression<T>& suppression) {
  const auto excess = [&](int64_t k) {
    return suppression.template excess<kAsIntegers>(block, kept[k].box, kept[k].bound);
  };
  // Two chains of maxima, since each takes 4 cycles.
  Vec<T> greatest = splat(-FloatLimits<T>::max), greatest_odd = greatest;
  int64_t k = 0;
  for (; k + 2 <= count; k += 2) {
    greatest = max(excess(k), greatest);
    greatest_odd = max(excess(k + 1), greatest_odd);
  }
  if (k < count) greatest = max(excess(k), greatest);
  greatest = max(greatest, greatest_odd);
  const auto verdict = suppression.judge(block, greatest);
  uint32_t lanes = verdict.sure;
  for (k = 0; k < count && (verdict.unsure & ~lanes) != 0; ++k) {
    lanes |= suppression.exactly(block, kept[k].box) & verdict.unsure;
  }
  return lanes;
}

// Some candidates in a row that no kept box has suppressed yet, and their positions.
template <typename T>
class Chunk {
 public:
  static constexpr int64_t kCapacity = 256;

  // Takes candidates from number `first` on; returns whether the area of one is extreme.
  template <typename Storage>
  bool load(const Candidates<Storage>& candidates, int64_t first, const Suppression<T>& suppression) {
    size_ = candidates.size - first < kCapacity ? candidates.size - first : kCapacity;
    for (int64_t i = 0; i < blocks() * kLanes<T>; ++i) {
      const Box<T> box = i < size_ ? candidates[first + i] : Box<T>{};
      blocks_[i / kLanes<T>].set(int(i % kLanes<T>), box, T(0));
      positions_[i] = uint32_t(first + i);
    }
    bool found_extreme = false;
    has_no_sign_ = true;
    for (int64_t b = 0; b < blocks(); ++b) {
      found_extreme |= suppression.set_bounds(blocks_[b]);
      has_no_sign_ &= blocks_[b].has_no_sign();
    }
    return found_extreme;
  }

  int64_t size() const { return size_; }
  int64_t blocks() const { return (size_ + kLanes<T> - 1) / kLanes<T>; }
  const BoxBlock<T>& block(int64_t b) const { return blocks_[b]; }
  uint32_t position(int64_t i) const { return positions_[i]; }

  // Lanes of a block, of those that hold a candidate, that none of the kept boxes suppresses.
  uint32_t open_lanes(int64_t b, const Bounded<T>* kept, int64_t count,
                      const Suppression<T>& suppression) const {
    const auto suppressed =
        has_no_sign_ ? suppressed_lanes<T, kComparesIntegers<T>> : suppressed_lanes<T, false>;
    const int64_t rest = size_ - b * kLanes<T>;
    const uint32_t filled = (uint32_t(1) << (rest < kLanes<T> ? rest : kLanes<T>)) - 1;
    return filled & ~suppressed(blocks_[b], kept, count, suppression);
  }

  // Removes those that one of the kept boxes suppresses; the rest moves up.
  void remove_suppressed(const Bounded<T>* kept, int64_t count, const Suppression<T>& suppression) {
    int64_t left = 0;
    const int64_t end = blocks();
    for (int64_t b = 0; b < end; ++b) {
      const uint32_t open = open_lanes(b, kept, count, suppression);
      for (uint32_t rest = open; rest != 0; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        blocks_[left / kLanes<T>].set(int(left % kLanes<T>), blocks_[b].box(lane), blocks_[b].bound[lane]);
        positions_[left++] = positions_[b * kLanes<T> + lane];
      }
    }
    size_ = left;
  }

 private:
  BoxBlock<T> blocks_[kCapacity / kLanes<T>];
  uint32_t positions_[kCapacity];
  int64_t size_;
  bool has_no_sign_;
};

// What is kept so far: the positions of all, and the boxes of the active ones.
template <typename T>
struct KeptOfBlocks {
  KeptOfBlocks(uint32_t* positions, int64_t capacity) : positions(positions), active(capacity) {}

  void add(uint32_t position, const Bounded<T>& box) {
    positions[count++] = position;
    active[num_active] = box;
    num_active += box.bound >= 0;  // the bound of others is NaN
  }

  uint32_t* positions;
  Buffer<Bounded<T>> active;
  int64_t count = 0, num_active = 0;
};

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
