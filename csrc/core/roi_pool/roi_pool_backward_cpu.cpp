// roi_pool backward on the CPU: every gradient goes to the cell that won its bin.
//
// A thread owns some channels of an image and walks the RoIs in order, so that each element of the result has
// one owner, and the sum does not depend on the number of threads; in float32 it equals torchvision's bit for
// bit. Work: one addition for each element of grad_output. Half types are summed in float and rounded once.
#include "core/roi_pool/roi_pool.h"
#include "core/roi_tiles.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {
namespace {

template <typename T, typename Stored>
void add_plane(const RoiPoolBackwardArgs& args, const int64_t* image_of, int64_t image, int64_t channel,
               T* plane) {
  const int64_t bins = args.pooled_height * args.pooled_width;
  const int64_t stride = args.channels_last ? args.channels : 1;
  for (int64_t n = 0; n < args.num_rois; ++n) {
    if (image_of[n] != image) continue;
    const int64_t first = n * args.channels * bins + channel * (args.channels_last ? 1 : bins);
    const Stored* grad = static_cast<const Stored*>(args.grad_output) + first;
    const int32_t* argmax = args.argmax + first;
    for (int64_t i = 0; i < bins * stride; i += stride) {
      if (argmax[i] >= 0) plane[argmax[i]] += widen(grad[i]);
    }
  }
}

template <typename Stored>
void scatter(const RoiPoolBackwardArgs& args, const ParallelFor& parallel_for) {
  using T = compute_t<Stored>;
  const int64_t plane = args.height * args.width;
  Buffer<T> rois(5 * args.num_rois);
  widen_rois<T>(args.rois, args.roi_dtype, args.num_rois, rois);
  Buffer<int64_t> image_of(args.num_rois);
  for (int64_t n = 0; n < args.num_rois; ++n) image_of[n] = roi_image(rois + 5 * n, args.batch);

  parallel_for(args.batch * args.channels, 1, [&](int64_t begin, int64_t end) {
    Buffer<T> sum(plane);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / args.channels, channel = unit % args.channels;
      memset(sum, 0, size_t(plane) * sizeof(T));
      add_plane<T, Stored>(args, image_of, image, channel, sum);
      Stored* to = static_cast<Stored*>(args.grad_features) + image * args.channels * plane;
      if (args.channels_last) {
        for (int64_t i = 0; i < plane; ++i) to[i * args.channels + channel] = narrow<Stored>(sum[i]);
      } else {
        for (int64_t i = 0; i < plane; ++i) to[channel * plane + i] = narrow<Stored>(sum[i]);
      }
    }
  });
}

}  // namespace

void roi_pool_backward_cpu(const RoiPoolBackwardArgs& args, const ParallelFor& parallel_for) {
  switch (args.dtype) {
    case DType::float16:
      return scatter<half_t>(args, parallel_for);
    case DType::bfloat16:
      return scatter<bfloat16_t>(args, parallel_for);
    case DType::float32:
      return scatter<float>(args, parallel_for);
    case DType::float64:
      return scatter<double>(args, parallel_for);
  }
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
