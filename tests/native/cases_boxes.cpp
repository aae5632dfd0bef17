// Cases of box_iou, nms and soft_nms.
#include <algorithm>
#include <numeric>

#include "cases.h"
#include "math/box.h"

using namespace fastrpn;

void box_iou_case(Source& source) {
  with_dtype(source, [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const int64_t first = source.length(129, 300), second = source.size(129, 300);
    const bool turned = source.once_in(2);
    const int64_t n = turned ? second : first, m = turned ? first : second;
    Array<T> boxes1(4 * n, source.below(2)), boxes2(4 * m, source.below(2));
    draw_boxes(source, boxes1.data(), n);
    draw_boxes(source, boxes2.data(), m);
    Output<C> iou(source, n * m);
    const BoxIouArgs args{kDType<T>, boxes1.data(), boxes2.data(), n, m, iou.data()};
    run_all_ways(
        source,
        [&](const Kernels& kernels, const ParallelFor& parallel_for) { kernels.box_iou(args, parallel_for); },
        iou);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < m; ++j) {
        const Box<C> a = load_box(boxes1.data(), i), b = load_box(boxes2.data(), j);
        REQUIRE(same(iou[i * m + j], box_iou(a, box_area(a), b, box_area(b))));
      }
    }
  });
}

namespace {

// The definition: rows in the order of their scores, each kept unless one kept before suppresses it.
template <typename T>
std::vector<int64_t> nms_plainly(const NmsArgs& args, int64_t image) {
  using C = compute_t<T>;
  const T* boxes = static_cast<const T*>(args.boxes) + image * args.n * 4;
  const T* scores = static_cast<const T*>(args.scores) + image * args.n;
  const int64_t* groups = args.groups == nullptr ? nullptr : args.groups + image * args.n;
  std::vector<int64_t> order, kept;
  const int64_t count = args.counts == nullptr ? args.n : std::min(args.counts[image], args.n);
  for (int64_t row = 0; row < count; ++row) {
    const bool counts = !args.has_score_threshold || widen(scores[row]) > as_element<T>(args.score_threshold);
    if (counts) order.push_back(row);
  }
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const C x = widen(scores[a]), y = widen(scores[b]);
    return x > y || (x != x && y == y);
  });
  for (int64_t row : order) {
    if (int64_t(kept.size()) == args.max_output) break;
    const Box<C> box = load_box(boxes, row);
    const bool suppressed = std::any_of(kept.begin(), kept.end(), [&](int64_t other) {
      if (groups != nullptr && groups[row] != groups[other]) return false;
      const Box<C> kept_box = load_box(boxes, other);
      return double(box_iou(kept_box, box_area(kept_box), box, box_area(box))) > args.iou_threshold;
    });
    if (!suppressed) kept.push_back(row);
  }
  return kept;
}

}  // namespace

void nms_case(Source& source) {
  with_dtype(source, [&](auto type) {
    using T = decltype(type);
    NmsArgs args{};
    args.dtype = kDType<T>;
    args.batch = source.one_of({1, 1, 1, 3});
    args.n = source.size(600, source.one_of({2500, 9000}));
    args.iou_threshold = draw_threshold(source);
    args.max_output = source.one_of<int64_t>({args.n, args.n, 0, 1, args.n / 2, args.n + 3});
    args.has_score_threshold = source.once_in(4);
    args.score_threshold = source.once_in(4) ? source.odd_number() : 0.25;
    Array<T> boxes(args.batch * args.n * 4, source.below(2)), scores(args.batch * args.n, source.below(2));
    draw_boxes(source, boxes.data(), args.batch * args.n);
    draw_numbers(source, scores.data(), scores.size(), source.once_in(2));
    args.boxes = boxes.data();
    args.scores = scores.data();
    Array<int64_t> groups(args.batch * args.n), counts(args.batch);
    const int64_t num_groups = source.one_of({1, 3, 100}), first_group = source.one_of({INT64_MIN, -1L, 0L});
    for (int64_t i = 0; i < groups.size(); ++i) groups[i] = first_group + source.below(num_groups);
    if (source.once_in(8) && groups.size() > 0) groups[0] = INT64_MAX;
    for (int64_t b = 0; b < args.batch; ++b) counts[b] = source.below(args.n + 2);
    args.groups = source.once_in(2) ? groups.data() : nullptr;
    args.counts = source.once_in(3) ? counts.data() : nullptr;
    Output<int64_t> indices(source, args.batch * args.max_output), kept(source, args.batch);
    args.indices = indices.data();
    args.kept = kept.data();
    run_all_ways(
        source,
        [&](const Kernels& kernels, const ParallelFor& parallel_for) { kernels.nms(args, parallel_for); },
        indices, kept);
    for (int64_t b = 0; b < args.batch; ++b) {
      REQUIRE(0 <= kept[b] && kept[b] <= std::min(args.max_output, args.n));
      const int64_t* rows = indices.data() + b * args.max_output;
      for (int64_t i = 0; i < args.max_output; ++i) {
        REQUIRE(i < kept[b] ? 0 <= rows[i] && rows[i] < args.n : rows[i] == -1);
      }
      if (args.n > 600) continue;
      const std::vector<int64_t> expected = nms_plainly<T>(args, b);
      REQUIRE(std::equal(expected.begin(), expected.end(), rows, rows + kept[b]));
    }
  });
}

void soft_nms_case(Source& source) {
  with_dtype(source, [&](auto type) {
    using T = decltype(type);
    using C = compute_t<T>;
    const int64_t n = source.size(129, 700);
    const double score_threshold = source.one_of({0.0, 0.001, 0.25});
    Array<T> boxes(n * 4, source.below(2)), scores(n, source.below(2));
    draw_boxes(source, boxes.data(), n);
    draw_numbers(source, scores.data(), n, source.once_in(2));
    Output<int64_t> indices(source, n), kept(source, 1);
    Output<T> decayed(source, n);
    SoftNmsArgs args{kDType<T>,
                     boxes.data(),
                     scores.data(),
                     n,
                     SoftNmsMethod(source.below(2)),
                     source.one_of({0.5, 1e-3, 1e30}),
                     draw_threshold(source),
                     score_threshold,
                     indices.data(),
                     decayed.data(),
                     kept.data()};
    run_all_ways(
        source,
        [&](const Kernels& kernels, const ParallelFor& parallel_for) {
          kernels.soft_nms(args, parallel_for);
          REQUIRE(0 <= kept[0] && kept[0] <= n);
          std::fill(indices.data() + kept[0], indices.data() + n, -1);  // what lies beyond is not said
          std::fill(decayed.data() + kept[0], decayed.data() + n, T{});
        },
        indices, kept, decayed);
    std::vector<bool> seen(size_t(n), false);
    const T threshold = narrow<T>(C(score_threshold));
    for (int64_t i = 0; i < kept[0]; ++i) {
      REQUIRE(0 <= indices[i] && indices[i] < n && !seen[size_t(indices[i])]);
      seen[size_t(indices[i])] = true;
      REQUIRE(widen(decayed[i]) >= widen(threshold));
      REQUIRE(widen(decayed[i]) <= widen(scores[indices[i]]));
      REQUIRE(i == 0 || widen(decayed[i]) <= widen(decayed[i - 1]));
    }
  });
}
