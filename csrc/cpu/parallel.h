// How a CPU kernel asks for threads without knowing who owns them: torch's pool in the torch extension,
// the calling thread alone in the NumPy front end.
#pragma once

#include <cstdint>

namespace fastrpn {

struct ParallelFor {
  using Body = void (*)(void* context, int64_t begin, int64_t end);

  // Calls body(context, begin, end) over disjoint chunks of [0, size), each at least `grain` long but for
  // the last, and returns when all are done. Chunks may run at once; nested calls run serially.
  void (*run)(int64_t size, int64_t grain, Body body, void* context);
  // The most chunks that run at once.
  int num_threads;

  template <typename F>
  void operator()(int64_t size, int64_t grain, const F& body) const {
    run(
        size, grain,
        [](void* context, int64_t begin, int64_t end) { (*static_cast<const F*>(context))(begin, end); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }
};

// The following are static, so that kernels compiled for several SIMD levels share no copy (simd.h).

static inline void run_serial(int64_t size, int64_t, ParallelFor::Body body, void* context) {
  if (size > 0) body(context, 0, size);
}

// For callers without a thread pool, and for work too small for it.
static inline ParallelFor serial() { return {run_serial, 1}; }

// Threads for an output of `elements`, if it is worth them: 2^16 take some 40 us, and on a busy machine
// waking a thread may take far longer.
static inline ParallelFor threads_for(int64_t elements, const ParallelFor& parallel_for) {
  return elements < (1 << 16) ? serial() : parallel_for;
}

}  // namespace fastrpn
