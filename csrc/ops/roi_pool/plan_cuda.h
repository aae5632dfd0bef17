// The borders of every RoI's bins on CUDA (math/roi.h), computed once, a thread for each RoI, and read by
// forward and backward.
#pragma once

#include "cuda/roi.h"
#include "ops/roi_pool/roi_pool.h"

namespace fastrpn {

constexpr int kPlanThreads = 256;

struct Rois {
  const void* data;
  DType dtype;
  int64_t count, batch, height, width;
  double spatial_scale;
};

template <typename C>
__device__ inline void plan_axis(PoolAxis<C> axis, int pooled, int64_t size, int32_t* begins) {
  for (int i = 0; i < pooled; ++i) {
    int64_t begin, end;
    pool_bin(axis, i, size, &begin, &end);
    begins[i] = int32_t(begin);
    begins[pooled + i] = int32_t(end);
  }
}

template <typename C>
__global__ void __launch_bounds__(kPlanThreads) roi_pool_plan_kernel(Rois rois, BinTable bins) {
  const int64_t n = int64_t(blockIdx.x) * kPlanThreads + threadIdx.x;
  if (n >= rois.count) return;
  C roi[5];
  load_roi(rois.data, rois.dtype, n, roi);
  const int64_t image = roi_image(roi, rois.batch);
  bins.map[n] = int32_t(image);
  bins.span[n] = {};
  if (image < 0) return;
  const C scale = C(rois.spatial_scale);
  const int ph = bins.pooled_height, pw = bins.pooled_width;
  int32_t *y = bins.rows(n), *x = bins.columns(n);
  plan_axis(pool_axis(roi[2], roi[4], scale, ph), ph, rois.height, y);
  plan_axis(pool_axis(roi[1], roi[3], scale, pw), pw, rois.width, x);
  bins.span[n] = {y[0], y[2 * ph - 1], x[0], x[2 * pw - 1]};
}

template <typename Args>
Status launch_roi_pool_plan(const Args& args, const BinTable& bins, Stream stream) {
  const Rois rois{args.rois,   args.roi_dtype, args.num_rois,     args.batch,
                  args.height, args.width,     args.spatial_scale};
  const unsigned blocks = unsigned(ceil_div(args.num_rois, int64_t(kPlanThreads)));
  if (blocks == 0) return nullptr;
  return args.dtype == DType::float64
             ? FASTRPN_LAUNCH(roi_pool_plan_kernel<double>, blocks, kPlanThreads, 0, stream, rois, bins)
             : FASTRPN_LAUNCH(roi_pool_plan_kernel<float>, blocks, kPlanThreads, 0, stream, rois, bins);
}

}  // namespace fastrpn
