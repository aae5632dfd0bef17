// box_iou on CUDA.
//
// Every output element is written once and the inputs are tiny, so the work is to write at the memory's
// speed. A thread keeps the boxes of a few consecutive columns (16 bytes of output) in registers and walks
// down kRowsPerThread rows; a warp writes whole lines. Where rows do not start at a multiple of 16 bytes, or
// the boxes do not, the same kernel runs with one column a thread.
//
// Cost: n * m IoUs, a division for each pair that meets; n * m * 4 (float64: 8) bytes written.
// Numerics: math/box.h in float (double for float64), compiled without FMA contraction.
#include "cuda/box.h"
#include "ops/box_iou/box_iou.h"

namespace fastrpn {
namespace {

constexpr int kThreads = 256;
constexpr int kRowsPerThread = 8;

// grid: x over rows, y over columns. block: x columns (in packs), y rows.
template <typename T, int kColumns, bool kAligned>
__global__ void __launch_bounds__(kThreads) box_iou_kernel(const T* __restrict__ boxes1,  // [n, 4]
                                                           const T* __restrict__ boxes2,  // [m, 4]
                                                           int64_t n, int64_t m,
                                                           compute_t<T>* __restrict__ iou) {  // [n, m]
  using C = compute_t<T>;
  const auto load = [](const T* boxes, int64_t index) {
    return kAligned ? load_aligned_box(boxes, index) : load_box(boxes, index);
  };
  const int64_t row_begin = int64_t(blockIdx.x) * blockDim.y * kRowsPerThread + threadIdx.y;
  const int64_t row_end = min(n, int64_t(blockIdx.x + 1) * blockDim.y * kRowsPerThread);
  const int64_t column_step = int64_t(gridDim.y) * blockDim.x * kColumns;

  for (int64_t column = (int64_t(blockIdx.y) * blockDim.x + threadIdx.x) * kColumns; column < m;
       column += column_step) {
    Box<C> boxes[kColumns];
    C areas[kColumns];
    for (int k = 0; k < kColumns; ++k) {
      boxes[k] = load(boxes2, column + k);
      areas[k] = box_area(boxes[k]);
    }
    for (int64_t row = row_begin; row < row_end; row += blockDim.y) {
      const Box<C> box = load(boxes1, row);
      const C area = box_area(box);
      Pack<C, kColumns> pack;
      for (int k = 0; k < kColumns; ++k) {
        pack.values[k] = quick_iou(box, area, boxes[k], areas[k]);
      }
      *reinterpret_cast<Pack<C, kColumns>*>(iou + row * m + column) = pack;
    }
  }
}

template <typename T, int kColumns, bool kAligned>
Status launch(const BoxIouArgs& args, Stream stream) {
  // As few idle threads as can be: a row's packs side by side, rows below each other while they fit; or, of
  // more packs than threads, equal shares in whole warps.
  const int64_t packs = args.m / kColumns, shares = ceil_div(packs, int64_t(kThreads));
  const int64_t share = ceil_div(packs, shares);
  const unsigned width = unsigned(shares == 1 ? share : ceil_div(share, int64_t(32)) * 32);
  const dim3 block(width, kThreads / width);
  const int64_t rows = int64_t(block.y) * kRowsPerThread;
  const dim3 grid(unsigned(ceil_div(args.n, rows)),
                  unsigned(min(ceil_div(packs, int64_t(width)), int64_t(65535))));
  return FASTRPN_LAUNCH((box_iou_kernel<T, kColumns, kAligned>), grid, block, 0, stream,
                        static_cast<const T*>(args.boxes1), static_cast<const T*>(args.boxes2), args.n,
                        args.m, static_cast<compute_t<T>*>(args.iou));
}

}  // namespace

Status box_iou_cuda(const BoxIouArgs& args, Stream stream) {
  if (args.n == 0 || args.m == 0) return nullptr;
  return dispatch(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int kColumns = 16 / sizeof(compute_t<T>);
    const bool packs = reinterpret_cast<uintptr_t>(args.iou) % 16 == 0 && args.m % kColumns == 0;
    const bool aligned = boxes_are_aligned(static_cast<const T*>(args.boxes1)) &&
                         boxes_are_aligned(static_cast<const T*>(args.boxes2));
    if (!aligned) return launch<T, 1, false>(args, stream);
    return packs ? launch<T, kColumns, true>(args, stream) : launch<T, 1, true>(args, stream);
  });
}

}  // namespace fastrpn
