#include "faults.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "cuda_on_cpu.h"

namespace cuda_on_cpu {
namespace {

cudaError_t last_error = cudaSuccess;
int64_t num_calls, failing_call;
int64_t num_allocations, failing_allocation, num_live;

void* allocate(size_t bytes, size_t alignment) {
  if (++num_allocations == failing_allocation) throw std::bad_alloc();
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, bytes) != 0) throw std::bad_alloc();
  memset(memory, 0xcb, bytes);  // nobody may rely on what is there
  ++num_live;
  return memory;
}

void release(void* memory) {
  if (memory == nullptr) return;
  --num_live;
  free(memory);
}

}  // namespace

void fail_call(int64_t n) {
  num_calls = 0;
  failing_call = n;
}

int64_t calls() { return num_calls; }

void fail_allocation(int64_t n) {
  num_allocations = 0;
  failing_allocation = n;
}

int64_t allocations() { return num_allocations; }

int64_t live_allocations() { return num_live; }

cudaError_t set_last_error(cudaError_t error) { return last_error = error; }

cudaError_t begin_call() {
  ++num_calls;
  if (failing_call > 0 && num_calls > failing_call) fail("went on after a call that had failed");
  return num_calls == failing_call ? set_last_error(cudaErrorInjected) : cudaSuccess;
}

}  // namespace cuda_on_cpu

cudaError_t cudaPeekAtLastError() { return cuda_on_cpu::last_error; }

cudaError_t cudaGetLastError() {
  const cudaError_t error = cuda_on_cpu::last_error;
  cuda_on_cpu::last_error = cudaSuccess;
  return error;
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInjected ? "injected error" : error == cudaSuccess ? "no error" : "invalid value";
}

// All of them: AddressSanitizer brings its own of those that are missing, and they do not mix.
void* operator new(size_t bytes) { return cuda_on_cpu::allocate(bytes, alignof(max_align_t)); }
void* operator new[](size_t bytes) { return operator new(bytes); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return cuda_on_cpu::allocate(bytes, size_t(alignment));
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  try {
    return operator new(bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* memory) noexcept { cuda_on_cpu::release(memory); }
void operator delete[](void* memory) noexcept { cuda_on_cpu::release(memory); }
void operator delete(void* memory, size_t) noexcept { cuda_on_cpu::release(memory); }
void operator delete[](void* memory, size_t) noexcept { cuda_on_cpu::release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { cuda_on_cpu::release(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { cuda_on_cpu::release(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { cuda_on_cpu::release(memory); }
