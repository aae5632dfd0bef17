// roi_pool backward on the CPU: every gradient goes to the cell that won its bin.
//
// A thread owns a block of channels of an image and walks the RoIs in order, so that each element of the
// result has one owner, and the sum does not depend on the number of threads; in float32 it equals
// torchvision's bit for bit. Work: one addition for each element of grad_output, and the result is written
// once. Sums live in the layout of the gradients, [channel][cell] or [cell][channel], so that each RoI is
// read as it lies, and in the result where it has room for them; half types are summed in float and rounded
// once.
#include "cpu/roi_tiles.h"
#include "math/dispatch.h"
#include "ops/roi_pool/roi_pool.h"

namespace fastrpn::FASTRPN_SIMD_LEVEL {
namespace {

// Channels a thread sums at once. NCHW: so few that their planes stay in the cache. Channels last: as many
// as there are for each thread, because then gradients are read in one stream.
int64_t owned_channels(const RoiPoolBackwardArgs& args, const ParallelFor& parallel_for) {
  const int64_t unit = args.channels_last ? 64 : 32;
  const int64_t share = args.channels_last ? args.channels / parallel_for.num_threads : 1;
  const int64_t owned = (share + unit - 1) / unit * unit;
  return owned < unit ? unit : owned;
}

// Adds a RoI's gradients to sums[cell][channels].
template <typename T, typename Stored>
void add_cells(const Stored* grad, const int32_t* argmax, int64_t channels, const PooledLayout& layout,
               int64_t plane, T* sums) {
  for (int64_t bin = 0; bin < layout.bins; ++bin, grad += layout.channels, argmax += layout.channels) {
    for (int64_t c = 0; c < channels; ++c) {
      if (uint64_t(argmax[c]) < uint64_t(plane)) sums[argmax[c] * channels + c] += widen(grad[c]);
    }
  }
}

// Adds a RoI's gradients to sums[channels][plane]. Those of the next RoI lie `ahead` elements further, where
// no processor expects them: they are asked for early.
template <typename T, typename Stored>
void add_planes(const Stored* grad, const int32_t* argmax, int64_t channels, const PooledLayout& layout,
                int64_t plane, int64_t ahead, T* sums) {
  for (int64_t c = 0; c < channels; ++c, grad += layout.bins, argmax += layout.bins, sums += plane) {
    for (int64_t bin = 0; bin < layout.bins; bin += 16) {
      __builtin_prefetch(grad + ahead + bin);
      __builtin_prefetch(argmax + ahead + bin);
    }
    for (int64_t bin = 0; bin < layout.bins; ++bin) {
      if (uint64_t(argmax[bin]) < uint64_t(plane)) sums[argmax[bin]] += widen(grad[bin]);
    }
  }
}

template <typename Stored>
void scatter(const RoiPoolBackwardArgs& args, const ParallelFor& parallel_for) {
  using T = compute_t<Stored>;
  const int64_t plane = args.height * args.width;
  const int64_t owned = owned_channels(args, parallel_for);
  const int64_t blocks = (args.channels + owned - 1) / owned;
  const PooledLayout layout = {args.channels, args.pooled_height * args.pooled_width, args.channels_last};
  // Planes of the result itself can hold the sums.
  const bool in_place = sizeof(T) == sizeof(Stored) && !args.channels_last;
  Buffer<T> rois(5 * args.num_rois);
  widen_rois(args.rois, args.roi_dtype, args.num_rois, rois.data());
  Buffer<int64_t> image_of(args.num_rois);
  for (int64_t n = 0; n < args.num_rois; ++n) image_of[n] = roi_image(rois.data() + 5 * n, args.batch);

  parallel_for(args.batch * blocks, 1, [&](int64_t begin, int64_t end) {
    const int64_t most = args.channels < owned ? args.channels : owned;
    Buffer<T> scratch(in_place ? 0 : plane * most);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / blocks, channel = unit % blocks * owned;
      const int64_t channels = args.channels - channel < owned ? args.channels - channel : owned;
      Stored* to = static_cast<Stored*>(args.grad_features) + image * args.channels * plane;
      T* sums = in_place ? reinterpret_cast<T*>(to + channel * plane) : scratch.data();
      memset(sums, 0, size_t(plane * channels) * sizeof(T));
      for (int64_t n = 0; n < args.num_rois; ++n) {
        if (image_of[n] != image) continue;
        const int64_t from = layout.offset(n, channel);
        const Stored* grad = static_cast<const Stored*>(args.grad_output) + from;
        if (args.channels_last) {
          add_cells(grad, args.argmax + from, channels, layout, plane, sums);
        } else {
          const int64_t ahead = n + 1 < args.num_rois ? layout.roi_size() : 0;
          add_planes(grad, args.argmax + from, channels, layout, plane, ahead, sums);
        }
      }
      if (in_place) continue;
      if (args.channels_last) {
        for (int64_t i = 0; i < plane; ++i) {
          for (int64_t c = 0; c < channels; ++c) {
            to[i * args.channels + channel + c] = narrow<Stored>(sums[i * channels + c]);
          }
        }
      } else {
        to += channel * plane;
        for (int64_t i = 0; i < plane * channels; ++i) to[i] = narrow<Stored>(sums[i]);
      }
    }
  });
}

}  // namespace

void roi_pool_backward_cpu(const RoiPoolBackwardArgs& args, const ParallelFor& all_threads) {
  const int64_t elements = args.channels * (args.num_rois * args.pooled_height * args.pooled_width +
                                            args.batch * args.height * args.width);
  const ParallelFor parallel_for = threads_for(elements, all_threads);
  dispatch(args.dtype, [&](auto tag) { scatter<typename decltype(tag)::type>(args, parallel_for); });
}

}  // namespace fastrpn::FASTRPN_SIMD_LEVEL
