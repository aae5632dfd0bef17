// nms: exact greedy non-maximum suppression of `batch` images at once, each split into groups (classes,
// levels) that do not see each other. `nms`, `batched_nms` and `nms_padded` are all this one function.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "cuda/status.h"
#include "math/dtype.h"

namespace fastrpn {

struct NmsArgs {
  DType dtype;            // of the boxes and the scores
  const void* boxes;      // [batch, n, 4] xyxy
  const void* scores;     // [batch, n]
  const int64_t* counts;  // [batch]: rows >= counts[b] do not take part; null: all do
  const int64_t* groups;  // [batch, n]: any int64 values; null: one group
  int64_t batch, n;
  bool is_sorted;  // rows that take part come by descending score: they are decided as they come
  double iou_threshold;
  bool has_score_threshold;
  double score_threshold;  // only scores > it (in `dtype`) take part, if has_score_threshold
  int64_t max_output;      // the search ends when an image has kept this many
  int64_t* indices;        // [batch, max_output]: kept rows by descending score, then -1
  int64_t* kept;           // [batch]: how many
};

FASTRPN_DECLARE_CPU(void, nms_cpu, const NmsArgs& args, const ParallelFor& parallel_for);

// Device memory that nms_cuda needs for `args`, of whose pointers only `groups` counts: whether it is null.
Status nms_workspace_bytes(const NmsArgs& args, size_t* bytes);
Status nms_cuda(const NmsArgs& args, void* workspace, Stream stream);

}  // namespace fastrpn
