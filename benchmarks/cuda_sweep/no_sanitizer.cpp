// What the harness calls of AddressSanitizer, doing nothing: a Python process cannot load it.
#include <cstddef>

extern "C" {
void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
void __asan_poison_memory_region(const volatile void*, size_t) {}
void __asan_unpoison_memory_region(const volatile void*, size_t) {}
char __data_start[1];
}
