// Runs cases of every kernel, or of one: run_cases [CASES [OP]]. Every 16th case is large. Sanitizers and
// failed checks end it.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cases.h"

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 200;
  const char* only = argc > 2 ? argv[2] : nullptr;
  int64_t done = 0;
  for (const Case& one : kCases) {
    if (only != nullptr && std::strcmp(one.op, only) != 0) continue;
    for (int seed = 0; seed < cases; ++seed, ++done) {
      Source source(uint64_t(seed), seed % 16 == 15);
      one.run(source);
    }
  }
  std::printf("%lld cases at", static_cast<long long>(done));
  for (const Kernels& kernels : kLevels) std::printf(" %s", kernels.level);
  std::printf(", %ld loops on threads\n", threaded_calls());
  return done == 0;
}
