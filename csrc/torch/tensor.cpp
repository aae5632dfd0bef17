#include "torch/tensor.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <stdexcept>
#include <vector>

// Since torch 2.13; null in older ones, whose headers for our target do not declare it either.
extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();

namespace fastrpn {

DType dtype_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Half:
      return DType::float16;
    case ScalarType::BFloat16:
      return DType::bfloat16;
    case ScalarType::Float:
      return DType::float32;
    case ScalarType::Double:
      return DType::float64;
    default:
      STD_TORCH_CHECK(false, name, " must be float16, bfloat16, float32 or float64");
  }
}

void check_same_device(const Tensor& a, const char* a_name, const Tensor& b, const char* b_name) {
  STD_TORCH_CHECK(a.device() == b.device(), a_name, " and ", b_name, " must be on the same device");
}

void check_not_nan(double value, const char* name) {
  STD_TORCH_CHECK(value == value, name, " must not be NaN");
}

namespace {

// Large outputs come straight from the system: their first write pays for page faults, 40,000 of them for
// 160 MB in pages of 4 kB. Asking for huge pages makes that five times faster.
void prefer_huge_pages(const Tensor& tensor) {
#if defined(__linux__)
  constexpr size_t kHugePage = size_t(1) << 21;
  const size_t bytes = size_t(tensor.numel()) * tensor.element_size();
  if (bytes < 2 * kHugePage || !tensor.is_cpu()) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  madvise(reinterpret_cast<void*>(first), (begin + bytes - first) / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
}

// Why the last call of a torch function failed, in torch's words: memory that ran out, for one.
[[noreturn]] void raise_torchs_error() {
  const bool known = torch_exception_get_what_without_backtrace != nullptr;
  const char* words = known ? torch_exception_get_what_without_backtrace() : "no memory for a new tensor";
  throw std::runtime_error(words);
}

}  // namespace

Tensor new_empty_tensor(std::initializer_list<int64_t> sizes, ScalarType dtype, const Tensor& like,
                        bool channels_last) {
  // Straight from the C shim: torch::stable::empty looks the operator up by name, at twice the cost.
  constexpr int kMaxDims = 4;
  STD_TORCH_CHECK(sizes.size() <= kMaxDims, "at most 4 dimensions");
  constexpr int kChannelsLast[] = {1, 3, 2, 0};  // from the innermost dimension out
  const int dims = int(sizes.size());
  int64_t strides[kMaxDims], stride = 1;
  for (int i = 0; i < dims; ++i) {
    const int dim = channels_last ? kChannelsLast[i] : dims - 1 - i;
    const int64_t size = sizes.begin()[dim];
    strides[dim] = stride;
    stride *= size > 1 ? size : 1;
  }
  const torch::stable::Device device = like.device();
  AtenTensorHandle handle;
  const AOTITorchError error = aoti_torch_empty_strided(
      dims, sizes.begin(), strides, torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(device.type())), device.index(),
      &handle);
  if (error != TORCH_SUCCESS) raise_torchs_error();
  Tensor tensor(handle);
  prefer_huge_pages(tensor);
  return tensor;
}

bool is_channels_last(const Tensor& tensor) {
  if (tensor.dim() != 4 || tensor.is_contiguous()) return false;
  const int64_t channels = tensor.size(1), height = tensor.size(2), width = tensor.size(3);
  // As torch: the stride of a dimension of size 1 means nothing.
  const auto strides_by = [&](int64_t dim, int64_t stride) {
    return tensor.size(dim) == 1 || tensor.stride(dim) == stride;
  };
  return strides_by(1, 1) && strides_by(3, channels) && strides_by(2, width * channels) &&
         strides_by(0, height * width * channels);
}

Tensor as_contiguous(const Tensor& tensor, bool channels_last) {
  if (channels_last ? is_channels_last(tensor) : tensor.is_contiguous()) return tensor;
  using torch::headeronly::MemoryFormat;
  return torch::stable::contiguous(tensor,
                                   channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

int64_t read_number(const int64_t* number, const Tensor& on) {
#if defined(FASTRPN_WITH_CUDA)
  if (!on.is_cpu()) return read_from_device(number, on);
#endif
  return *number;
}

ParallelFor torch_parallel_for() {
  return {[](int64_t size, int64_t grain, ParallelFor::Body body, void* context) {
            torch::stable::parallel_for(0, size, grain,
                                        [=](int64_t begin, int64_t end) { body(context, begin, end); });
          },
          static_cast<int>(torch::stable::get_num_threads())};
}

}  // namespace fastrpn
