// Cases of roi_pool, forward and backward.
#include "cases.h"
#include "rois.h"

using namespace fastrpn;

void roi_pool_case(Source& source) {
  with_roi_dtypes(source, [&](auto type, auto roi_type) {
    using T = decltype(type);
    using Roi = decltype(roi_type);
    const RoiShape shape(source);
    const double scale = draw_scale(source);
    Array<T> features(shape.map_elements(), source.below(2));
    Array<Roi> rois(shape.num_rois * 5, source.below(2));
    draw_numbers(source, features.data(), features.size(), source.once_in(2));
    draw_rois(source, shape, scale, rois.data());
    Output<T> output(source, shape.pooled_elements());
    Output<int32_t> argmax(source, shape.pooled_elements());
    const RoiPoolArgs args{kDType<T>,           kDType<Roi>,         features.data(),    rois.data(),
                           shape.batch,         shape.channels,      shape.height,       shape.width,
                           shape.num_rois,      shape.pooled_height, shape.pooled_width, scale,
                           shape.channels_last, output.data(),       argmax.data()};
    RoiPoolArgs without_argmax = args;
    without_argmax.argmax = nullptr;
    run_all_ways(
        source,
        [&](const Kernels& kernels, const ParallelFor& parallel_for) {
          kernels.roi_pool(without_argmax, parallel_for);
        },
        output);
    run_all_ways(
        source,
        [&](const Kernels& kernels, const ParallelFor& parallel_for) {
          kernels.roi_pool(args, parallel_for);
        },
        output, argmax);
    for (int64_t i = 0; i < output.size(); ++i) {
      REQUIRE(-1 <= argmax[i] && argmax[i] < shape.height * shape.width);
      if (argmax[i] < 0) continue;
      const auto image = int64_t(widen(rois[i / (shape.channels * shape.bins()) * 5]));
      REQUIRE(same(output[i], features[shape.map_element(image, i, argmax[i])]));
    }
  });
}

void roi_pool_backward_case(Source& source) {
  with_roi_dtypes(source, [&](auto type, auto roi_type) {
    using T = decltype(type);
    using Roi = decltype(roi_type);
    const RoiShape shape(source);
    const double scale = draw_scale(source);
    Array<T> gradient(shape.pooled_elements(), source.below(2));
    Array<Roi> rois(shape.num_rois * 5, source.below(2));
    Array<int32_t> argmax(shape.pooled_elements());
    draw_numbers(source, gradient.data(), gradient.size(), source.once_in(2));
    draw_rois(source, shape, scale, rois.data());
    const bool odd = source.once_in(2);  // an argmax that no forward gave must do no harm
    for (int64_t i = 0; i < argmax.size(); ++i) {
      argmax[i] = odd && source.once_in(32)
                      ? source.one_of({INT32_MIN, INT32_MAX, int32_t(shape.height * shape.width)})
                      : int32_t(source.below(shape.height * shape.width + 1)) - 1;
    }
    Output<T> result(source, shape.map_elements());
    const RoiPoolBackwardArgs args{
        kDType<T>,           kDType<Roi>,        gradient.data(), rois.data(),         argmax.data(),
        shape.batch,         shape.channels,     shape.height,    shape.width,         shape.num_rois,
        shape.pooled_height, shape.pooled_width, scale,           shape.channels_last, result.data()};
    run_all_ways(
        source,
        [&](const Kernels& kernels, const ParallelFor& parallel_for) {
          kernels.roi_pool_backward(args, parallel_for);
        },
        result);
  });
}
