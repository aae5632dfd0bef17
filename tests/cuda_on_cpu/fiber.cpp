#include "fiber.h"

#include <sanitizer/common_interface_defs.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

// switch_stacks(save, load): stores the callee-saved registers on this stack and its pointer in *save, then
// takes up the stack `load`. A fresh stack holds zeroes for the registers and start_on_new_stack as the
// return address; the fiber's pointer travels in a callee-saved register.
extern "C" void cuda_on_cpu_switch_stacks(void** save, void* load);
extern "C" void cuda_on_cpu_start_on_new_stack();

#if defined(__x86_64__)
asm(R"(
.text
.globl cuda_on_cpu_switch_stacks
cuda_on_cpu_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.globl cuda_on_cpu_start_on_new_stack
cuda_on_cpu_start_on_new_stack:
  movq %r12, %rdi
  call cuda_on_cpu_start_fiber
  ud2
)");
constexpr int kSavedWords = 7;  // six registers and the return address
constexpr int kFiberWord = 3;   // r12
constexpr int kReturnWord = 6;
#elif defined(__aarch64__)
asm(R"(
.text
.globl cuda_on_cpu_switch_stacks
cuda_on_cpu_switch_stacks:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.globl cuda_on_cpu_start_on_new_stack
cuda_on_cpu_start_on_new_stack:
  mov x0, x19
  bl cuda_on_cpu_start_fiber
  brk #1
)");
constexpr int kSavedWords = 20;
constexpr int kFiberWord = 0;    // x19
constexpr int kReturnWord = 11;  // x30
#else
#error "cuda_on_cpu: write the stack switch for this processor"
#endif

namespace cuda_on_cpu {
namespace {

constexpr size_t kStackBytes = 256 << 10;  // sanitizer reports are printed from here, too
constexpr size_t kGuardBytes = 64 << 10;   // a multiple of every page size

}  // namespace

extern "C" void cuda_on_cpu_start_fiber(Fiber* self) { Fiber::start(self); }

Fiber::Fiber(Entry entry, void* argument) : entry_(entry), argument_(argument) {
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) {
    perror("cuda_on_cpu: a fiber's stack");
    abort();
  }
  stack_ = static_cast<char*>(memory) + kGuardBytes;
  void** top = reinterpret_cast<void**>(stack_ + kStackBytes);
  void** frame = top - kSavedWords;  // mmap gave zeroes
  frame[kFiberWord] = this;
  frame[kReturnWord] = reinterpret_cast<void*>(&cuda_on_cpu_start_on_new_stack);
  stack_pointer_ = frame;
}

Fiber::~Fiber() { munmap(stack_ - kGuardBytes, kGuardBytes + kStackBytes); }

void Fiber::start(Fiber* self) {
  __sanitizer_finish_switch_fiber(nullptr, &self->scheduler_stack_, &self->scheduler_stack_size_);
  self->entry_(self->argument_);
}

void Fiber::resume() {
  __sanitizer_start_switch_fiber(&scheduler_fake_stack_, stack_, kStackBytes);
  cuda_on_cpu_switch_stacks(&scheduler_pointer_, stack_pointer_);
  __sanitizer_finish_switch_fiber(scheduler_fake_stack_, nullptr, nullptr);
}

void Fiber::suspend() {
  __sanitizer_start_switch_fiber(&fake_stack_, scheduler_stack_, scheduler_stack_size_);
  cuda_on_cpu_switch_stacks(&stack_pointer_, scheduler_pointer_);
  __sanitizer_finish_switch_fiber(fake_stack_, &scheduler_stack_, &scheduler_stack_size_);
}

}  // namespace cuda_on_cpu
