#include "threads.h"

#include <thread>
#include <vector>

namespace {

long num_threaded = 0;
int num_threads = 1;  // of the call in progress: ParallelFor has no room for it
thread_local bool is_nested = false;

// Chunks are dealt out in turn, so that neighbours run at once.
void run(int64_t size, int64_t grain, fastrpn::ParallelFor::Body body, void* context) {
  if (size <= 0) return;
  const int64_t count = num_threads;
  const int64_t share = (size + 4 * count - 1) / (4 * count), chunk = share < grain ? grain : share;
  if (is_nested || count == 1 || chunk >= size) return body(context, 0, size);
  ++num_threaded;
  std::vector<std::thread> threads;
  for (int64_t first = 0; first < count * chunk && first < size; first += chunk) {
    threads.emplace_back([=] {
      is_nested = true;
      for (int64_t begin = first; begin < size; begin += count * chunk) {
        body(context, begin, size - begin < chunk ? size : begin + chunk);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

fastrpn::ParallelFor on_threads(int count) {
  num_threads = count;
  return {run, count};
}

long threaded_calls() { return num_threaded; }
