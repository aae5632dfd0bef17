// The file format: for each tensor its name (32 bytes), type (8 bytes), number of dimensions and dimensions
// (int64), then its elements. Numbers are float64 tensors without dimensions. "seeds" and "misalign" are
// ours: the op runs with that many orders of threads, and every run must give the same bytes.
#include "runner.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "cuda_on_cpu.h"

namespace {

std::map<std::string, Tensor> request;

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

}  // namespace

Run::~Run() {
  for (void* pointer : allocations_) cuda_on_cpu::device_free(pointer);
}

bool Run::has(const char* name) const { return request.count(name) > 0; }

const Tensor& Run::tensor(const char* name) const {
  if (!has(name)) stop(std::string("the request lacks ") + name);
  return request[name];
}

void* Run::allocate(size_t bytes, size_t misalign) {
  allocations_.push_back(cuda_on_cpu::device_malloc(bytes, misalign));
  return allocations_.back();
}

void* Run::input(const char* name) {
  if (!has(name)) return nullptr;
  const Tensor& t = tensor(name);
  void* device = allocate(t.bytes.size(), misalign_ * element_size(t.type));
  cuda_on_cpu::copy_to_device(device, t.bytes.data(), t.bytes.size());
  return device;
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
  void* device = allocate(tensor.bytes.size(), misalign_ * element_size(type));
  outputs_.push_back({name, tensor, device});
  return device;
}

void Run::report(const char* name, int64_t value) {
  cuda_on_cpu::copy_to_device(output(name, "i8", {}), &value, sizeof(value));
}

void* Run::workspace(size_t bytes) { return allocate(bytes, 0); }

fastrpn::Stream Run::stream() const { return reinterpret_cast<fastrpn::Stream>(uintptr_t(0x5742)); }

void Run::check(fastrpn::Status status) const {
  if (status != nullptr) stop(status);
}

int main(int argc, char** argv) {
  if (argc != 3) stop("usage: runner REQUEST RESPONSE");
  read_request(argv[1]);
  std::vector<Run::Output> first;
  const int seeds = request.count("seeds") ? int(Run(0).integer("seeds")) : 1;
  for (int seed = 0; seed < seeds; ++seed) {
    cuda_on_cpu::set_seed(uint64_t(seed));
    Run run(request.count("misalign") ? size_t(run.integer("misalign")) : 0);
    cuda_on_cpu::expect_stream(run.stream());
    run_op(run);
    for (auto& output : run.outputs_)
      cuda_on_cpu::copy_from_device(output.tensor.bytes.data(), output.device, output.tensor.bytes.size());
    if (seed == 0) first = run.outputs_;
    for (size_t i = 0; i < first.size(); ++i) {
      if (first[i].tensor.bytes != run.outputs_[i].tensor.bytes)
        stop("output " + first[i].name + " depends on the order of threads: seeds 0 and " +
             std::to_string(seed));
    }
  }
  FILE* file = fopen(argv[2], "wb");
  if (file == nullptr) stop(std::string("cannot write ") + argv[2]);
  for (const auto& output : first) write_tensor(file, output.name, output.tensor);
  fclose(file);
  return 0;
}
