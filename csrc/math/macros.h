// FASTRPN_HD: a function of both host and device, always inlined, with internal linkage. Internal linkage
// matters on the host: the same header is compiled once for each instruction set, and a shared inline
// function would let the linker keep the AVX-512 copy for everybody.
// FASTRPN_HOST: the same for a function of the host alone.
#pragma once

#if defined(__CUDACC__)
#define FASTRPN_HD static __host__ __device__ __forceinline__
#define FASTRPN_HD_MEMBER __host__ __device__ __forceinline__
#else
#define FASTRPN_HD static inline __attribute__((always_inline, unused))
#define FASTRPN_HD_MEMBER inline __attribute__((always_inline))
#endif
#define FASTRPN_HOST static inline __attribute__((always_inline, unused))

// Defined where a kernel's code is compiled for a GPU, or for the harness that stands for one.
#if defined(__CUDA_ARCH__) || defined(FASTRPN_CUDA_ON_CPU)
#define FASTRPN_DEVICE_CODE
#endif
