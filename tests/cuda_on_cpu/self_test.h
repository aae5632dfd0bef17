#pragma once

#include "cuda/status.h"

// Runs the named case of self_test_cuda.cu; out: 64 ints of device memory.
fastrpn::Status self_test(const char* name, int* out, fastrpn::Stream stream);
