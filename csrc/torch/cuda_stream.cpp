// The one thing the operators need of torch's CUDA libraries: the current stream. Its symbol lives in
// libtorch_cuda, which this library must not link, or it could not load beside a CPU-only torch. It is looked
// up at the first CUDA call, in the libtorch_cuda that the process has loaded by then.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include "cuda/runtime.h"
#include "torch/tensor.h"

namespace fastrpn {
namespace {

using GetCurrentStream = AOTITorchError (*)(int32_t device_index, void** stream);

// CUDA's statically linked runtime refuses an older driver with a number; say what to do instead.
void check_driver() {
  int driver = 0;
  cudaDriverGetVersion(&driver);
  STD_TORCH_CHECK(driver / 1000 >= CUDART_VERSION / 1000, "fastrpn was built with CUDA ",
                  CUDART_VERSION / 1000, ".", CUDART_VERSION % 1000 / 10, ", which needs the NVIDIA driver ",
                  CUDART_VERSION >= 13000 ? 580 : 525, " or newer, but the one here supports only CUDA ",
                  driver / 1000, ".", driver % 1000 / 10,
                  ": update the driver, or rebuild fastrpn with an older CUDA toolkit");
}

GetCurrentStream find_get_current_stream() {
  check_driver();
  void* torch_cuda = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
  STD_TORCH_CHECK(torch_cuda != nullptr, "a CUDA tensor was given, but libtorch_cuda.so is not loaded");
  void* symbol = dlsym(torch_cuda, "aoti_torch_get_current_cuda_stream");
  STD_TORCH_CHECK(symbol != nullptr, "libtorch_cuda.so has no aoti_torch_get_current_cuda_stream");
  return reinterpret_cast<GetCurrentStream>(symbol);
}

}  // namespace

Stream current_stream(const Tensor& tensor) {
  static const GetCurrentStream get_current_stream = find_get_current_stream();
  void* stream = nullptr;
  STD_TORCH_CHECK(get_current_stream(tensor.get_device_index(), &stream) == 0, "no current CUDA stream");
  return static_cast<Stream>(stream);
}

// Straight from CUDA: torch's copy is found by its name, makes a tensor and sets up a loop over it.
int64_t read_from_device(const int64_t* number, const Tensor& on) {
  const torch::stable::accelerator::DeviceGuard guard(on.get_device_index());
  const Stream stream = current_stream(on);
  int64_t read = 0;
  cudaError_t error = cudaMemcpyAsync(&read, number, sizeof(read), cudaMemcpyDeviceToHost, stream);
  if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
  check_status(status_of(error), "reading a result");
  return read;
}

void check_status(Status status, const char* op) {
  if (status != nullptr) check_driver();  // an older one refuses every call
  STD_TORCH_CHECK(status == nullptr, op, ": CUDA error: ", status);
}

}  // namespace fastrpn
