// Soft-NMS on the CPU, lazily.
//
// The textbook loop decays every remaining score each time it selects a box. But decays only lower a score,
// and what a box loses depends only on the boxes selected before it, in their order. So a heap holds scores
// that may be out of date, as upper bounds: the top is brought up to date against the boxes selected since,
// and selected if it is still the top. A box whose score falls to the threshold leaves at once. Products are
// formed in the same order as in the textbook loop, so the scores are the same to the last bit.
//
// Cost: at most n x kept / kLanes<T> block tests and O(n) memory, serial. Numerics: T, float for half types;
// scores are rounded to the storage type only when written or compared with the threshold. Equal scores: the
// lower row is selected first.
#include "cpu/buffer.h"
#include "math/box.h"
#include "math/dispatch.h"
#include "ops/nms/kept_list_cpu.h"
#include "ops/soft_nms/soft_nms.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {
namespace {

template <typename T>
struct Entry {
  T score;
  uint32_t row;
  uint32_t seen;  // how many selected boxes the score accounts for

  bool before(const Entry& other) const {
    return score > other.score || (score == other.score && row < other.row);
  }
};

// A binary heap with the entry that comes first at the top.
template <typename T>
class Heap {
 public:
  explicit Heap(int64_t capacity) : entries_(capacity) {}

  bool empty() const { return size_ == 0; }
  Entry<T>& top() { return entries_[0]; }
  void add(const Entry<T>& entry) { entries_[size_++] = entry; }  // order() follows

  void order() {
    for (int64_t i = size_ / 2 - 1; i >= 0; --i) sink(i);
  }

  // After the top got worse.
  void top_changed() { sink(0); }

  void pop() {
    entries_[0] = entries_[--size_];
    if (size_ > 0) sink(0);
  }

 private:
  void sink(int64_t i) {
    const Entry<T> entry = entries_[i];
    for (int64_t child = 2 * i + 1; child < size_; child = 2 * i + 1) {
      if (child + 1 < size_ && entries_[child + 1].before(entries_[child])) ++child;
      if (!entries_[child].before(entry)) break;
      entries_[i] = entries_[child];
      i = child;
    }
    entries_[i] = entry;
  }

  Buffer<Entry<T>> entries_;
  int64_t size_ = 0;
};

template <typename Storage>
void select(const SoftNmsArgs& args) {
  using T = compute_t<Storage>;
  const Storage* boxes = static_cast<const Storage*>(args.boxes);
  const Storage* scores = static_cast<const Storage*>(args.scores);
  Storage* decayed = static_cast<Storage*>(args.decayed);
  const auto decay = SoftNmsDecay<T>::of(args.method, args.sigma, args.iou_threshold);
  const T threshold = as_element<Storage>(args.score_threshold);
  const auto survives = [&](T score) { return widen(narrow<Storage>(score)) > threshold; };

  Heap<T> heap(args.n);
  for (int64_t row = 0; row < args.n; ++row) {
    const T score = widen(scores[row]);
    if (survives(score)) heap.add({score, uint32_t(row), 0});
  }
  heap.order();

  KeptList<T> selected(args.n);
  while (!heap.empty()) {
    Entry<T>& top = heap.top();
    const Box<T> box = load_box(boxes, top.row);
    if (top.seen == selected.size()) {
      args.indices[selected.size()] = top.row;
      decayed[selected.size()] = narrow<Storage>(top.score);
      selected.append(box);
      heap.pop();
      continue;
    }
    const T area = box_area(box);
    T score = top.score;
    selected.visit_neighbours(box, top.seen, [&](const Box<T>& other) {
      score *= decay.weight(box_iou(other, box_area(other), box, area));
    });
    top.score = score;
    top.seen = uint32_t(selected.size());
    if (survives(score)) {
      heap.top_changed();
    } else {
      heap.pop();
    }
  }
  *args.kept = selected.size();
}

}  // namespace

void soft_nms_cpu(const SoftNmsArgs& args, const ParallelFor&) {
  dispatch(args.dtype, [&](auto tag) { select<typename decltype(tag)::type>(args); });
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
