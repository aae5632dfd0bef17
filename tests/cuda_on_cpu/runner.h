// Runs one op's CUDA launch function from a file of tensors and writes its outputs to another: the bridge
// between pytest and the harness. Each executable is this file's main and one run_op.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/status.h"

struct Tensor {
  std::string type;  // "f2", "bf", "f4", "f8", "i4", "i8", "u1"
  std::vector<int64_t> shape;
  std::vector<char> bytes;
};

class Run {
 public:
  explicit Run(size_t misalign) : misalign_(misalign) {}
  ~Run();

  bool has(const char* name) const;
  // Copies the input to device memory of exactly its size; null if the request has no such tensor.
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

  // Device memory full of garbage, read back when the run ends.
  void* output(const char* name, const char* type, std::vector<int64_t> shape);
  void report(const char* name, int64_t value);  // an output that the host knows
  void* workspace(size_t bytes);
  fastrpn::Stream stream() const;
  void check(fastrpn::Status status) const;

 private:
  friend int main(int, char**);
  struct Output {
    std::string name;
    Tensor tensor;
    void* device;
  };
  void* allocate(size_t bytes, size_t misalign);

  size_t misalign_;
  std::vector<void*> allocations_;
  std::vector<Output> outputs_;
};

// Defined by run_<op>.cpp.
void run_op(Run& run);
