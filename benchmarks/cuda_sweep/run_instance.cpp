// Runs an instance's op on tensors that Python names: the Run of tests/cuda_on_cpu/runner.h over memory of
// the caller, so that the ops' own run_<op>.cpp hand over the arguments here as there. With nvcc on a GPU;
// with FASTRPN_CUDA_ON_CPU on the harness, without its sanitizers.
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "runner.h"

#if defined(FASTRPN_CUDA_ON_CPU)
#include "cuda_on_cpu.h"
#else
#include <cuda_runtime.h>
#endif

namespace {

struct Result {
  std::string name;
  Tensor tensor;
  void* device;
};

struct Buffer {
  void* memory;
  size_t bytes;
};

std::map<std::string, Tensor> tensors;  // shape and type of what Python gave, small ones with their bytes
std::map<std::string, void*> device_memory;  // where it lies
std::vector<Result> outputs;                 // of the last run
std::vector<Buffer> buffers;                 // outputs and workspaces, kept from run to run
size_t buffers_in_use;
std::string error;

size_t byte_count(const std::string& type, const std::vector<int64_t>& shape) {
  size_t bytes = type == "bf" ? 2 : size_t(type[1] - '0');
  for (int64_t size : shape) bytes *= size_t(size);
  return bytes;
}

#if defined(FASTRPN_CUDA_ON_CPU)
void* device_malloc(size_t bytes) { return cuda_on_cpu::device_malloc(bytes); }
void device_free(void* memory) { cuda_on_cpu::device_free(memory); }
void copy_to_host(void* to, const void* from, size_t bytes) {
  cuda_on_cpu::copy_from_device(to, from, bytes);
}
void begin_run(fastrpn::Stream stream) { cuda_on_cpu::expect_stream(stream); }
#else
void check_cuda(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}
void* device_malloc(size_t bytes) {
  void* memory = nullptr;
  check_cuda(cudaMalloc(&memory, bytes));
  check_cuda(cudaMemset(memory, 0x5a, bytes));  // what a kernel leaves unwritten shows
  return memory;
}
void device_free(void* memory) { cudaFree(memory); }
void copy_to_host(void* to, const void* from, size_t bytes) {
  check_cuda(cudaDeviceSynchronize());
  check_cuda(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
}
void begin_run(fastrpn::Stream) {}
#endif

fastrpn::Stream current_stream;

}  // namespace

Run::~Run() = default;

bool Run::has(const char* name) const { return tensors.count(name) > 0; }

const Tensor& Run::tensor(const char* name) const {
  const auto found = tensors.find(name);
  if (found == tensors.end()) throw std::runtime_error(std::string("no input is named ") + name);
  return found->second;
}

void* Run::input(const char* name) { return has(name) ? device_memory.at(name) : nullptr; }

fastrpn::DType Run::dtype(const char* name) const {
  const std::string& type = tensor(name).type;
  if (type == "f2") return fastrpn::DType::float16;
  if (type == "bf") return fastrpn::DType::bfloat16;
  if (type == "f4") return fastrpn::DType::float32;
  if (type == "f8") return fastrpn::DType::float64;
  throw std::runtime_error(std::string(name) + " is no floating tensor");
}

double Run::number(const char* name) const { return element<double>(name, 0); }

// The k-th buffer of a run serves the k-th buffer of the next: no allocation while the clock runs.
void* Run::allocate(size_t bytes, size_t) {
  if (buffers_in_use == buffers.size()) buffers.push_back({nullptr, 0});
  Buffer& buffer = buffers[buffers_in_use++];
  if (buffer.memory == nullptr || buffer.bytes < bytes) {
    if (buffer.memory != nullptr) device_free(buffer.memory);
    buffer = {nullptr, 0};
    buffer = {device_malloc(bytes), bytes};
  }
  return buffer.memory;
}

void* Run::output(const char* name, const char* type, std::vector<int64_t> shape) {
  outputs.push_back({name, {type, shape, {}}, allocate(byte_count(type, shape), 0)});
  return outputs.back().device;
}

void Run::report(const char*, int64_t) { throw std::runtime_error("nothing to report here"); }

void* Run::workspace(size_t bytes) { return allocate(bytes, 0); }

fastrpn::Stream Run::stream() const { return current_stream; }

void Run::check(fastrpn::Status status) const {
  if (status != nullptr) throw std::runtime_error(status);
}

// ---- what Python calls -----------------------------------------------------------------------------------
#define EXPORTED extern "C" __attribute__((visibility("default")))

// `bytes`: the elements on the host, for tensors that the launch reads there; null for others.
EXPORTED void set_input(const char* name, const char* type, int dimensions, const int64_t* shape,
                        void* device, const char* bytes) {
  Tensor tensor{type, {shape, shape + dimensions}, {}};
  if (bytes != nullptr) tensor.bytes.assign(bytes, bytes + byte_count(type, tensor.shape));
  tensors[name] = tensor;
  device_memory[name] = device;
}

// Queues the op. Returns null, or what went wrong.
EXPORTED const char* run_instance(fastrpn::Stream stream) try {
  begin_run(stream);
  current_stream = stream;
  outputs.clear();
  buffers_in_use = 0;
  Run run(0);
  run_op(run);
  return nullptr;
} catch (const std::exception& e) {
  error = e.what();
  return error.c_str();
}

// Result `index` of the last run: its name, null if there are no more; type, shape, number of dimensions.
EXPORTED const char* output_name(int index, const char** type, const int64_t** shape, int* dimensions) {
  if (index >= int(outputs.size())) return nullptr;
  const Result& output = outputs[size_t(index)];
  *type = output.tensor.type.c_str();
  *shape = output.tensor.shape.data();
  *dimensions = int(output.tensor.shape.size());
  return output.name.c_str();
}

EXPORTED const char* copy_output(int index, void* to) try {
  const Result& output = outputs[size_t(index)];
  copy_to_host(to, output.device, byte_count(output.tensor.type, output.tensor.shape));
  return nullptr;
} catch (const std::exception& e) {
  error = e.what();
  return error.c_str();
}

// Forgets all inputs and frees all memory.
EXPORTED void release() {
  for (const Buffer& buffer : buffers) {
    if (buffer.memory != nullptr) device_free(buffer.memory);
  }
  buffers.clear();
  outputs.clear();
  tensors.clear();
  device_memory.clear();
}
