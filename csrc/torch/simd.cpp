#include "cpu/simd.h"

#include <torch/csrc/stable/library.h>

#include <string>

namespace {
bool set_simd_level(std::string level) { return fastrpn::set_simd_level(level.c_str()); }
}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastrpn, CompositeExplicitAutograd, m) {
  m.impl("set_simd_level", TORCH_BOX(&set_simd_level));
}
