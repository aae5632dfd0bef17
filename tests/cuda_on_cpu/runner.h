// Runs one op's CUDA launch function, and its CPU kernel, from a file of tensors, and writes the outputs to
// another: the bridge between pytest and the harness. Each executable is this file's main and one run_op.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cpu/parallel.h"
#include "cuda/status.h"
#include "math/dtype.h"

struct Tensor {
  std::string type;  // "f2", "bf", "f4", "f8", "i4", "i8", "u1"
  std::vector<int64_t> shape;
  std::vector<char> bytes;
};

// What an op raises.
struct Failure {
  std::string message;
};

enum class Device { cpu, cuda };

struct Output {
  std::string name;
  Tensor tensor;
  void* memory;
};

class Run {
 public:
  explicit Run(Device device) : device_(device) {}
  ~Run();

  // An op that has a CPU kernel runs it there: call_cpu in place of the launch.
  bool on_cpu() const { return device_ == Device::cpu; }
  void call_cpu(const std::function<void(const fastrpn::ParallelFor&)>& kernel);

  bool has(const char* name) const;
  // Copies the input to memory of exactly its size; null if the request has no such tensor.
  void* input(const char* name);
  const Tensor& tensor(const char* name) const;
  int64_t dim(const char* name, int dimension) const { return tensor(name).shape[size_t(dimension)]; }
  fastrpn::DType dtype(const char* name) const;
  template <typename T>
  T element(const char* name, int64_t index) const {
    return reinterpret_cast<const T*>(tensor(name).bytes.data())[index];
  }
  double number(const char* name) const;  // a float64 scalar
  int64_t integer(const char* name) const { return static_cast<int64_t>(number(name)); }

  // Memory full of garbage.
  void* output(const char* name, const char* type, std::vector<int64_t> shape);
  void report(const char* name, int64_t value);  // an output that the host knows
  void* workspace(size_t bytes);
  fastrpn::Stream stream() const;
  void check(fastrpn::Status status) const;
  // With what is now in their memory.
  std::vector<Output> read_outputs();

 private:
  void* allocate(size_t bytes, size_t element_size);

  Device device_;
  std::vector<void*> allocations_;
  std::vector<Output> outputs_;
};

// Defined by run_<op>.cpp.
void run_op(Run& run);
