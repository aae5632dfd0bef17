// Memory of the simulated device: global memory that only kernels and runtime calls may touch, and the
// __shared__ variables of the kernels. Everything is handed out full of random bytes.
#include "memory.h"

#include <dlfcn.h>
#include <sanitizer/asan_interface.h>

#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "cuda_on_cpu.h"

namespace cuda_on_cpu {
namespace {

uint64_t random_state = 1;
const void* expected_stream;

struct Allocation {
  void* memory;
  size_t bytes;
  std::vector<std::pair<char*, char*>> red_zones;  // [begin, end)
};
std::map<char*, Allocation> device_memory;  // by the pointer handed out

void set_poison(bool poison) {
  for (auto& [pointer, allocation] : device_memory) {
    if (poison)
      __asan_poison_memory_region(pointer, allocation.bytes);
    else
      __asan_unpoison_memory_region(pointer, allocation.bytes);
    for (auto [begin, end] : allocation.red_zones) __asan_poison_memory_region(begin, size_t(end - begin));
  }
}

int device_access_depth;

// The allocation that [pointer, pointer + bytes) lies in.
Allocation& allocation_of(const void* pointer, size_t bytes) {
  char* p = static_cast<char*>(const_cast<void*>(pointer));
  auto it = device_memory.upper_bound(p);
  if (it != device_memory.begin()) {
    --it;
    if (p + bytes <= it->first + it->second.bytes) return it->second;
  }
  fail("%zu bytes at %p are not device memory", bytes, pointer);
}

void check_device_range(const void* pointer, size_t bytes) { allocation_of(pointer, bytes); }

// AddressSanitizer registers every protected global when the program starts; those of kernel sources that
// can be written are the __shared__ variables.
struct AsanGlobal {
  char* begin;
  uintptr_t size, size_with_red_zone;
  const char* name;
  const char* source;
  uintptr_t has_dynamic_init;
  void* location;
  uintptr_t odr_indicator;
};

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

void set_seed(uint64_t seed) { random_state = seed * 2 + 1; }

static uint64_t next_random() {  // splitmix64
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

size_t random_below(size_t n) { return next_random() % n; }

void fill_with_garbage(void* memory,
                       size_t bytes) {  // this file is not instrumented: red zones do not stop it
  auto* out = static_cast<volatile unsigned char*>(memory);
  for (size_t i = 0; i < bytes; ++i) out[i] = static_cast<unsigned char>(next_random() >> 56);
}

std::vector<SharedVariable>& shared_variables() {
  static std::vector<SharedVariable> variables;
  return variables;
}

DeviceAccess::DeviceAccess() {
  if (device_access_depth++ == 0) set_poison(false);
}
DeviceAccess::~DeviceAccess() {
  if (--device_access_depth == 0) set_poison(true);
}

void* device_malloc(size_t bytes, size_t misalign) {
  char* memory = static_cast<char*>(malloc(bytes + misalign));
  char* pointer = memory + misalign;
  fill_with_garbage(pointer, bytes);
  device_memory[pointer] = {memory, bytes, {}};
  __asan_poison_memory_region(pointer, bytes);
  return pointer;
}

void device_free(void* pointer) {
  auto it = device_memory.find(static_cast<char*>(pointer));
  if (it == device_memory.end()) fail("device_free of %p", pointer);
  __asan_unpoison_memory_region(pointer, it->second.bytes);
  free(it->second.memory);
  device_memory.erase(it);
}

void add_red_zone(char* begin, char* end) {
  if (begin == end) return;
  allocation_of(begin, size_t(end - begin)).red_zones.emplace_back(begin, end);
}

void copy_to_device(void* device, const void* host, size_t bytes) {
  DeviceAccess access;
  check_device_range(device, bytes);
  if (bytes > 0) memcpy(device, host, bytes);
}

void copy_from_device(void* host, const void* device, size_t bytes) {
  DeviceAccess access;
  check_device_range(device, bytes);
  if (bytes > 0) memcpy(host, device, bytes);
}

void expect_stream(const void* stream) { expected_stream = stream; }

void check_stream(const void* stream) {
  if (stream != expected_stream) fail("used another stream than the caller's");
}

}  // namespace cuda_on_cpu

cudaError_t cudaMemsetAsync(void* device, int value, size_t bytes, cudaStream_t stream) {
  cuda_on_cpu::check_stream(stream);
  if (cuda_on_cpu::begin_call() != cudaSuccess) return cudaPeekAtLastError();
  cuda_on_cpu::DeviceAccess access;
  cuda_on_cpu::check_device_range(device, bytes);
  memset(device, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  cuda_on_cpu::check_stream(stream);
  if (cuda_on_cpu::begin_call() != cudaSuccess) return cudaPeekAtLastError();
  cuda_on_cpu::DeviceAccess access;
  cuda_on_cpu::check_device_range(to, bytes);
  cuda_on_cpu::check_device_range(from, bytes);
  memcpy(to, from, bytes);
  return cudaSuccess;
}

extern "C" char __data_start[], _end[];

extern "C" void __asan_register_globals(cuda_on_cpu::AsanGlobal* globals, uintptr_t count) {
  for (uintptr_t i = 0; i < count; ++i) {
    const auto& global = globals[i];
    const bool writable = global.begin >= __data_start && global.begin < _end;
    const bool named_by_compiler = global.name[0] == '*' || strncmp(global.name, "__gcov", 6) == 0;
    if (cuda_on_cpu::ends_with(global.source, "_cuda.cu") && writable && !named_by_compiler)
      cuda_on_cpu::shared_variables().push_back({global.begin, global.size});
  }
  using Register = void (*)(cuda_on_cpu::AsanGlobal*, uintptr_t);
  reinterpret_cast<Register>(dlsym(RTLD_NEXT, "__asan_register_globals"))(globals, count);
}
