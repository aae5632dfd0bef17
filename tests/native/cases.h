// Cases for the CPU kernels. A case draws shapes, types, values and parameters from a source, calls one
// kernel at every SIMD level, alone and on threads, checks the result and wants the same one each time. The
// sanitizers do the rest. A case that fails prints why and aborts.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "array.h"
#include "ops/box_iou/box_iou.h"
#include "ops/generate_proposals/generate_proposals.h"
#include "ops/match_anchors/match_anchors.h"
#include "ops/nms/nms.h"
#include "ops/roi_align/roi_align.h"
#include "ops/roi_pool/roi_pool.h"
#include "ops/soft_nms/soft_nms.h"
#include "source.h"
#include "threads.h"

#define REQUIRE(condition)                                                     \
  do {                                                                         \
    if (!(condition)) {                                                        \
      std::fprintf(stderr, "%s:%d: not %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                            \
    }                                                                          \
  } while (false)

struct Case {
  const char* op;
  void (*run)(Source&);
};
extern const std::vector<Case> kCases;

void box_iou_case(Source& source);
void nms_case(Source& source);
void soft_nms_case(Source& source);
void match_anchors_case(Source& source);
void generate_proposals_case(Source& source);
void roi_pool_case(Source& source);
void roi_pool_backward_case(Source& source);
void roi_align_case(Source& source);
void roi_align_backward_case(Source& source);

// The kernels of one SIMD level.
template <typename Args>
using Kernel = void (*)(const Args&, const fastrpn::ParallelFor&);

struct Kernels {
  const char* level;
  Kernel<fastrpn::BoxIouArgs> box_iou;
  Kernel<fastrpn::NmsArgs> nms;
  Kernel<fastrpn::SoftNmsArgs> soft_nms;
  Kernel<fastrpn::MatchAnchorsArgs> match_anchors;
  Kernel<fastrpn::GenerateProposalsArgs> generate_proposals;
  Kernel<fastrpn::RoiPoolArgs> roi_pool;
  Kernel<fastrpn::RoiPoolBackwardArgs> roi_pool_backward;
  Kernel<fastrpn::RoiAlignArgs> roi_align;
  Kernel<fastrpn::RoiAlignBackwardArgs> roi_align_backward;
};
extern const std::vector<Kernels> kLevels;  // those compiled

// ---- what the cases share ----

// Calls visit(T()) for an element type T of the source's choice.
template <typename Visit>
void with_dtype(Source& source, const Visit& visit) {
  switch (source.below(4)) {
    case 0:
      return visit(float());
    case 1:
      return visit(double());
    case 2:
      return visit(fastrpn::half_t());
    default:
      return visit(fastrpn::bfloat16_t());
  }
}

// [count, 4] boxes: of an image, crowded, in a row, or anything at all, with odd numbers in some.
template <typename T>
void draw_boxes(Source& source, T* boxes, int64_t count) {
  const int64_t style = source.below(5);
  const bool odd = source.once_in(2);
  const double extent = style == 0 ? 10 : style == 1 ? 1000 : 100;
  for (int64_t i = 0; i < count; ++i) {
    const double x = style == 2 ? 8.0 * double(i % 64) : source.number(0, extent);
    const double y = style == 2 ? 8.0 * double(i / 64) : source.number(-extent / 8, extent);
    const double box[4] = {x, y, x + source.number(style == 3 ? -8 : 1, 16), y + source.number(1, 16)};
    for (int k = 0; k < 4; ++k) {
      boxes[4 * i + k] = stored<T>(odd && source.once_in(style == 4 ? 2 : 64) ? source.odd_number() : box[k]);
    }
  }
}

// Numbers in [-1, 1], and with `odd` some odd ones.
template <typename T>
void draw_numbers(Source& source, T* numbers, int64_t count, bool odd) {
  for (int64_t i = 0; i < count; ++i) {
    numbers[i] = stored<T>(odd && source.once_in(32) ? source.odd_number() : source.number(-1, 1));
  }
}

inline double draw_threshold(Source& source) {
  return source.once_in(8) ? source.odd_number() : source.one_of({0.0, 1e-7, 0.1, 0.3, 0.5, 0.7, 0.95, 1.0});
}

template <typename T>
bool same(const T& a, const T& b) {
  if constexpr (std::is_integral_v<T>) {
    return a == b;
  } else {
    const auto x = fastrpn::widen(a), y = fastrpn::widen(b);
    return x == y || (x != x && y != y);
  }
}

// An output: filled with other garbage before each call, the same after each.
template <typename T>
class Output : public Array<T> {
 public:
  Output(Source& source, int64_t size) : Array<T>(size, source.below(2)) {}

  void spoil(int run) {
    if (this->size() > 0) std::memset(static_cast<void*>(this->data()), 0x51 + 3 * run, bytes());
  }
  void check(int run) {
    if (run == 0) {
      first_.assign(this->data(), this->data() + this->size());
    } else {
      for (int64_t i = 0; i < this->size(); ++i) REQUIRE(same((*this)[i], first_[size_t(i)]));
    }
  }

 private:
  size_t bytes() const { return size_t(this->size()) * sizeof(T); }
  std::vector<T> first_;
};

// Calls call(kernels, parallel_for) at every SIMD level, on one thread and on some more.
template <typename Call, typename... Outputs>
void run_all_ways(Source& source, const Call& call, Outputs&... outputs) {
  const int threads = int(source.below(3)) + 2;
  int run = 0;
  for (const Kernels& kernels : kLevels) {
    for (int count : {1, threads}) {
      (outputs.spoil(run), ...);
      call(kernels, on_threads(count));
      (outputs.check(run), ...);
      ++run;
    }
  }
}
