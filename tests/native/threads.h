// Threads for kernels, by std::thread: ThreadSanitizer understands these, and not those of OpenMP.
#pragma once

#include "cpu/parallel.h"

// Chunks run at once on `count` threads, as torch's do; 1: on the calling thread.
fastrpn::ParallelFor on_threads(int count);

// How many calls have run on several threads so far.
long threaded_calls();
