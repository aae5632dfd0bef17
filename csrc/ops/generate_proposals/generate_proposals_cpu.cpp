// generate_proposals on the CPU: every level of every image is a task of its own, then the levels of an
// image are merged.
//
// A task reads its logits twice (radix selection, cpu/select.h), decodes the survivors alone, and suppresses
// them with the kernel of nms, which stops once it has kept post_nms_top_n. With A anchors, k survivors of a
// level: O(A + k log k) time, as nms takes linear time (ops/nms/greedy_cpu.h), and O(k) memory for each
// level.
//
// Numerics: math/box.h, in float for half types. Threads share the tasks; their number changes nothing.
#include "cpu/buffer.h"
#include "cpu/select.h"
#include "math/box.h"
#include "math/dispatch.h"
#include "ops/generate_proposals/generate_proposals.h"
#include "ops/nms/greedy_cpu.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {
namespace {

constexpr int64_t kSurvivorsGrain = 512;  // about 50 us of work

template <typename Storage, typename Anchor>
class Proposer {
 public:
  using C = compute_t<Storage>;
  using Item = SortItem<ScoreKey<C>>;

  explicit Proposer(const GenerateProposalsArgs& args)
      : args_(args),
        starts_(args.num_levels + 1),
        survivors_(count_survivors()),
        boxes_(args.batch * survivors_ * 4),
        scores_(args.batch * survivors_),
        kept_(args.batch * survivors_),
        num_kept_(args.batch * args.num_levels) {}

  void run(const ParallelFor& parallel_for) {
    const int64_t levels = args_.num_levels;
    const int64_t grain = 1 + kSurvivorsGrain * levels / (survivors_ + 1);
    parallel_for(args_.batch * levels, grain, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) propose(task / levels, task % levels);
    });
    parallel_for(args_.batch, 1 + 4 * kSurvivorsGrain / (survivors_ + 1), [&](int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) merge_levels(image);
    });
  }

 private:
  // Fills starts_: where each level's survivors begin within an image's. Returns how many there are.
  int64_t count_survivors() {
    int64_t sum = 0;
    for (int64_t level = 0; level < args_.num_levels; ++level) {
      starts_[level] = sum;
      sum += min_of(args_.anchors_per_level[level], args_.pre_nms_top_n);
    }
    return starts_[args_.num_levels] = sum;
  }

  // The kept boxes of one level, in order: kept_ has their places in boxes_ and scores_.
  void propose(int64_t image, int64_t level) {
    int64_t first = 0;
    for (int64_t l = 0; l < level; ++l) first += args_.anchors_per_level[l];
    const Storage* logits = static_cast<const Storage*>(args_.objectness) + image * args_.num_anchors + first;
    const int64_t start = image * survivors_ + starts_[level];
    const int64_t capacity = starts_[level + 1] - starts_[level];

    Buffer<Item> best(capacity);
    Buffer<uint32_t> rows(capacity);
    const int64_t size =
        select_best(logits, args_.anchors_per_level[level], args_.pre_nms_top_n, best.data());
    int64_t num_rows = 0;
    for (int64_t rank = 0; rank < size; ++rank) {
      const int64_t anchor = first + best[rank].index;
      if (decode(image, anchor, start + rank)) rows[num_rows++] = uint32_t(rank);
    }
    uint32_t* kept = kept_.data() + start;
    const int64_t count = greedy<C>({boxes_.data() + 4 * start, rows.data(), num_rows}, args_.nms_threshold,
                                    args_.post_nms_top_n, kept);
    for (int64_t i = 0; i < count; ++i) kept[i] = rows[kept[i]];
    num_kept_[image * args_.num_levels + level] = count;
  }

  // Writes the clipped box and the score of an anchor to `place`; false if it does not take part.
  bool decode(int64_t image, int64_t anchor, int64_t place) {
    const int64_t row = image * args_.num_anchors + anchor;
    const Storage* deltas = static_cast<const Storage*>(args_.deltas) + 4 * row;
    const C widened[4] = {widen(deltas[0]), widen(deltas[1]), widen(deltas[2]), widen(deltas[3])};
    const Box<C> anchor_box = load_box(static_cast<const Anchor*>(args_.anchors), anchor);
    const int64_t* height_width = args_.image_sizes + 2 * image;
    const Box<C> box = clip_box(decode_box(widened, anchor_box), C(height_width[1]), C(height_width[0]));
    const C score = sigmoid(widen(static_cast<const Storage*>(args_.objectness)[row]));
    C* out = boxes_.data() + 4 * place;
    out[0] = box.x1, out[1] = box.y1, out[2] = box.x2, out[3] = box.y2;
    scores_[place] = score;
    return is_large_enough(box, C(args_.min_size)) && score == score;
  }

  // The best of all levels by score, then level, then rank.
  void merge_levels(int64_t image) {
    Buffer<Item> items(survivors_);
    int64_t size = 0;
    for (int64_t level = 0; level < args_.num_levels; ++level) {
      const int64_t start = image * survivors_ + starts_[level];
      for (int64_t i = 0; i < num_kept_[image * args_.num_levels + level]; ++i) {
        const int64_t place = start + kept_[start + i];
        items[size++] = {descending_key(scores_[place]), uint32_t(place - image * survivors_)};
      }
    }
    if (args_.num_levels > 1) stable_sort(items.data(), size);

    const int64_t capacity = args_.post_nms_top_n, count = min_of(size, capacity);
    C* proposals = static_cast<C*>(args_.proposals) + image * capacity * 4;
    C* scores = static_cast<C*>(args_.scores) + image * capacity;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t place = image * survivors_ + items[i].index;
      memcpy(proposals + 4 * i, boxes_.data() + 4 * place, 4 * sizeof(C));
      scores[i] = scores_[place];
    }
    memset(proposals + 4 * count, 0, size_t(capacity - count) * 4 * sizeof(C));
    memset(scores + count, 0, size_t(capacity - count) * sizeof(C));
    args_.counts[image] = count;
  }

  const GenerateProposalsArgs& args_;
  Buffer<int64_t> starts_;    // [levels + 1]
  const int64_t survivors_;   // of an image
  Buffer<C> boxes_;           // [batch, survivors, 4]
  Buffer<C> scores_;          // [batch, survivors]
  Buffer<uint32_t> kept_;     // [batch, survivors]: of each level, its kept ranks at the front
  Buffer<int64_t> num_kept_;  // [batch, levels]
};

template <typename Storage>
void run(const GenerateProposalsArgs& args, const ParallelFor& parallel_for) {
  if constexpr (sizeof(Storage) == 2) {
    if (args.anchor_dtype == DType::float32) return Proposer<Storage, float>(args).run(parallel_for);
  }
  Proposer<Storage, Storage>(args).run(parallel_for);
}

}  // namespace

void generate_proposals_cpu(const GenerateProposalsArgs& args, const ParallelFor& parallel_for) {
  dispatch(args.dtype, [&](auto tag) { run<typename decltype(tag)::type>(args, parallel_for); });
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
