// SIMD chosen at run time. Each <op>_cpu.cpp is one portable source, compiled once for each level below
// with FASTRPN_SIMD_LEVEL set to its name, and puts everything it defines into that namespace:
//
//   // op.h                                           // op_cpu.cpp
//   FASTRPN_DECLARE_CPU(void, op_cpu,                 namespace fastrpn::FASTRPN_SIMD_LEVEL {
//                       const OpArgs&, const ParallelFor&);   void op_cpu(const OpArgs& args, ...) {...}
//                                                     }
//   FASTRPN_CPU(op_cpu)(args, parallel_for);          // the caller: best level of this machine
//
// Rule for those sources: no std:: templates and no inline functions from elsewhere (they would be merged
// by the linker across levels, and an old CPU would run AVX-512 code). A test reads the symbol tables.
#pragma once

namespace fastrpn {

enum class SimdLevel : int { generic, avx2, avx512 };

// The level in use: the best that was compiled and this CPU can run, unless set_simd_level lowered it or
// the environment variable FASTRPN_SIMD names another.
SimdLevel simd_level();

// Forces a level ("generic", "avx2", "avx512"). Returns false and changes nothing if it was not compiled or
// this CPU lacks it.
bool set_simd_level(const char* name);

const char* simd_level_name(SimdLevel level);

}  // namespace fastrpn

#if defined(FASTRPN_X86)
#define FASTRPN_DECLARE_CPU(result, name, ...) \
  namespace generic {                          \
  result name(__VA_ARGS__);                    \
  }                                            \
  namespace avx2 {                             \
  result name(__VA_ARGS__);                    \
  }                                            \
  namespace avx512 {                           \
  result name(__VA_ARGS__);                    \
  }                                            \
  static_assert(true, "takes the semicolon")
#define FASTRPN_CPU(name)                                                            \
  (::fastrpn::simd_level() == ::fastrpn::SimdLevel::avx512 ? ::fastrpn::avx512::name \
   : ::fastrpn::simd_level() == ::fastrpn::SimdLevel::avx2 ? ::fastrpn::avx2::name   \
                                                           : ::fastrpn::generic::name)
#else
#define FASTRPN_DECLARE_CPU(result, name, ...) \
  namespace generic {                          \
  result name(__VA_ARGS__);                    \
  }                                            \
  static_assert(true, "takes the semicolon")
#define FASTRPN_CPU(name) (::fastrpn::generic::name)
#endif
