// What a CUDA launch function returns: null when everything was queued, else a message with static lifetime
// (cudaGetErrorString). Launch functions take the stream as CUDA's opaque pointer, so that headers need no
// CUDA.
#pragma once

struct CUstream_st;

namespace fastrpn {

using Stream = CUstream_st*;
using Status = const char*;

// Leaves a launch function at its first error: a kernel must not run on what another failed to write.
#define FASTRPN_TRY(call)                                                             \
  do {                                                                                \
    if (const ::fastrpn::Status status_ = (call); status_ != nullptr) return status_; \
  } while (false)

}  // namespace fastrpn
