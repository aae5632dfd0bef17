// A libFuzzer target of one kernel, named by FUZZED_OP.
#include <cstring>

#include "cases.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  for (const Case& one : kCases) {
    if (std::strcmp(one.op, FUZZED_OP) != 0) continue;
    Source source(bytes, size);
    one.run(source);
  }
  return 0;
}
