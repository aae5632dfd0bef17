// What a kernel source needs of CUDA, in one place. Under nvcc this is the CUDA runtime; in the CPU harness
// (FASTRPN_CUDA_ON_CPU) the same names come from tests/cuda_on_cpu, so that the kernel sources compile as
// C++.
//
// Kernels live in an anonymous namespace and use no CUDA feature beyond what tests/cuda_on_cpu/cuda_on_cpu.h
// offers; CUDA-only spellings are the macros below:
//   FASTRPN_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...) starts a kernel; its value is the
//     Status of that. A kernel name with template commas goes in parentheses.
//   FASTRPN_DYNAMIC_SHARED(type, name) declares `type* name`, the block's dynamic shared memory.
//   FASTRPN_OPAQUE(value): the compiler forgets what it knows of a number, of floating point or of 64 bits.
#pragma once

#include <cstring>
#include <type_traits>

#include "cuda/status.h"
#include "math/dispatch.h"

#if defined(FASTRPN_CUDA_ON_CPU)
#include "cuda_on_cpu.h"
#else
#include <cuda_runtime.h>
namespace fastrpn {
__device__ __forceinline__ void make_opaque(float& value) { asm volatile("" : "+f"(value)); }
__device__ __forceinline__ void make_opaque(double& value) { asm volatile("" : "+d"(value)); }
__device__ __forceinline__ void make_opaque(int64_t& value) { asm volatile("" : "+l"(value)); }
}  // namespace fastrpn
#define FASTRPN_OPAQUE(value) ::fastrpn::make_opaque(value)
#define FASTRPN_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  (kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__), ::fastrpn::launch_status())
#define FASTRPN_DYNAMIC_SHARED(type, name)                               \
  extern __shared__ __align__(16) unsigned char fastrpn_shared_memory[]; \
  type* const name = reinterpret_cast<type*>(fastrpn_shared_memory)
#endif

namespace fastrpn {

// Blocks of a grid.
constexpr int64_t kMaxGridX = (int64_t(1) << 31) - 1, kMaxGridYZ = 65535;

constexpr unsigned kAllLanes = 0xffffffffu;  // of a warp

// What a runtime call has come to. Its error does not stay behind, for the next call to report.
[[nodiscard]] inline Status status_of(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();
  return cudaGetErrorString(error);
}

// What the last launch has come to.
[[nodiscard]] inline Status launch_status() { return status_of(cudaGetLastError()); }

// `kCount` elements that are loaded and stored by one instruction.
template <typename T, int kCount>
struct alignas(kCount * sizeof(T)) Pack {
  T values[kCount];
};

// Stores what nobody reads soon: the caches give its lines up first.
template <typename Value>
__device__ __forceinline__ void store_past_cache(const Value& value, Value* to) {
  constexpr size_t kBytes = sizeof(Value);
  using Word =
      std::conditional_t<kBytes == 16, int4,
                         std::conditional_t<kBytes == 8, int2, std::conditional_t<kBytes == 4, int, short>>>;
  static_assert(sizeof(Word) == kBytes, "2, 4, 8 or 16 bytes");
  Word word;
  memcpy(&word, &value, sizeof(word));
  __stcs(reinterpret_cast<Word*>(to), word);
}

template <typename Integer>
FASTRPN_HD Integer ceil_div(Integer a, Integer b) {
  return (a + b - 1) / b;
}

}  // namespace fastrpn
