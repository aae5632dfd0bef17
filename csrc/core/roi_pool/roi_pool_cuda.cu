// roi_pool on CUDA, forward and backward.
//
// plan: the borders of every RoI's bins, computed once, one thread a RoI.
// forward: a block pools one RoI, a thread one bin for one pack of channels. Channels last: a pack is 16
//   bytes, neighbouring threads take neighbouring packs and a warp reads whole lines. NCHW: neighbouring
//   threads take neighbouring bins of one channel, which share cache lines. Outputs are written in order.
//   Cost: every cell of every bin is read once.
// backward: every element of the gradient has one owner, so there are no atomics and the sum is always in
//   RoI order. A block owns a tile of kTile x kTile cells for some channels, in shared memory, a thread one
//   channel of it. The block finds the RoIs that touch its tile; each thread walks over their bins that do,
//   and adds the gradient of a bin whose maximum lies in the tile. A bin is read by every tile it touches.
//
// Numerics: maxima are exact; gradients are summed in float (float64: double) and rounded once. Equal to the
// CPU kernels bit for bit.
#include "core/roi_cuda.h"
#include "core/roi_pool/roi_pool.h"
#include "core/workspace.h"

namespace fastrpn {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 8;
constexpr int kTileBytes = 32 << 10;  // shared memory of a tile

// Channels of a backward block, one thread each.
template <typename C>
constexpr int kTileChannels = kTileBytes / (kTile * kTile * int(sizeof(C)));

// Where the plan keeps the borders of RoI n: y_begin[ph], y_end[ph], x_begin[pw], x_end[pw].
struct Plan {
  int32_t* image;    // [num_rois], -1: takes no part
  int32_t* borders;  // [num_rois, 2 * (pooled_height + pooled_width)]
  int pooled_height, pooled_width;

  FASTRPN_HD_MEMBER int row_size() const { return 2 * (pooled_height + pooled_width); }
};

template <typename Args>
Plan lay_out(const Args& args, WorkspaceCursor& cursor) {
  Plan plan{nullptr, nullptr, int(args.pooled_height), int(args.pooled_width)};
  plan.image = cursor.take<int32_t>(args.num_rois);
  plan.borders = cursor.take<int32_t>(args.num_rois * plan.row_size());
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
__global__ void __launch_bounds__(kThreads) plan_kernel(Rois rois, Plan plan) {
  const int64_t n = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (n >= rois.count) return;
  C roi[5];
  load_roi(rois.data, rois.dtype, n, roi);
  const int64_t image = roi_image(roi, rois.batch);
  plan.image[n] = int32_t(image);
  if (image < 0) return;
  const C scale = C(rois.spatial_scale);
  int32_t* borders = plan.borders + n * plan.row_size();
  plan_axis(pool_axis(roi[2], roi[4], scale, plan.pooled_height), plan.pooled_height, rois.height, borders);
  plan_axis(pool_axis(roi[1], roi[3], scale, plan.pooled_width), plan.pooled_width, rois.width,
            borders + 2 * plan.pooled_height);
}

template <typename T>
constexpr float kLowest = -3.4028234663852886e+38f;
template <>
constexpr float kLowest<half_t> = -65504.0f;
template <>
constexpr float kLowest<bfloat16_t> = -3.3895313892515355e+38f;
template <>
constexpr double kLowest<double> = -1.7976931348623157e+308;

// grid: x over RoIs, y over (bin, pack of channels); in the order of the output.
template <typename T, int kPack, bool kChannelsLast>
__global__ void __launch_bounds__(kThreads) forward_kernel(RoiPoolArgs args, Plan plan) {
  using C = compute_t<T>;
  const int64_t n = blockIdx.x;
  const int bins = plan.pooled_height * plan.pooled_width;
  const int64_t packs = args.channels / kPack;
  const int64_t item = int64_t(blockIdx.y) * kThreads + threadIdx.x;
  if (item >= packs * bins) return;
  const int bin = int(kChannelsLast ? item / packs : item % bins);
  const int64_t channel = (kChannelsLast ? item % packs : item / bins) * kPack;

  const int64_t image = plan.image[n];
  int y_begin = 0, y_end = 0, x_begin = 0, x_end = 0;  // an empty bin, for a RoI that takes no part
  if (image >= 0) {
    const int ph = bin / plan.pooled_width, pw = bin % plan.pooled_width;
    const int32_t* y = plan.borders + n * plan.row_size() + ph;
    const int32_t* x = plan.borders + n * plan.row_size() + 2 * plan.pooled_height + pw;
    y_begin = y[0], y_end = y[plan.pooled_height];
    x_begin = x[0], x_end = x[plan.pooled_width];
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
    int cell = y * int(args.width) + x_begin;
    for (int x = x_begin; x < x_end; ++x, ++cell) {
      const auto pack = *reinterpret_cast<const Pack<T, kPack>*>(features + cell * cell_stride);
      for (int k = 0; k < kPack; ++k) {
        const C value = widen(pack.values[k]);
        if (value > best[k]) {
          best[k] = value;
          at[k] = cell;
        }
      }
    }
  }

  const int64_t to = n * packs * bins + item;
  Pack<T, kPack> output;
  for (int k = 0; k < kPack; ++k) output.values[k] = narrow<T>(best[k]);
  static_cast<Pack<T, kPack>*>(args.output)[to] = output;
  if (args.argmax != nullptr) {
    for (int k = 0; k < kPack; ++k) args.argmax[to * kPack + k] = at[k];
  }
}

// Whether the bins [0, pooled) of an axis reach into the cells [low, low + kTile).
__device__ __forceinline__ bool touches(const int32_t* begins, int first, int last, int pooled, int low) {
  return begins[first] < low + kTile && begins[pooled + last] > low;
}

// grid: x over tiles of the map, y over groups of channels, z over images.
template <typename T, bool kChannelsLast>
__global__ void __launch_bounds__(kTileChannels<compute_t<T>>)
    backward_kernel(RoiPoolBackwardArgs args, Plan plan) {
  using C = compute_t<T>;
  constexpr int kChannels = kTileChannels<C>;
  __shared__ C sums[kTile * kTile][kChannels];
  __shared__ unsigned touching[kChannels / 32];  // RoIs of this round, a bit each

  const int tiles_x = int(ceil_div(args.width, int64_t(kTile)));
  const int tile_y = int(blockIdx.x) / tiles_x * kTile, tile_x = int(blockIdx.x) % tiles_x * kTile;
  const int width = int(args.width), height = int(args.height);
  const int bins = plan.pooled_height * plan.pooled_width;
  const int thread = threadIdx.x;
  const int64_t channel = int64_t(blockIdx.y) * kChannels + thread;
  const bool has_channel = channel < args.channels;
  const int64_t bin_stride = kChannelsLast ? args.channels : 1;
  for (int cell = 0; cell < kTile * kTile; ++cell) sums[cell][thread] = C(0);

  for (int64_t first = 0; first < args.num_rois; first += kChannels) {
    const int64_t mine = first + thread;
    bool touch = mine < args.num_rois && plan.image[mine] == int(blockIdx.z);
    if (touch) {
      const int32_t* y = plan.borders + mine * plan.row_size();
      const int32_t* x = y + 2 * plan.pooled_height;
      touch = touches(y, 0, plan.pooled_height - 1, plan.pooled_height, tile_y) &&
              touches(x, 0, plan.pooled_width - 1, plan.pooled_width, tile_x);
    }
    const unsigned ballot = __ballot_sync(0xffffffffu, touch);
    if (thread % 32 == 0) touching[thread / 32] = ballot;
    __syncthreads();
    for (int word = 0; word < kChannels / 32 && has_channel; ++word) {
      for (unsigned bits = touching[word]; bits != 0; bits &= bits - 1) {
        const int64_t n = first + word * 32 + __ffs(int(bits)) - 1;
        const int32_t* y = plan.borders + n * plan.row_size();
        const int32_t* x = y + 2 * plan.pooled_height;
        const int64_t start = n * args.channels * bins + (kChannelsLast ? channel : channel * bins);
        for (int ph = 0; ph < plan.pooled_height; ++ph) {
          if (!touches(y, ph, ph, plan.pooled_height, tile_y)) continue;
          for (int pw = 0; pw < plan.pooled_width; ++pw) {
            if (!touches(x, pw, pw, plan.pooled_width, tile_x)) continue;
            const int64_t from = start + (ph * plan.pooled_width + pw) * bin_stride;
            const int at = args.argmax[from];
            const int dy = at / width - tile_y, dx = at % width - tile_x;
            if (at >= 0 && unsigned(dy) < unsigned(kTile) && unsigned(dx) < unsigned(kTile)) {
              sums[dy * kTile + dx][thread] += widen(static_cast<const T*>(args.grad_output)[from]);
            }
          }
        }
      }
    }
    __syncthreads();
  }

  // Write the tile: neighbouring threads take neighbouring channels, or, in NCHW, neighbouring cells.
  const int64_t plane = args.height * args.width;
  T* to = static_cast<T*>(args.grad_features) + int64_t(blockIdx.z) * args.channels * plane;
  for (int i = thread; i < kTile * kTile * kChannels; i += kChannels) {
    const int cell = kChannelsLast ? i / kChannels : i % (kTile * kTile);
    const int lane = kChannelsLast ? i % kChannels : i / (kTile * kTile);
    const int y = tile_y + cell / kTile, x = tile_x + cell % kTile;
    const int64_t c = int64_t(blockIdx.y) * kChannels + lane;
    if (y >= height || x >= width || c >= args.channels) continue;
    const int64_t at = int64_t(y) * width + x;
    to[kChannelsLast ? at * args.channels + c : c * plane + at] = narrow<T>(sums[cell][lane]);
  }
}

template <typename Args>
Plan launch_plan(const Args& args, void* workspace, Stream stream) {
  WorkspaceCursor cursor(workspace);
  const Plan plan = lay_out(args, cursor);
  const Rois rois{args.rois,   args.roi_dtype, args.num_rois,     args.batch,
                  args.height, args.width,     args.spatial_scale};
  const unsigned blocks = unsigned(ceil_div(args.num_rois, int64_t(kThreads)));
  if (blocks == 0) return plan;
  if (args.dtype == DType::float64) {
    FASTRPN_LAUNCH(plan_kernel<double>, blocks, kThreads, 0, stream, rois, plan);
  } else {
    FASTRPN_LAUNCH(plan_kernel<float>, blocks, kThreads, 0, stream, rois, plan);
  }
  return plan;
}

template <typename T, int kPack, bool kChannelsLast>
void launch_forward(const RoiPoolArgs& args, const Plan& plan, Stream stream) {
  const int64_t items = args.channels / kPack * args.pooled_height * args.pooled_width;
  const dim3 grid(unsigned(args.num_rois), unsigned(ceil_div(items, int64_t(kThreads))));
  FASTRPN_LAUNCH((forward_kernel<T, kPack, kChannelsLast>), grid, kThreads, 0, stream, args, plan);
}

template <typename T, bool kChannelsLast>
void launch_backward(const RoiPoolBackwardArgs& args, const Plan& plan, Stream stream) {
  constexpr int kChannels = kTileChannels<compute_t<T>>;
  const int64_t tiles = ceil_div(args.height, int64_t(kTile)) * ceil_div(args.width, int64_t(kTile));
  const dim3 grid(unsigned(tiles), unsigned(ceil_div(args.channels, int64_t(kChannels))),
                  unsigned(args.batch));
  FASTRPN_LAUNCH((backward_kernel<T, kChannelsLast>), grid, kChannels, 0, stream, args, plan);
}

bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

size_t roi_pool_workspace_bytes(const RoiPoolArgs& args) {
  WorkspaceCursor cursor(nullptr);
  lay_out(args, cursor);
  return cursor.bytes();
}

Status roi_pool_cuda(const RoiPoolArgs& args, void* workspace, Stream stream) {
  if (args.num_rois * args.channels * args.pooled_height * args.pooled_width == 0) return nullptr;
  const Plan plan = launch_plan(args, workspace, stream);
  return dispatch(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int kPack = 16 / sizeof(T);
    if (!args.channels_last) {
      launch_forward<T, 1, false>(args, plan, stream);
    } else if (args.channels % kPack == 0 && is_aligned(args.features) && is_aligned(args.output)) {
      launch_forward<T, kPack, true>(args, plan, stream);
    } else {
      launch_forward<T, 1, true>(args, plan, stream);
    }
    return launch_status();
  });
}

size_t roi_pool_backward_workspace_bytes(const RoiPoolBackwardArgs& args) {
  WorkspaceCursor cursor(nullptr);
  lay_out(args, cursor);
  return cursor.bytes();
}

Status roi_pool_backward_cuda(const RoiPoolBackwardArgs& args, void* workspace, Stream stream) {
  if (args.batch * args.channels * args.height * args.width == 0) return nullptr;
  const Plan plan = launch_plan(args, workspace, stream);
  return dispatch(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    args.channels_last ? launch_backward<T, true>(args, plan, stream)
                       : launch_backward<T, false>(args, plan, stream);
    return launch_status();
  });
}

}  // namespace fastrpn
