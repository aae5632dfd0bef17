// What a kernel source needs of CUDA, in one place. Under nvcc this is the CUDA runtime; in the CPU harness
// (FASTRPN_CUDA_ON_CPU) the same names come from tests/cuda_on_cpu, so that the kernel sources compile as
// C++.
//
// FASTRPN_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...) starts a kernel. A kernel name with
// template commas goes in parentheses.
#pragma once

#if defined(FASTRPN_CUDA_ON_CPU)
#include "cuda_on_cpu.h"
#else
#include <cuda_runtime.h>
#define FASTRPN_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
#endif
