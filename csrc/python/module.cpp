// fastrpn._C: what was built, which SIMD level runs, and the NumPy front end. Never needs torch.
#include <pybind11/pybind11.h>

#include <sstream>
#include <string>

#include "cpu/simd.h"
#include "python/numpy_ops.h"

namespace py = pybind11;

namespace {

py::list split(const std::string& text) {
  py::list parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.append(part);
  return parts;
}

py::dict build_info() {
  const std::string cuda_version = FASTRPN_CUDA_VERSION;
  py::dict info;
  info["version"] = FASTRPN_VERSION;
  info["compiler"] = FASTRPN_COMPILER;
  info["torch_target"] = FASTRPN_TORCH_TARGET;
  info["cuda_version"] = cuda_version.empty() ? py::object(py::none()) : py::str(cuda_version);
  info["cuda_archs"] = cuda_version.empty() ? py::list() : split(FASTRPN_CUDA_ARCHS);
  info["simd_levels"] = split(FASTRPN_SIMD_LEVELS);
  info["simd_level"] = fastrpn::simd_level_name(fastrpn::simd_level());
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Build information and the NumPy front end of fastrpn.";
  m.def("build_info", &build_info, "What was compiled, and the SIMD level in use.");
  m.def(
      "set_simd_level", [](const std::string& level) { return fastrpn::set_simd_level(level.c_str()); },
      py::arg("level"), "Force a SIMD level; False if it was not compiled or this CPU lacks it.");
  add_numpy_ops(m);
}
