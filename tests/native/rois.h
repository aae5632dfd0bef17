// What the cases of both RoI operators share.
#pragma once

#include "cases.h"
#include "math/roi.h"

// Shape of the maps, the bins and the RoIs.
struct RoiShape {
  int64_t batch, channels, height, width, num_rois, pooled_height, pooled_width;
  bool channels_last;

  explicit RoiShape(Source& source)
      : batch(source.length(3, 2)),
        channels(source.length(70, 64)),
        height(source.length(33, 20)),
        width(source.length(33, 20)),
        num_rois(source.size(17, 40)),
        pooled_height(source.length(7, 7)),
        pooled_width(source.length(7, 7)),
        channels_last(source.once_in(2)) {
    // Every few cases a map too large to pack for one RoI, and few channels.
    if (source.once_in(16))
      batch = 1, height = 260, width = 520, channels = 1 + channels % 2, num_rois = 1 + num_rois % 2;
  }

  int64_t map_elements() const { return batch * channels * height * width; }
  int64_t bins() const { return pooled_height * pooled_width; }
  int64_t pooled_elements() const { return num_rois * channels * bins(); }
  // Where the argmax of an element of the output points: its element in the maps.
  int64_t map_element(int64_t image, int64_t output, int64_t cell) const {
    const int64_t channel = channels_last ? output % channels : output / bins() % channels;
    return channels_last ? (image * height * width + cell) * channels + channel
                         : (image * channels + channel) * height * width + cell;
  }
};

inline double draw_scale(Source& source) {
  return source.once_in(16) ? source.odd_number() : source.one_of({1.0, 0.5, 0.0625});
}

// [num_rois, 5] RoIs within the maps, across their borders or anywhere.
template <typename T>
void draw_rois(Source& source, const RoiShape& shape, double scale, T* rois) {
  const bool odd = source.once_in(2);
  const double across = double(shape.width) / scale, down = double(shape.height) / scale;
  for (int64_t n = 0; n < shape.num_rois; ++n) {
    const double roi[5] = {double(source.below(shape.batch)), source.number(-0.2, 1.0) * across,
                           source.number(-0.2, 1.0) * down, source.number(0.0, 1.2) * across,
                           source.number(0.0, 1.2) * down};
    for (int i = 0; i < 5; ++i) {
      rois[5 * n + i] = stored<T>(odd && source.once_in(16) ? source.odd_number() : roi[i]);
    }
  }
}

// Calls visit(T(), RoI type()) for element types of the source's choice.
template <typename Visit>
void with_roi_dtypes(Source& source, const Visit& visit) {
  with_dtype(source, [&](auto type) {
    if (sizeof(type) == 2 && source.once_in(2)) return visit(type, float());
    visit(type, type);
  });
}
