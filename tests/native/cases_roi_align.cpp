// Cases of roi_align, forward and backward, of one map and of pyramids.
#include <memory>

#include "cases.h"
#include "rois.h"

using namespace fastrpn;

namespace {

// Maps, RoIs and their levels; `args` points into them. Each level is half as large as the one before.
template <typename T, typename Roi>
struct Pyramid {
  RoiShape shape;
  RoiAlignArgs args{};
  std::vector<int64_t> elements;  // of each level
  Array<Roi> rois;
  Array<int32_t> roi_levels;

  explicit Pyramid(Source& source)
      : shape(source), rois(shape.num_rois * 5, source.below(2)), roi_levels(shape.num_rois) {
    const double scale = draw_scale(source);
    args.dtype = kDType<T>;
    args.roi_dtype = kDType<Roi>;
    args.num_levels = source.one_of({1, 1, 2, kMaxRoiLevels});
    for (int level = 0; level < args.num_levels; ++level) {
      RoiAlignLevel& map = args.levels[level];
      map.height = source.once_in(32) ? 0 : std::max<int64_t>(1, shape.height >> level);
      map.width = std::max<int64_t>(1, shape.width >> level);
      map.spatial_scale = scale / double(1 << level);
      elements.push_back(shape.batch * shape.channels * map.height * map.width);
    }
    draw_rois(source, shape, scale, rois.data());
    const bool odd = source.once_in(4);
    for (int64_t n = 0; n < shape.num_rois; ++n) {
      roi_levels[n] = odd && source.once_in(8) ? source.one_of({-1, INT32_MIN, INT32_MAX, args.num_levels})
                                               : int32_t(source.below(args.num_levels));
    }
    args.roi_levels = args.num_levels > 1 || source.once_in(4) ? roi_levels.data() : nullptr;
    args.rois = rois.data();
    args.batch = shape.batch;
    args.channels = shape.channels;
    args.num_rois = shape.num_rois;
    args.pooled_height = shape.pooled_height;
    args.pooled_width = shape.pooled_width;
    args.sampling_ratio = source.one_of({0, 2, 1, -1, 3, 70});
    args.aligned = source.once_in(2);
    args.channels_last = shape.channels_last;
  }
};

}  // namespace

void roi_align_case(Source& source) {
  with_roi_dtypes(source, [&](auto type, auto roi_type) {
    using T = decltype(type);
    Pyramid<T, decltype(roi_type)> pyramid(source);
    RoiAlignArgs& args = pyramid.args;
    std::vector<std::unique_ptr<Array<T>>> features;
    const bool odd = source.once_in(2);
    for (int level = 0; level < args.num_levels; ++level) {
      features.push_back(std::make_unique<Array<T>>(pyramid.elements[size_t(level)], source.below(2)));
      draw_numbers(source, features.back()->data(), features.back()->size(), odd);
      args.levels[level].features = features.back()->data();
    }
    Output<T> output(source, pyramid.shape.pooled_elements());
    args.output = output.data();
    run_all_ways(
        source,
        [&](const Kernels& kernels, const ParallelFor& parallel_for) {
          kernels.roi_align(args, parallel_for);
        },
        output);
    if (odd) return;
    for (int64_t i = 0; i < output.size(); ++i) {  // means of numbers in [-1, 1]
      REQUIRE(-1.001 <= widen(output[i]) && widen(output[i]) <= 1.001);
    }
  });
}

void roi_align_backward_case(Source& source) {
  with_roi_dtypes(source, [&](auto type, auto roi_type) {
    using T = decltype(type);
    Pyramid<T, decltype(roi_type)> pyramid(source);
    RoiAlignBackwardArgs args{pyramid.args, nullptr, {}};
    Array<T> gradient(pyramid.shape.pooled_elements(), source.below(2));
    draw_numbers(source, gradient.data(), gradient.size(), source.once_in(2));
    args.grad_output = gradient.data();
    // The results of all levels one after the other, behind each other's ends.
    int64_t all = 0;
    for (int64_t size : pyramid.elements) all += size;
    Output<T> together(source, all);
    std::vector<std::unique_ptr<Array<T>>> results;
    for (size_t level = 0; level < pyramid.elements.size(); ++level) {
      results.push_back(std::make_unique<Array<T>>(pyramid.elements[level], source.below(2)));
      args.grad_features[level] = results.back()->data();
    }
    run_all_ways(
        source,
        [&](const Kernels& kernels, const ParallelFor& parallel_for) {
          T* to = together.data();
          for (const auto& result : results) {
            if (result->size() > 0)
              std::memcpy(static_cast<void*>(result->data()), to, size_t(result->size()) * sizeof(T));
          }
          kernels.roi_align_backward(args, parallel_for);
          for (const auto& result : results)
            to = std::copy(result->data(), result->data() + result->size(), to);
        },
        together);
  });
}
