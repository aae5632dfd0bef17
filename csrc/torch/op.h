// From a checked call to the kernel of the tensors' device: what all bindings have in common.
//
//   FASTRPN_DEFINE_RUN(nms, NmsArgs, nms_workspace_bytes, nms_cuda)   // void run_nms(args, on)
//   ...
//   FASTRPN_IMPL(m) { m.impl("nms", TORCH_BOX(&fastrpn::nms)); }      // for the CPU and for CUDA
#pragma once

#include "cpu/simd.h"
#include "torch/tensor.h"

// Defines run_<op>(args, on), which runs the op's kernel where the tensor `on` lies. Behind the type come the
// CUDA functions of the op: <op>_workspace_bytes, if it needs a workspace, and <op>_cuda.
#define FASTRPN_DEFINE_RUN(op, Args, ...)                                                 \
  void run_##op(const Args& args, const Tensor& on) {                                     \
    if (on.is_cpu()) return FASTRPN_CPU(op##_cpu)(args, ::fastrpn::torch_parallel_for()); \
    FASTRPN_RUN_ON_CUDA(#op, args, on, __VA_ARGS__);                                      \
  }

// Registers the same functions for every device that was compiled.
#if defined(FASTRPN_WITH_CUDA)
#define FASTRPN_RUN_ON_CUDA(...) ::fastrpn::run_on_cuda(__VA_ARGS__)
#define FASTRPN_IMPL(m)                                                            \
  static void register_kernels(torch::stable::detail::StableLibrary& m);           \
  STABLE_TORCH_LIBRARY_IMPL(fastrpn, CPU, library) { register_kernels(library); }  \
  STABLE_TORCH_LIBRARY_IMPL(fastrpn, CUDA, library) { register_kernels(library); } \
  static void register_kernels(torch::stable::detail::StableLibrary& m)
#else
#define FASTRPN_RUN_ON_CUDA(...) static_assert(true, "no tensor of CUDA comes here")
#define FASTRPN_IMPL(m)                                                           \
  static void register_kernels(torch::stable::detail::StableLibrary& m);          \
  STABLE_TORCH_LIBRARY_IMPL(fastrpn, CPU, library) { register_kernels(library); } \
  static void register_kernels(torch::stable::detail::StableLibrary& m)
#endif

#if defined(FASTRPN_WITH_CUDA)
namespace fastrpn {

template <typename Args>
size_t bytes_for(const char*, const Args& args, size_t (*workspace_bytes)(const Args&)) {
  return workspace_bytes(args);
}

template <typename Args>
size_t bytes_for(const char* op, const Args& args, Status (*workspace_bytes)(const Args&, size_t*)) {
  size_t bytes = 0;
  check_status(workspace_bytes(args, &bytes), op);
  return bytes;
}

template <typename Args, typename WorkspaceBytes>
void run_on_cuda(const char* op, const Args& args, const Tensor& on, WorkspaceBytes* workspace_bytes,
                 Status (*launch)(const Args&, void* workspace, Stream)) {
  const torch::stable::accelerator::DeviceGuard guard(on.get_device_index());
  const Stream stream = current_stream(on);  // first: it says what is wrong with a driver
  const auto bytes = int64_t(bytes_for(op, args, workspace_bytes));
  Tensor workspace = new_empty_tensor({bytes}, ScalarType::Byte, on);
  check_status(launch(args, workspace.mutable_data_ptr(), stream), op);
}

template <typename Args>
void run_on_cuda(const char* op, const Args& args, const Tensor& on, Status (*launch)(const Args&, Stream)) {
  const torch::stable::accelerator::DeviceGuard guard(on.get_device_index());
  check_status(launch(args, current_stream(on)), op);
}

}  // namespace fastrpn
#endif
