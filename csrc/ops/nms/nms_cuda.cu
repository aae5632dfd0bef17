// Greedy NMS on CUDA, without a host synchronisation: every launch is known beforehand, and kernels that have
// nothing left to do return at once.
//
// 1. order: boxes and groups of all images in descending order of score (order_cuda.h).
// 2. For each chunk of up to kMaxChunk boxes, in that order, all images at once (first_chunk_of):
//    mask, reduce: the chunk's boxes are decided (chunk_cuda.h);
//    sweep:        those it kept remove later boxes (sweep_cuda.h).
//    When an image has max_output boxes, the rest of its work is skipped.
// Less than kMaxChunk boxes of an image, and at most 8 kMaxChunk in all, take three launches, unless a small
// max_output may end the search early and the chunks are smaller.
//
// More than kMaxChunk boxes with groups, of which many are wanted (has_segments): before the chunks, segment
// decides the small groups, each in one block; what is left to the chunks is large groups. At last, merge
// brings what both kept into order of score (segment_cuda.h).
//
// Cost: n log n to sort, chunk * n / 2 pair tests in the chunks, in the sweeps kept * n / 256 tests of
// spans and those pairs that they cannot rule out; for small groups of m boxes, m * kept / 2 each. Memory:
// about 66 bytes a box (float64: 82; with groups 9 more) with the sort's share, plus masks of at most
// kMaskBytes.
// Numerics: the IoU test is the CPU's bit for bit (iou_test.h; compiled without FMA contraction).
#include "ops/nms/chunk_cuda.h"
#include "ops/nms/order_cuda.h"
#include "ops/nms/segment_cuda.h"
#include "ops/nms/sweep_cuda.h"

namespace fastrpn {
namespace {

template <typename C>
Status launch_chunks(const NmsArgs& args, const Workspace<C>& w, const IouTest<C>& test, Stream stream) {
  const unsigned batch = unsigned(args.batch);
  const int64_t largest_chunk = chunk_of(args);
  dim3 sweeps = all_boxes(args);
  for (Chunk<C> chunk{0, first_chunk_of(args), test};;) {
    const unsigned tiles = unsigned(chunk.size / kTileBoxes);
    const dim3 pairs_of_tiles(tiles * (tiles + 1) / 2, batch);
    FASTRPN_TRY(FASTRPN_LAUNCH(nms_mask_kernel<C>, pairs_of_tiles, kTileThreads, 0, stream, args, w, chunk));
    FASTRPN_TRY(FASTRPN_LAUNCH(nms_reduce_kernel<C>, batch, kReduceThreads, 0, stream, args, w, chunk));
    if (chunk.begin + chunk.size >= args.n) return nullptr;
    sweeps.z = sweep_slices(int64_t(sweeps.x) * batch, chunk.size);
    FASTRPN_TRY(FASTRPN_LAUNCH(nms_sweep_kernel<C>, sweeps, kThreads, 0, stream, args, w, chunk));
    chunk.begin += chunk.size;
    chunk.size = min(2 * chunk.size, largest_chunk);
  }
}

template <typename T>
Status launch(const NmsArgs& args, void* workspace, Stream stream) {
  using C = compute_t<T>;
  if (args.n == 0 || args.max_output == 0) {
    if (args.max_output > 0) {
      const size_t bytes = size_t(args.batch * args.max_output) * 8;
      FASTRPN_TRY(status_of(cudaMemsetAsync(args.indices, 0xff, bytes, stream)));
    }
    return status_of(cudaMemsetAsync(args.kept, 0, size_t(args.batch) * 8, stream));
  }
  WorkspaceCursor cursor(workspace);
  const Workspace<C> w = lay_out<C>(args, cursor);
  const IouTest<C> test(args.iou_threshold);
  FASTRPN_TRY(launch_order<T>(args, w, stream));
  if (w.sizes == nullptr) return launch_chunks(args, w, test, stream);
  const dim3 codes(kCodes, unsigned(args.batch));
  FASTRPN_TRY(FASTRPN_LAUNCH(nms_segment_kernel<C>, codes, kTileThreads, 0, stream, args, w, test));
  FASTRPN_TRY(launch_chunks(args, w, test, stream));
  return FASTRPN_LAUNCH(nms_merge_kernel<C>, unsigned(args.batch), kMergeThreads, 0, stream, args, w);
}

Status check_limits(const NmsArgs& args) {
  if (args.batch > 65535) return "nms: more than 65535 images";
  if (args.batch * args.n >= int64_t(1) << 31) return "nms: 2^31 boxes or more";
  return nullptr;
}

}  // namespace

Status nms_workspace_bytes(const NmsArgs& args, size_t* bytes) {
  FASTRPN_TRY(check_limits(args));
  WorkspaceCursor cursor(nullptr);
  args.dtype == DType::float64 ? void(lay_out<double>(args, cursor)) : void(lay_out<float>(args, cursor));
  *bytes = cursor.bytes();
  return nullptr;
}

Status nms_cuda(const NmsArgs& args, void* workspace, Stream stream) {
  if (args.batch == 0) return nullptr;
  FASTRPN_TRY(check_limits(args));
  return dispatch(args.dtype,
                  [&](auto tag) { return launch<typename decltype(tag)::type>(args, workspace, stream); });
}

}  // namespace fastrpn
