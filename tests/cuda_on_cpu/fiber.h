// One CUDA thread as a fiber: a stack of its own and a switch that costs a few instructions (swapcontext
// would make system calls). AddressSanitizer is told of every switch, so that it knows which stack is live.
#pragma once

#include <cstddef>

namespace cuda_on_cpu {

class Fiber {
 public:
  using Entry = void (*)(void* argument);

  // The fiber runs entry(argument), which never returns, from the first resume() on.
  Fiber(Entry entry, void* argument);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // From the scheduler: runs the fiber until it suspends.
  void resume();
  // From inside the fiber: back to the scheduler.
  void suspend();

  static void start(Fiber* self);  // the first call on the new stack

 private:
  Entry entry_;
  void* argument_;
  char* stack_;
  void* stack_pointer_;
  void* scheduler_pointer_ = nullptr;
  void* fake_stack_ = nullptr;
  void* scheduler_fake_stack_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_size_ = 0;
};

}  // namespace cuda_on_cpu
