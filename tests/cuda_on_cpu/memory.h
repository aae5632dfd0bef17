// What the scheduler needs of memory.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cuda_on_cpu {

size_t random_below(size_t n);
void fill_with_garbage(void* memory, size_t bytes);

struct SharedVariable {
  void* address;
  size_t bytes;
};
std::vector<SharedVariable>& shared_variables();

}  // namespace cuda_on_cpu
