// What every binding needs of torch's stable ABI: element types, layouts, allocation, threads, the CUDA
// stream.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <optional>

#include "cpu/parallel.h"
#include "cuda/status.h"
#include "math/dtype.h"

namespace fastrpn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Element type of a float tensor; raises for any other. `name` is the argument's.
DType dtype_of(const Tensor& tensor, const char* name);

// Raises unless both tensors live on the same device.
void check_same_device(const Tensor& a, const char* a_name, const Tensor& b, const char* b_name);

// Raises if a threshold is NaN, which every comparison would take for "no". Other values are legal.
void check_not_nan(double value, const char* name);

// A new tensor on the device of `like`.
Tensor new_empty_tensor(std::initializer_list<int64_t> sizes, ScalarType dtype, const Tensor& like,
                        bool channels_last = false);

// Contiguous in NCHW, or in channels-last order; copies only when it must.
Tensor as_contiguous(const Tensor& tensor, bool channels_last = false);

// True for a 4-dimensional tensor that is stored channels last and not also NCHW-contiguous.
bool is_channels_last(const Tensor& tensor);

// A number that a kernel has written where the tensor `on` lies; on CUDA this waits for the current stream.
int64_t read_number(const int64_t* number, const Tensor& on);

// torch's thread pool.
ParallelFor torch_parallel_for();

#if defined(FASTRPN_WITH_CUDA)
// The current CUDA stream of the tensor's device. The caller holds a DeviceGuard.
Stream current_stream(const Tensor& tensor);

// read_number on CUDA.
int64_t read_from_device(const int64_t* number, const Tensor& on);

// Raises RuntimeError if a launch function reported an error.
void check_status(Status status, const char* op);
#endif

}  // namespace fastrpn
