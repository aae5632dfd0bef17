// roi_pool on CUDA, forward and backward.
//
// plan: the borders of every RoI's bins, computed once, one thread a RoI.
// forward: a block pools one RoI, a thread one bin for one pack of channels. Channels last: a pack is 16
//   bytes, neighbouring threads take neighbouring packs and a warp reads whole lines. NCHW: a pack is a few
//   planes, neighbouring threads take neighbouring bins, which share cache lines.
//   Cost: every cell of every bin is read once.
// backward: as cuda/gradient_tile.h says; a RoI gives a tile the gradients of the bins whose maximum lies in
//   it. The winners of a bin are read by every tile it touches, each gradient by its winner's tile alone.
//
// Numerics: maxima are exact; gradients are summed in float (float64: double) and rounded once. Equal to the
// CPU kernels bit for bit.
#include "cuda/gradient_tile.h"
#include "cuda/roi.h"
#include "cuda/workspace.h"
#include "ops/roi_pool/roi_pool.h"

namespace fastrpn {
namespace {

constexpr int kThreads = 256;

// Where the plan keeps the borders of RoI n: y_begin[ph], y_end[ph], x_begin[pw], x_end[pw].
struct BorderTable {
  int32_t* image;    // [num_rois], -1: takes no part
  int32_t* borders;  // [num_rois, 2 * (pooled_height + pooled_width)]
  int pooled_height, pooled_width;

  FASTRPN_HD_MEMBER int row_size() const { return 2 * (pooled_height + pooled_width); }
  FASTRPN_HD_MEMBER int32_t* rows(int64_t n) const { return borders + n * row_size(); }
  FASTRPN_HD_MEMBER int32_t* columns(int64_t n) const { return rows(n) + 2 * pooled_height; }
};

template <typename Args>
BorderTable lay_out(const Args& args, WorkspaceCursor& cursor) {
  BorderTable plan{nullptr, nullptr, int(args.pooled_height), int(args.pooled_width)};
  plan.image = cursor.take<int32_t>(args.num_rois);
  plan.borders = cursor.take<int32_t>(args.num_rois * 2 * (args.pooled_height + args.pooled_width));
  return plan;
}

struct Rois {
  const void* data;
  DType dtype;
  int64_t count, batch, height, width;
  double spatial_scale;
};

template <typename C>
__device__ void plan_axis(PoolAxis<C> axis, int pooled, int64_t size, int32_t* begins) {
  for (int i = 0; i < pooled; ++i) {
    int64_t begin, end;
    pool_bin(axis, i, size, &begin, &end);
    begins[i] = int32_t(begin);
    begins[pooled + i] = int32_t(end);
  }
}

template <typename C>
__global__ void __launch_bounds__(kThreads) roi_pool_plan_kernel(Rois rois, BorderTable plan) {
  const int64_t n = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (n >= rois.count) return;
  C roi[5];
  load_roi(rois.data, rois.dtype, n, roi);
  const int64_t image = roi_image(roi, rois.batch);
  plan.image[n] = int32_t(image);
  if (image < 0) return;
  const C scale = C(rois.spatial_scale);
  const int ph = plan.pooled_height, pw = plan.pooled_width;
  plan_axis(pool_axis(roi[2], roi[4], scale, ph), ph, rois.height, plan.rows(n));
  plan_axis(pool_axis(roi[1], roi[3], scale, pw), pw, rois.width, plan.columns(n));
}

// grid: x over RoIs, y over (bin, pack of channels); in the order of the output.
template <typename T, int kPack, bool kChannelsLast>
__global__ void __launch_bounds__(kThreads) roi_pool_forward_kernel(RoiPoolArgs args, BorderTable plan) {
  using C = compute_t<T>;
  const int64_t n = blockIdx.x;
  const int bins = plan.pooled_height * plan.pooled_width;
  const int packs = int(args.channels) / kPack;
  const int item = int(blockIdx.y) * kThreads + int(threadIdx.x);
  if (item >= packs * bins) return;
  const int bin = kChannelsLast ? item / packs : item % bins;
  const int64_t channel = (kChannelsLast ? item % packs : item / bins) * kPack;

  const int64_t image = plan.image[n];
  int y_begin = 0, y_end = 0, x_begin = 0, x_end = 0;  // an empty bin, for a RoI that takes no part
  if (image >= 0) {
    const int ph = bin / plan.pooled_width, pw = bin % plan.pooled_width;
    y_begin = plan.rows(n)[ph], y_end = plan.rows(n)[plan.pooled_height + ph];
    x_begin = plan.columns(n)[pw], x_end = plan.columns(n)[plan.pooled_width + pw];
  }
  const bool empty = y_begin >= y_end || x_begin >= x_end;

  C best[kPack];
  int32_t at[kPack];
  for (int k = 0; k < kPack; ++k) {
    best[k] = empty ? C(0) : C(kLowest<T>);
    at[k] = -1;
  }
  const int64_t cell_stride = kChannelsLast ? args.channels : 1;
  const int64_t channel_stride = kChannelsLast ? 1 : args.height * args.width;
  const T* features = static_cast<const T*>(args.features) + channel * channel_stride;
  if (!empty) features += image * args.channels * args.height * args.width;
  for (int y = y_begin; y < y_end; ++y) {
    const T* row = features + y * args.width * cell_stride;
    unsigned cell = unsigned(y) * unsigned(args.width) + unsigned(x_begin);  // fits where argmax is wanted
    for (int x = x_begin; x < x_end; ++x, ++cell) {
      const auto pack = load_channels<kPack, kChannelsLast>(row + x * cell_stride, channel_stride);
      for (int k = 0; k < kPack; ++k) {
        const C value = widen(pack.values[k]);
        if (value > best[k]) {
          best[k] = value;
          at[k] = int32_t(cell);
        }
      }
    }
  }

  const int64_t to =
      n * args.channels * bins + (kChannelsLast ? int64_t(item) * kPack : channel * bins + bin);
  Pack<T, kPack> output;
  for (int k = 0; k < kPack; ++k) output.values[k] = narrow<T>(best[k]);
  store_channels<kPack, kChannelsLast>(output, static_cast<T*>(args.output) + to, bins);
  if (args.argmax == nullptr) return;
  constexpr int kStore = kPack < 4 ? kPack : 4;  // 16 bytes, where there are as many
  for (int k = 0; k < kPack; k += kStore) {
    Pack<int32_t, kStore> cells;
    for (int i = 0; i < kStore; ++i) cells.values[i] = at[k + i];
    int32_t* at_to = args.argmax + to + (kChannelsLast ? k : int64_t(k) * bins);
    store_channels<kStore, kChannelsLast>(cells, at_to, bins);
  }
}

// What the RoIs give a tile of an image's map (cuda/gradient_tile.h).
template <typename T, bool kChannelsLast>
struct PoolSource {
  using C = compute_t<T>;
  using Sums = C[kTileChannels<C>];
  using Winners = uint8_t[kTileChannels<C>];

  const BorderTable& plan;
  const T* grads;  // of the block's first channel
  const int32_t* argmax;
  int64_t channels, lanes;
  int image, height, width, tile_y, tile_x;
  Sums* sums;        // [kCells + 1], shared; the last for bins whose maximum lies elsewhere
  Winners* winners;  // [slot], shared: the cell of the tile in which the maximum lies

  __device__ bool touches(int64_t n) const {
    if (plan.image[n] != image) return false;
    const int32_t* y = plan.rows(n);
    const int32_t* x = plan.columns(n);
    return touches_tile(y[0], y[2 * plan.pooled_height - 1], tile_y) &&
           touches_tile(x[0], x[2 * plan.pooled_width - 1], tile_x);
  }
  static __device__ void touching(const int32_t* begins, int count, int low, int* first, int* size) {
    const auto touches = [&](int bin) { return touches_tile(begins[bin], begins[count + bin], low); };
    touching_bins(count, touches, first, size);
  }
  __device__ BinWindow window(int64_t n) const {
    BinWindow found;
    touching(plan.rows(n), plan.pooled_height, tile_y, &found.row, &found.rows);
    touching(plan.columns(n), plan.pooled_width, tile_x, &found.column, &found.columns);
    return found;
  }
  __device__ int64_t prepare(int64_t n, int ph, int pw, int) const {
    const int64_t all = int64_t(plan.pooled_height) * plan.pooled_width;
    return n * channels * all + (ph * plan.pooled_width + pw) * (kChannelsLast ? channels : 1);
  }

  // The cell of the tile in which the maximum lies, or kCells. Numbers of 32 bits, and for each row of the
  // tile a comparison: there are as many of these as gradients.
  __device__ int cell_of(int32_t at) const {
    const unsigned from_first = unsigned(at) - (unsigned(tile_y) * unsigned(width) + unsigned(tile_x));
    const unsigned columns = unsigned(min(kSide, width - tile_x));  // of the tile, on the map
    int cell = kCells;
#pragma unroll
    for (int row = 0; row < kSide; ++row) {
      const unsigned column = from_first - unsigned(row) * unsigned(width);
      if (column < columns && tile_y + row < height) cell = row * kSide + int(column);
    }
    return at < 0 ? kCells : cell;
  }
  __device__ void load(GradientStage<C>& stage, int count) const {
    const int64_t stride = kChannelsLast ? 1 : int64_t(plan.pooled_height) * plan.pooled_width;
    for_places<kChannelsLast, C>(count, lanes, [&](const auto& place) {
      int32_t at[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const auto [slot, lane, exists] = place(k);
        at[k] = argmax[stage.from[slot] + lane * stride];
      }
      T grad[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const auto [slot, lane, exists] = place(k);
        at[k] = cell_of(at[k]);
        grad[k] = at[k] != kCells ? grads[stage.from[slot] + lane * stride] : T();
      }
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const auto [slot, lane, exists] = place(k);
        if (!exists) continue;
        winners[slot][lane] = uint8_t(at[k]);
        stage.grads[slot][lane] = widen(grad[k]);
      }
    });
  }
  __device__ void add(const GradientStage<C>& stage, int slot) {
    sums[winners[slot][threadIdx.x]][threadIdx.x] += stage.grads[slot][threadIdx.x];
  }
};

// grid: x over tiles of the map, y over groups of channels, z over images.
template <typename T, bool kChannelsLast>
__global__ void __launch_bounds__(kTileChannels<compute_t<T>>)
    roi_pool_backward_kernel(RoiPoolBackwardArgs args, BorderTable plan) {
  using C = compute_t<T>;
  using Source = PoolSource<T, kChannelsLast>;
  __shared__ GradientStage<C> stage;
  __shared__ typename Source::Sums sums[kCells + 1];
  __shared__ typename Source::Winners winners[kTileChannels<C>];
  for (int cell = 0; cell <= kCells; ++cell) sums[cell][threadIdx.x] = C(0);
  const int width = int(args.width), tiles_x = ceil_div(width, kSide);
  const int tile_y = int(blockIdx.x) / tiles_x * kSide, tile_x = int(blockIdx.x) % tiles_x * kSide;
  const int64_t channels = args.channels, first_channel = int64_t(blockIdx.y) * kTileChannels<C>;
  const int64_t channel = first_channel + threadIdx.x;
  const int64_t start = first_channel * (kChannelsLast ? 1 : int64_t(plan.pooled_height) * plan.pooled_width);
  Source source{plan,
                static_cast<const T*>(args.grad_output) + start,
                args.argmax + start,
                channels,
                channels - first_channel,
                int(blockIdx.z),
                int(args.height),
                width,
                tile_y,
                tile_x,
                sums,
                winners};
  add_all(stage, source, args.num_rois, channel < channels);
  if (channel >= channels) return;
  T* to = static_cast<T*>(args.grad_features) + blockIdx.z * channels * args.height * args.width;
  const TileOutput<T> output{to, channels, args.height, args.width, tile_y, tile_x};
  output.template write<kChannelsLast>(channel, [&](int cell) { return sums[cell][threadIdx.x]; });
}

template <typename Args>
Status launch_roi_pool_plan(const Args& args, const BorderTable& plan, Stream stream) {
  const Rois rois{args.rois,   args.roi_dtype, args.num_rois,     args.batch,
                  args.height, args.width,     args.spatial_scale};
  const unsigned blocks = unsigned(ceil_div(args.num_rois, int64_t(kThreads)));
  if (blocks == 0) return nullptr;
  return args.dtype == DType::float64
             ? FASTRPN_LAUNCH(roi_pool_plan_kernel<double>, blocks, kThreads, 0, stream, rois, plan)
             : FASTRPN_LAUNCH(roi_pool_plan_kernel<float>, blocks, kThreads, 0, stream, rois, plan);
}

template <typename T, int kPack, bool kChannelsLast>
Status launch_roi_pool_forward(const RoiPoolArgs& args, const BorderTable& plan, Stream stream) {
  const int64_t items = args.channels / kPack * args.pooled_height * args.pooled_width;
  const dim3 grid(unsigned(args.num_rois), unsigned(ceil_div(items, int64_t(kThreads))));
  return FASTRPN_LAUNCH((roi_pool_forward_kernel<T, kPack, kChannelsLast>), grid, kThreads, 0, stream, args,
                        plan);
}

template <typename T, bool kChannelsLast>
Status launch_roi_pool_backward(const RoiPoolBackwardArgs& args, const BorderTable& plan, Stream stream) {
  constexpr int kChannels = kTileChannels<compute_t<T>>;
  const dim3 grid(unsigned(tiles_of(args.height, args.width)),
                  unsigned(ceil_div(args.channels, int64_t(kChannels))), unsigned(args.batch));
  return FASTRPN_LAUNCH((roi_pool_backward_kernel<T, kChannelsLast>), grid, kChannels, 0, stream, args, plan);
}

bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

size_t roi_pool_workspace_bytes(const RoiPoolArgs& args) {
  WorkspaceCursor cursor(nullptr);
  lay_out(args, cursor);
  return cursor.bytes();
}

Status roi_pool_cuda(const RoiPoolArgs& args, void* workspace, Stream stream) {
  const int64_t roi_size = args.channels * args.pooled_height * args.pooled_width;
  if (args.num_rois * roi_size == 0) return nullptr;
  if (args.num_rois > kMaxGridX) return "roi_pool: 2^31 RoIs or more";
  if (ceil_div(roi_size, int64_t(kThreads)) > kMaxGridYZ)
    return "roi_pool: more than 16776960 outputs for a RoI";
  WorkspaceCursor cursor(workspace);
  const BorderTable plan = lay_out(args, cursor);
  FASTRPN_TRY(launch_roi_pool_plan(args, plan, stream));
  return dispatch(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int kPack = 16 / sizeof(T);
    const bool packs = args.channels % kPack == 0 && is_aligned(args.features) && is_aligned(args.output) &&
                       is_aligned(args.argmax);
    if (!args.channels_last) {
      return args.channels % kPlanes == 0 ? launch_roi_pool_forward<T, kPlanes, false>(args, plan, stream)
                                          : launch_roi_pool_forward<T, 1, false>(args, plan, stream);
    }
    return packs ? launch_roi_pool_forward<T, kPack, true>(args, plan, stream)
                 : launch_roi_pool_forward<T, 1, true>(args, plan, stream);
  });
}

size_t roi_pool_backward_workspace_bytes(const RoiPoolBackwardArgs& args) {
  WorkspaceCursor cursor(nullptr);
  lay_out(args, cursor);
  return cursor.bytes();
}

Status roi_pool_backward_cuda(const RoiPoolBackwardArgs& args, void* workspace, Stream stream) {
  if (args.batch * args.channels * args.height * args.width == 0) return nullptr;
  FASTRPN_TRY(backward_limits(args.batch, args.channels, args.pooled_height, args.pooled_width,
                              tiles_of(args.height, args.width)));
  WorkspaceCursor cursor(workspace);
  const BorderTable plan = lay_out(args, cursor);
  FASTRPN_TRY(launch_roi_pool_plan(args, plan, stream));
  return dispatch(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return args.channels_last ? launch_roi_pool_backward<T, true>(args, plan, stream)
                              : launch_roi_pool_backward<T, false>(args, plan, stream);
  });
}

}  // namespace fastrpn
