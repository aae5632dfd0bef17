// The part of CUDA that the kernels use, for a C++ compiler: qualifiers, vector types, built-in variables,
// barriers, warp functions, atomics and the few runtime calls. Including it instead of cuda_runtime.h turns
// a <op>_cuda.cu into C++ that runs, checks itself and can be stepped through on any machine.
//
// Every thread of a block is a fiber. Fibers run in random order from one synchronisation to the next, so
// code that needs a barrier and has none soon reads garbage; blocks run one after another in random order.
// A breach of CUDA's rules (see scheduler.cpp) ends the process with a message and exit code 3.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

// ---- qualifiers ---------------------------------------------------------------------------------------
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
// Static, hence surrounded by AddressSanitizer's red zones; the scheduler fills it with garbage before each
// block. Kernels live in an anonymous namespace: shared variables of others would have no red zones.
#define __shared__ static
// Dynamic shared memory is a heap block of exactly the size that was asked for at the launch.
#define FASTRPN_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(cuda_on_cpu::dynamic_shared())
#define FASTRPN_OPAQUE(value) (void)(value)
#define FASTRPN_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                   \
  (cuda_on_cpu::launch(#kernel, kernel, grid, block, shared_bytes, stream, __VA_ARGS__), \
   ::fastrpn::launch_status())

// ---- vector types and built-in variables ----------------------------------------------------------------
struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// ---- errors -------------------------------------------------------------------------------------------
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInjected = 999 };
cudaError_t cudaPeekAtLastError();
cudaError_t cudaGetLastError();  // and forgets it
const char* cudaGetErrorString(cudaError_t error);

namespace cuda_on_cpu {
// Every runtime call begins with this. It fails where faults.h says so, and leaves its error pending.
cudaError_t begin_call();
// As a call that fails does: leaves `error` pending and returns it.
cudaError_t set_last_error(cudaError_t error);
}  // namespace cuda_on_cpu

// ---- scheduler ------------------------------------------------------------------------------------------
namespace cuda_on_cpu {

struct Site {
  const char* file;
  int line;
};
#define CUDA_ON_CPU_SITE \
  cuda_on_cpu::Site { file, line }
#define CUDA_ON_CPU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

void set_seed(uint64_t seed);
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Device memory is poisoned unless a kernel or a runtime call on a stream is at work: the host must not read
// it. A pointer that is 16-byte aligned plus `misalign`.
void* device_malloc(size_t bytes, size_t misalign = 0);
void device_free(void* pointer);
// Bytes of device memory that nobody may touch.
void add_red_zone(char* begin, char* end);
void copy_to_device(void* device, const void* host, size_t bytes);
void copy_from_device(void* host, const void* device, size_t bytes);
// Every launch must name this stream.
void expect_stream(const void* stream);
void check_stream(const void* stream);

class DeviceAccess {  // while it lives, the host may touch device memory
 public:
  DeviceAccess();
  ~DeviceAccess();
};

void run_grid(const char* name, dim3 grid, dim3 block, size_t shared_bytes, const void* stream,
              void (*thread_main)(void*), void* context);
void* dynamic_shared();
void maybe_yield();

enum class Barrier { plain, count, all, any };
int block_barrier(Barrier kind, int predicate, Site site);

enum class WarpFunction { sync, shuffle, ballot };
// Waits for exactly the lanes in `mask`, which must all make the same call, then gives each lane the values
// of all of them.
void warp_exchange(WarpFunction function, unsigned mask, uint64_t value, uint64_t values[32], Site site);
int lane();

template <typename... P, typename... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
            const void* stream, A&&... arguments) {
  if (begin_call() != cudaSuccess) return;
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> parameters;
  } call{kernel, std::tuple<P...>(std::forward<A>(arguments)...)};
  run_grid(
      name, grid, block, shared_bytes, stream,
      [](void* context) {
        auto* c = static_cast<Call*>(context);
        std::apply(c->kernel, std::tuple<P...>(c->parameters));
      },
      &call);
}

template <typename T>
T shuffle(unsigned mask, T value, int source, Site site) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0, values[32];
  memcpy(&bits, &value, sizeof(T));
  warp_exchange(WarpFunction::shuffle, mask, bits, values, site);
  if (!(mask >> source & 1))
    fail("%s:%d: shuffle reads lane %d, outside mask %08x", site.file, site.line, source, mask);
  memcpy(&value, &values[source], sizeof(T));
  return value;
}

}  // namespace cuda_on_cpu

// ---- barriers and warp functions ------------------------------------------------------------------------
inline void __syncthreads(CUDA_ON_CPU_HERE) {
  cuda_on_cpu::block_barrier(cuda_on_cpu::Barrier::plain, 0, CUDA_ON_CPU_SITE);
}
inline int __syncthreads_count(int predicate, CUDA_ON_CPU_HERE) {
  return cuda_on_cpu::block_barrier(cuda_on_cpu::Barrier::count, predicate, CUDA_ON_CPU_SITE);
}
inline int __syncthreads_and(int predicate, CUDA_ON_CPU_HERE) {
  return cuda_on_cpu::block_barrier(cuda_on_cpu::Barrier::all, predicate, CUDA_ON_CPU_SITE);
}
inline int __syncthreads_or(int predicate, CUDA_ON_CPU_HERE) {
  return cuda_on_cpu::block_barrier(cuda_on_cpu::Barrier::any, predicate, CUDA_ON_CPU_SITE);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_ON_CPU_HERE) {
  uint64_t values[32];
  cuda_on_cpu::warp_exchange(cuda_on_cpu::WarpFunction::sync, mask, 0, values, CUDA_ON_CPU_SITE);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_CPU_HERE) {
  uint64_t values[32];
  cuda_on_cpu::warp_exchange(cuda_on_cpu::WarpFunction::ballot, mask, predicate != 0, values,
                             CUDA_ON_CPU_SITE);
  unsigned ballot = 0;
  for (int i = 0; i < 32; ++i) ballot |= unsigned(values[i]) << i;
  return ballot;
}
inline int __any_sync(unsigned mask, int predicate, CUDA_ON_CPU_HERE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CUDA_ON_CPU_HERE) {
  return __ballot_sync(mask, predicate, file, line) == mask;
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDA_ON_CPU_HERE) {
  const int base = cuda_on_cpu::lane() & ~(width - 1);
  return cuda_on_cpu::shuffle(mask, value, base + (source & (width - 1)), CUDA_ON_CPU_SITE);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_HERE) {
  const int me = cuda_on_cpu::lane(), source = me - int(delta);
  return cuda_on_cpu::shuffle(mask, value, source < (me & ~(width - 1)) ? me : source, CUDA_ON_CPU_SITE);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_HERE) {
  const int me = cuda_on_cpu::lane(), source = me + int(delta);
  return cuda_on_cpu::shuffle(mask, value, source > (me | (width - 1)) ? me : source, CUDA_ON_CPU_SITE);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32, CUDA_ON_CPU_HERE) {
  const int me = cuda_on_cpu::lane(), source = me ^ flip;
  return cuda_on_cpu::shuffle(mask, value, source > (me | (width - 1)) ? me : source, CUDA_ON_CPU_SITE);
}

// ---- atomics: fibers switch only where the harness lets them, so plain operations are atomic --------------
// Integers only: sums of floats would depend on the order of threads.
#define CUDA_ON_CPU_ATOMIC(name, expression)        \
  template <typename T>                             \
  T name(T* address, std::common_type_t<T> value) { \
    static_assert(std::is_integral_v<T>);           \
    cuda_on_cpu::maybe_yield();                     \
    const T old = *address;                         \
    *address = (expression);                        \
    return old;                                     \
  }
CUDA_ON_CPU_ATOMIC(atomicAdd, T(old + value))
CUDA_ON_CPU_ATOMIC(atomicMax, old < value ? value : old)
CUDA_ON_CPU_ATOMIC(atomicMin, value < old ? value : old)
CUDA_ON_CPU_ATOMIC(atomicOr, T(old | value))
CUDA_ON_CPU_ATOMIC(atomicAnd, T(old& value))
CUDA_ON_CPU_ATOMIC(atomicExch, value)
#undef CUDA_ON_CPU_ATOMIC
template <typename T>
T atomicCAS(T* address, std::common_type_t<T> compare, std::common_type_t<T> value) {
  cuda_on_cpu::maybe_yield();
  const T old = *address;
  if (old == compare) *address = value;
  return old;
}

// ---- arithmetic ---------------------------------------------------------------------------------------
template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
void __stcs(T* address, T value) {
  memcpy(static_cast<void*>(address), &value, sizeof(T));
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll((unsigned long long)(x)); }

#define CUDA_ON_CPU_MIN_MAX(type)                           \
  inline type min(type a, type b) { return b < a ? b : a; } \
  inline type max(type a, type b) { return a < b ? b : a; }
CUDA_ON_CPU_MIN_MAX(int)
CUDA_ON_CPU_MIN_MAX(unsigned)
CUDA_ON_CPU_MIN_MAX(long)
CUDA_ON_CPU_MIN_MAX(unsigned long)
CUDA_ON_CPU_MIN_MAX(long long)
CUDA_ON_CPU_MIN_MAX(unsigned long long)
#undef CUDA_ON_CPU_MIN_MAX
// As on the device, a NaN loses.
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

// ---- runtime calls ------------------------------------------------------------------------------------
enum cudaMemcpyKind { cudaMemcpyDeviceToDevice = 3 };
using cudaStream_t = struct CUstream_st*;

cudaError_t cudaMemsetAsync(void* device, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
