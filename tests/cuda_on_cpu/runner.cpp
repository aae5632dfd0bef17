// The file format: for each tensor its name (32 bytes), type (8 bytes), number of dimensions and dimensions
// (int64), then its elements. Numbers are float64 tensors without dimensions. Some are ours: the op runs with
// "seeds" orders of threads, and on the CPU, and every run must give the same bytes; "fail_calls" and
// "fail_allocations" have it meet every error it can.
#include "runner.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>

#include "cuda/runtime.h"
#include "faults.h"
#include "memory.h"

namespace {

std::map<std::string, Tensor> request;
size_t misalign;             // elements by which every array is moved off its alignment
int64_t failing_allocation;  // of a CPU kernel; 0: none

size_t element_size(const std::string& type) { return type == "bf" ? 2 : size_t(type[1] - '0'); }

size_t byte_count(const Tensor& tensor) {
  size_t bytes = element_size(tensor.type);
  for (int64_t size : tensor.shape) bytes *= size_t(size);
  return bytes;
}

[[noreturn]] void stop(const std::string& message) {
  fprintf(stderr, "runner: %s\n", message.c_str());
  exit(2);
}

void read_request(const char* path) {
  FILE* file = fopen(path, "rb");
  if (file == nullptr) stop(std::string("cannot open ") + path);
  char name[33] = {}, type[9] = {};
  auto read = [file](void* to, size_t bytes) {
    if (bytes > 0 && fread(to, 1, bytes, file) != bytes) stop("the request is cut short");
  };
  while (fread(name, 1, 32, file) == 32) {
    Tensor tensor;
    int64_t dimensions;
    read(type, 8);
    read(&dimensions, 8);
    tensor.type = type;
    tensor.shape.resize(size_t(dimensions));
    read(tensor.shape.data(), 8 * size_t(dimensions));
    tensor.bytes.resize(byte_count(tensor));
    read(tensor.bytes.data(), tensor.bytes.size());
    request[name] = tensor;
  }
  fclose(file);
}

void write_tensor(FILE* file, const std::string& name, const Tensor& tensor) {
  char label[40] = {};
  strncpy(label, name.c_str(), 31);
  strncpy(label + 32, tensor.type.c_str(), 7);
  const int64_t dimensions = int64_t(tensor.shape.size());
  fwrite(label, 1, 40, file);
  fwrite(&dimensions, 8, 1, file);
  fwrite(tensor.shape.data(), 8, tensor.shape.size(), file);
  fwrite(tensor.bytes.data(), 1, tensor.bytes.size(), file);
}

// In chunks, as threads would take them, one after another.
void run_in_chunks(int64_t size, int64_t grain, fastrpn::ParallelFor::Body body, void* context) {
  const int64_t chunk = std::max(grain, (size + 2) / 3);
  for (int64_t begin = 0; begin < size; begin += chunk) body(context, begin, std::min(size, begin + chunk));
}

}  // namespace

Run::~Run() {
  for (void* pointer : allocations_) on_cpu() ? free(pointer) : cuda_on_cpu::device_free(pointer);
}

void Run::call_cpu(const std::function<void(const fastrpn::ParallelFor&)>& kernel) {
  const int64_t live = cuda_on_cpu::live_allocations();
  bool threw = false;
  cuda_on_cpu::fail_allocation(failing_allocation);
  try {
    kernel({run_in_chunks, 3});
  } catch (const std::bad_alloc&) {
    threw = true;
  }
  const int64_t wanted = cuda_on_cpu::allocations();
  cuda_on_cpu::fail_allocation(0);
  if (cuda_on_cpu::live_allocations() != live)
    stop("the CPU kernel leaks " + std::to_string(cuda_on_cpu::live_allocations() - live) + " allocations");
  if (threw != (failing_allocation > 0 && wanted >= failing_allocation))
    stop("the CPU kernel hides that allocation " + std::to_string(failing_allocation) + " failed");
  if (threw) throw Failure{"bad_alloc"};
}

bool Run::has(const char* name) const { return request.count(name) > 0; }

const Tensor& Run::tensor(const char* name) const {
  if (!has(name)) stop(std::string("the request lacks ") + name);
  return request[name];
}

void* Run::allocate(size_t bytes, size_t element_size) {
  if (!on_cpu()) {
    allocations_.push_back(cuda_on_cpu::device_malloc(bytes, misalign * element_size));
    return allocations_.back();
  }
  char* memory = static_cast<char*>(malloc(bytes + misalign * element_size));
  allocations_.push_back(memory);
  cuda_on_cpu::fill_with_garbage(memory, bytes + misalign * element_size);
  return memory + misalign * element_size;
}

void* Run::input(const char* name) {
  if (!has(name)) return nullptr;
  const Tensor& t = tensor(name);
  void* memory = allocate(t.bytes.size(), element_size(t.type));
  if (!on_cpu()) {
    cuda_on_cpu::copy_to_device(memory, t.bytes.data(), t.bytes.size());
  } else if (!t.bytes.empty()) {
    memcpy(memory, t.bytes.data(), t.bytes.size());
  }
  return memory;
}

fastrpn::DType Run::dtype(const char* name) const {
  const std::string& type = tensor(name).type;
  if (type == "f2") return fastrpn::DType::float16;
  if (type == "bf") return fastrpn::DType::bfloat16;
  if (type == "f4") return fastrpn::DType::float32;
  if (type == "f8") return fastrpn::DType::float64;
  stop(std::string(name) + " is no floating tensor");
}

double Run::number(const char* name) const {
  const Tensor& t = tensor(name);
  if (t.type != "f8" || !t.shape.empty()) stop(std::string(name) + " is no number");
  double value;
  memcpy(&value, t.bytes.data(), sizeof(value));
  return value;
}

void* Run::output(const char* name, const char* type, std::vector<int64_t> shape) {
  Tensor tensor{type, shape, {}};
  tensor.bytes.resize(byte_count(tensor));
  void* memory = allocate(tensor.bytes.size(), element_size(type));
  outputs_.push_back({name, tensor, memory});
  return memory;
}

void Run::report(const char* name, int64_t value) {
  cuda_on_cpu::copy_to_device(output(name, "i8", {}), &value, sizeof(value));
}

void* Run::workspace(size_t bytes) {
  check(fastrpn::status_of(cuda_on_cpu::begin_call()));
  return allocate(bytes, 0);
}

fastrpn::Stream Run::stream() const { return reinterpret_cast<fastrpn::Stream>(uintptr_t(0x5742)); }

void Run::check(fastrpn::Status status) const {
  if (status != nullptr) throw Failure{status};
}

std::vector<Output> Run::read_outputs() {
  for (auto& [name, tensor, memory] : outputs_) {
    if (!on_cpu()) {
      cuda_on_cpu::copy_from_device(tensor.bytes.data(), memory, tensor.bytes.size());
    } else if (!tensor.bytes.empty()) {
      memcpy(tensor.bytes.data(), memory, tensor.bytes.size());
    }
  }
  return outputs_;
}

namespace {

std::vector<Output> run_once(Device device, uint64_t seed = 0) {
  cuda_on_cpu::set_seed(seed);
  Run run(device);
  cuda_on_cpu::expect_stream(run.stream());
  run_op(run);
  if (cudaPeekAtLastError() != cudaSuccess) stop("an error is pending after a run without one");
  return run.read_outputs();
}

bool is_nan(const std::string& type, const char* element) {
  uint64_t bits = 0;
  memcpy(&bits, element, element_size(type));
  if (type == "f2") return (bits & 0x7fff) > 0x7c00;
  if (type == "bf") return (bits & 0x7fff) > 0x7f80;
  if (type == "f4") return (bits & 0x7fffffff) > 0x7f800000;
  return type == "f8" && (bits & INT64_MAX) > 0x7ff0000000000000;
}

// All that is in `expected` must be in `actual`, to the last bit; but a NaN may be another.
void check_equal(const std::vector<Output>& expected, const std::vector<Output>& actual,
                 const std::string& complaint) {
  for (size_t i = 0; i < expected.size(); ++i) {
    const Tensor &a = expected[i].tensor, &b = actual[i].tensor;
    if (expected[i].name != actual[i].name || a.bytes.size() != b.bytes.size())
      stop("outputs differ in kind");
    const size_t size = element_size(a.type);
    for (size_t at = 0; at < a.bytes.size(); at += size) {
      const char *x = &a.bytes[at], *y = &b.bytes[at];
      if (memcmp(x, y, size) == 0 || (is_nan(a.type, x) && is_nan(a.type, y))) continue;
      stop("element " + std::to_string(at / size) + " of output " + expected[i].name + " " + complaint);
    }
  }
}

// Lets each call that the op makes fail once: the op raises that error, leaves nothing pending, and does its
// work when it is called again. Returns how many calls there were.
int64_t fail_each_call(const std::vector<Output>& expected) {
  for (int64_t n = 1;; ++n) {
    const std::string call = "call " + std::to_string(n);
    std::string message;
    cuda_on_cpu::fail_call(n);
    try {
      run_once(Device::cuda);
    } catch (const Failure& failure) {
      message = failure.message;
    }
    const bool failed = cuda_on_cpu::calls() >= n;
    cuda_on_cpu::fail_call(0);
    if (cudaPeekAtLastError() != cudaSuccess) stop(call + " failed and its error is still pending");
    if (message != (failed ? cudaGetErrorString(cudaErrorInjected) : ""))
      stop(call + (failed ? " failed" : " was fine") + ", but the op says: '" + message + "'");
    if (!failed) return n - 1;
    check_equal(expected, run_once(Device::cuda), "is wrong after " + call + " had failed");
  }
}

// The same for the allocations of the CPU kernel.
int64_t fail_each_allocation(const std::vector<Output>& expected) {
  for (int64_t n = 1;; ++n) {
    bool threw = false;
    failing_allocation = n;
    try {
      run_once(Device::cpu);
    } catch (const Failure&) {
      threw = true;
    }
    failing_allocation = 0;
    if (!threw) return n - 1;
    check_equal(expected, run_once(Device::cpu),
                "is wrong after allocation " + std::to_string(n) + " had failed");
  }
}

Output count_of(const char* name, int64_t count) {
  Output output{name, {"i8", {}, std::vector<char>(sizeof(count))}, nullptr};
  memcpy(output.tensor.bytes.data(), &count, sizeof(count));
  return output;
}

std::vector<Output> run_request() {
  const auto option = [](const char* name, int64_t otherwise) {
    return request.count(name) ? Run(Device::cpu).integer(name) : otherwise;
  };
  misalign = size_t(option("misalign", 0));
  std::vector<Output> outputs = run_once(Device::cuda);
  for (int64_t seed = 1; seed < option("seeds", 1); ++seed) {
    check_equal(outputs, run_once(Device::cuda, uint64_t(seed)),
                "depends on the order of threads: seeds 0 and " + std::to_string(seed));
  }
  const std::vector<Output> on_cpu = run_once(Device::cpu);
  check_equal(on_cpu, outputs, "differs from the CPU kernel's");
  std::vector<Output> counts;
  if (option("fail_calls", 0)) counts.push_back(count_of("calls", fail_each_call(outputs)));
  if (option("fail_allocations", 0)) {
    counts.push_back(count_of("allocations", fail_each_allocation(on_cpu)));
  }
  outputs.insert(outputs.end(), counts.begin(), counts.end());
  return outputs;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) stop("usage: runner REQUEST RESPONSE");
  read_request(argv[1]);
  std::vector<Output> outputs;
  try {
    outputs = run_request();
  } catch (const Failure& failure) {
    stop(failure.message);
  }
  FILE* file = fopen(argv[2], "wb");
  if (file == nullptr) stop(std::string("cannot write ") + argv[2]);
  for (const auto& output : outputs) write_tensor(file, output.name, output.tensor);
  fclose(file);
  return 0;
}
