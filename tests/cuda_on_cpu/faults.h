// Makes a call fail on purpose: the n-th of CUDA's runtime, or the n-th allocation of a CPU kernel.
#pragma once

#include <cstdint>

namespace cuda_on_cpu {

// The n-th launch, memset, copy, CUB call or allocation of device memory from now on fails; 0: none. Another
// one after it ends the process: what it would work on was never written.
void fail_call(int64_t n);
// How many there were since.
int64_t calls();

// The n-th operator new from now on throws std::bad_alloc; 0: none.
void fail_allocation(int64_t n);
int64_t allocations();
// Memory that operator new gave and nobody has taken back.
int64_t live_allocations();

}  // namespace cuda_on_cpu
