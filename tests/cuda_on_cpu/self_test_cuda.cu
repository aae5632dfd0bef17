// Kernels that break one rule each, and one that breaks none: the harness must tell them apart.
#include "cuda/runtime.h"
#include "self_test.h"

namespace {

constexpr unsigned kAll = 0xffffffffu;

// Sums the thread numbers of a block of 64 in several ways; breaks no rule.
__global__ void correct(int* out) {
  FASTRPN_DYNAMIC_SHARED(int, partial);
  __shared__ int votes;
  const int t = threadIdx.x;
  if (t == 0) votes = 0;
  int sum = t;
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
  if (t % 32 == 0) partial[t / 32] = sum;
  __syncthreads();
  atomicAdd(&votes, 1);
  const bool even = t % 2 == 0;
  const unsigned ballot = __ballot_sync(kAll, even);
  const int count = __syncthreads_count(even);
  const bool facts = __syncthreads_and(t >= 0) && __syncthreads_or(t == 5) && !__syncthreads_and(even) &&
                     __any_sync(kAll, t % 32 == 3) && !__all_sync(kAll, even) && ballot == 0x55555555u;
  int shifted = __shfl_up_sync(kAll, t, 1) + __shfl_down_sync(kAll, t, 1);
  if (t % 32 == 0 || t % 32 == 31) shifted = 2 * t;
  if (t % 32 < 4) shifted += __shfl_sync(0xfu, 0, 2);  // a part of the warp, on its own
  __syncwarp();
  out[t] = facts ? partial[0] + partial[1] + votes + count + shifted : -1;
}

__global__ void missing_barrier(int* out) {
  __shared__ int values[64];
  values[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = values[63 - threadIdx.x];
}

__global__ void uninitialised_shared(int* out) {
  __shared__ int values[64];
  if (threadIdx.x != 7) values[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

__global__ void return_before_barrier(int*) {
  if (threadIdx.x == 3) return;
  __syncthreads();
}

__global__ void divergent_barriers(int*) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void caller_outside_mask(int* out) { out[threadIdx.x] = int(__ballot_sync(0xfffffffeu, 1)); }

__global__ void lane_never_comes(int* out) {
  if (threadIdx.x != 5) out[threadIdx.x] = __any_sync(kAll, 1);
  __syncthreads();
}

__global__ void lane_has_returned(int* out) {
  if (threadIdx.x == 5) return;
  out[threadIdx.x] = __any_sync(kAll, 1);
}

__global__ void lane_does_not_exist(int*) { __syncwarp(); }

__global__ void masks_differ(int*) { __syncwarp(threadIdx.x % 32 < 16 ? kAll : 0xffff0000u); }

__global__ void shuffle_from_outside(int* out) {
  if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 20);
}

__global__ void static_shared_overrun(int* out) {
  __shared__ int values[64];
  int* first = values;
  first[threadIdx.x + 1] = 1;
  out[threadIdx.x] = 1;
}

__global__ void dynamic_shared_overrun(int*) {
  FASTRPN_DYNAMIC_SHARED(int, values);
  values[threadIdx.x + 1] = 1;
}

__global__ void global_overrun(int* out) { out[threadIdx.x + 1] = 1; }

__global__ void misaligned_vector(int* out) {
  reinterpret_cast<uint4*>(out + 1)[threadIdx.x / 32] = make_uint4(1, 2, 3, 4);
}

__global__ void overflowing_cast(int* out) { out[threadIdx.x] = int(3e9f + float(threadIdx.x)); }

__global__ void nothing(int*) {}

}  // namespace

fastrpn::Status self_test(const char* name, int* out, fastrpn::Stream stream) {
  const auto is = [name](const char* other) { return strcmp(name, other) == 0; };
#define CASE(kernel, threads, shared_bytes) \
  if (is(#kernel)) return FASTRPN_LAUNCH(kernel, 1, threads, shared_bytes, stream, out)
  CASE(correct, 64, 2 * sizeof(int));
  CASE(missing_barrier, 64, 0);
  CASE(uninitialised_shared, 64, 0);
  CASE(return_before_barrier, 64, 0);
  CASE(divergent_barriers, 64, 0);
  CASE(caller_outside_mask, 64, 0);
  CASE(lane_never_comes, 64, 0);
  CASE(lane_has_returned, 64, 0);
  CASE(lane_does_not_exist, 48, 0);
  CASE(masks_differ, 64, 0);
  CASE(shuffle_from_outside, 64, 0);
  CASE(static_shared_overrun, 64, 0);
  CASE(dynamic_shared_overrun, 64, 64 * sizeof(int));
  CASE(global_overrun, 64, 0);
  CASE(misaligned_vector, 32, 0);
  CASE(overflowing_cast, 32, 0);
#undef CASE
  if (is("other_stream")) return FASTRPN_LAUNCH(nothing, 1, 32, 0, nullptr, out);
  if (is("empty_grid")) return FASTRPN_LAUNCH(nothing, 0, 32, 0, stream, out);
  if (is("host_reads_device_memory"))
    return FASTRPN_LAUNCH(nothing, unsigned(out[0] & 1) + 1, 32, 0, stream, out);
  if (is("memset_overrun")) return fastrpn::status_of(cudaMemsetAsync(out, 0, 65 * sizeof(int), stream));
  return "no such case";
}
