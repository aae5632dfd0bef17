#include "cpu/simd.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#if defined(FASTRPN_X86)
#include <cpuid.h>
#endif

namespace fastrpn {
namespace {

#if defined(FASTRPN_X86)
// clang before 15 does not know the name "f16c" in __builtin_cpu_supports.
bool has_f16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

bool runs_here(SimdLevel level) {
  switch (level) {
    case SimdLevel::generic:
      return true;
#if defined(FASTRPN_X86)
    case SimdLevel::avx2:
      return __builtin_cpu_supports("avx2") && has_f16c();
    case SimdLevel::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             runs_here(SimdLevel::avx2);
#endif
    default:
      return false;
  }
}

bool find_level(const char* name, SimdLevel* found) {
  for (SimdLevel level : {SimdLevel::generic, SimdLevel::avx2, SimdLevel::avx512}) {
    if (std::strcmp(name, simd_level_name(level)) == 0 && runs_here(level)) {
      *found = level;
      return true;
    }
  }
  return false;
}

SimdLevel first_level() {
  SimdLevel level = SimdLevel::generic;
  const char* wanted = std::getenv("FASTRPN_SIMD");
  if (wanted != nullptr && find_level(wanted, &level)) return level;
  for (SimdLevel better : {SimdLevel::avx2, SimdLevel::avx512}) {
    if (runs_here(better)) level = better;
  }
  return level;
}

std::atomic<SimdLevel>& current() {
  static std::atomic<SimdLevel> level{first_level()};
  return level;
}

}  // namespace

SimdLevel simd_level() { return current().load(std::memory_order_relaxed); }

bool set_simd_level(const char* name) {
  SimdLevel level;
  if (!find_level(name, &level)) return false;
  current().store(level, std::memory_order_relaxed);
  return true;
}

const char* simd_level_name(SimdLevel level) {
  switch (level) {
    case SimdLevel::avx2:
      return "avx2";
    case SimdLevel::avx512:
      return "avx512";
    default:
      return "generic";
  }
}

}  // namespace fastrpn
