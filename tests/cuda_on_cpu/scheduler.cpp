// Runs a grid: blocks one after another in random order, the threads of a block as fibers. A fiber runs
// until it waits (block barrier, warp function), yields (atomics, now and then) or ends; then another ready
// one is picked. Reported, with the process ended:
//   - a block barrier that some thread misses: it returned, waits elsewhere, or is at another barrier;
//   - a warp function whose mask lacks its caller, names a lane that ended, does not exist or never comes,
//     or differs between callers at one place;
//   - a launch outside CUDA's limits, or on another stream than the caller's.
// Memory order is not modelled.
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "cuda_on_cpu.h"
#include "fiber.h"
#include "memory.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_on_cpu {
namespace {

// ---- threads ------------------------------------------------------------------------------------------
enum class State { ready, at_barrier, at_warp_function, ended };

struct Thread {
  std::unique_ptr<Fiber> fiber;
  uint3 index;
  State state;
  Site site;            // where it waits
  Barrier barrier;      // which kind, at_barrier
  int predicate;        // at_barrier: what it brought, then what it takes away
  unsigned mask;        // at_warp_function
  uint64_t values[32];  // of the warp function that has just completed
};

struct WarpCall {  // a warp function that waits for lanes
  WarpFunction function;
  Site site;
  unsigned mask, arrived;
  uint64_t values[32];
};

struct Kernel {
  std::string name;
  void (*thread_main)(void*);
  void* context;
};

enum class Order { random, ascending, descending };

std::vector<Thread> threads;  // grows to the largest block seen
std::vector<int> ready;
std::vector<std::vector<WarpCall>> warps;  // open calls of each warp
int num_threads, num_ended, num_at_barrier;
int current = -1;
Order order;
Kernel kernel;
void* dynamic_memory;
bool in_grid;

bool same_site(const Site& a, const Site& b) { return a.line == b.line && strcmp(a.file, b.file) == 0; }

void make_ready(int t) {
  threads[t].state = State::ready;
  ready.push_back(t);
}

int take_ready() {  // the last one; released threads were pushed in `order`
  if (order == Order::random) std::swap(ready[random_below(ready.size())], ready.back());
  const int t = ready.back();
  ready.pop_back();
  return t;
}

// Back to the scheduler until this thread is picked again.
void wait() { threads[current].fiber->suspend(); }

void describe_waiting_threads() {
  int shown = 0;
  for (int t = 0; t < num_threads && shown < 8; ++t) {
    const Thread& thread = threads[t];
    if (thread.state == State::at_barrier) {
      fprintf(stderr, "  thread %d waits at the barrier %s:%d\n", t, thread.site.file, thread.site.line);
      ++shown;
    } else if (thread.state == State::at_warp_function) {
      fprintf(stderr, "  thread %d (lane %d) waits at %s:%d for the lanes %08x\n", t, t % 32,
              thread.site.file, thread.site.line, thread.mask);
      ++shown;
    }
  }
}

void thread_loop(void* argument) {
  const int t = static_cast<int>(reinterpret_cast<intptr_t>(argument));
  for (;;) {
    kernel.thread_main(kernel.context);
    threads[t].state = State::ended;
    ++num_ended;
    if (num_at_barrier > 0) fail("thread %d returned while others wait at __syncthreads", t);
    for (const WarpCall& call : warps[t / 32]) {
      if (call.mask >> (t % 32) & 1)
        fail("lane %d of warp %d returned, but the call at %s:%d waits for the lanes %08x", t % 32, t / 32,
             call.site.file, call.site.line, call.mask);
    }
    wait();
  }
}

// ---- blocks -------------------------------------------------------------------------------------------
void run_block(void* shared_memory, size_t shared_bytes) {
  for (auto& [address, bytes] : shared_variables()) fill_with_garbage(address, bytes);
  fill_with_garbage(shared_memory, shared_bytes);
  for (auto& calls : warps) calls.clear();
  num_ended = num_at_barrier = 0;
  ready.clear();
  order = random_below(2) ? Order::random : random_below(2) ? Order::ascending : Order::descending;
  for (int i = 0; i < num_threads; ++i) make_ready(order == Order::ascending ? num_threads - 1 - i : i);

  while (num_ended < num_threads) {
    if (ready.empty()) fail("deadlock: no thread can go on");
    current = take_ready();
    threadIdx = threads[current].index;
    threads[current].fiber->resume();
  }
}

void check_launch(dim3 grid, dim3 block, size_t shared_bytes, const void* stream) {
  const uint64_t size = uint64_t(block.x) * block.y * block.z;
  if (size == 0 || size > 1024 || block.x > 1024 || block.y > 1024 || block.z > 64)
    fail("bad block (%u, %u, %u)", block.x, block.y, block.z);
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535)
    fail("bad grid (%u, %u, %u)", grid.x, grid.y, grid.z);
  if (shared_bytes > 48 << 10) fail("%zu bytes of dynamic shared memory", shared_bytes);
  check_stream(stream);
  if (in_grid) fail("a launch inside a kernel");
}

}  // namespace

void fail(const char* format, ...) {
  fprintf(stderr, "cuda_on_cpu: kernel %s, block (%u, %u, %u): ", kernel.name.c_str(), blockIdx.x, blockIdx.y,
          blockIdx.z);
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fprintf(stderr, "\n");
  describe_waiting_threads();
  _exit(3);
}

void run_grid(const char* name, dim3 grid, dim3 block, size_t shared_bytes, const void* stream,
              void (*thread_main)(void*), void* context) {
  kernel = {name, thread_main, context};
  check_launch(grid, block, shared_bytes, stream);
  gridDim = grid;
  blockDim = block;
  num_threads = int(block.x * block.y * block.z);
  while (int(threads.size()) < num_threads) {
    threads.emplace_back();
    const intptr_t t = intptr_t(threads.size()) - 1;
    threads[t].fiber = std::make_unique<Fiber>(thread_loop, reinterpret_cast<void*>(t));
  }
  for (int t = 0; t < num_threads; ++t)
    threads[t].index = {unsigned(t) % block.x, unsigned(t) / block.x % block.y,
                        unsigned(t) / (block.x * block.y)};
  warps.resize((num_threads + 31) / 32);

  std::vector<uint64_t> blocks(uint64_t(grid.x) * grid.y * grid.z);
  for (size_t i = 0; i < blocks.size(); ++i) {
    blocks[i] = i;
    std::swap(blocks[i], blocks[random_below(i + 1)]);
  }
  DeviceAccess access;
  dynamic_memory = malloc(shared_bytes);
  in_grid = true;
  for (uint64_t b : blocks) {
    blockIdx = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
    run_block(dynamic_memory, shared_bytes);
  }
  in_grid = false;
  free(dynamic_memory);
}

void* dynamic_shared() { return dynamic_memory; }

void maybe_yield() {
  if (random_below(8) != 0) return;
  make_ready(current);
  wait();
}

int lane() { return current % 32; }

int block_barrier(Barrier kind, int predicate, Site site) {
  Thread& me = threads[current];
  if (num_ended > 0)
    fail("%s:%d: a barrier that %d threads never reach: they have returned", site.file, site.line, num_ended);
  me.state = State::at_barrier;
  me.site = site;
  me.barrier = kind;
  me.predicate = predicate != 0;
  if (++num_at_barrier < num_threads) {
    wait();
    return me.predicate;
  }
  int count = 0;
  for (int t = 0; t < num_threads; ++t) {
    const Thread& other = threads[t];
    if (other.barrier != kind || !same_site(other.site, site))
      fail("threads %d and %d are at different barriers, %s:%d and %s:%d", current, t, site.file, site.line,
           other.site.file, other.site.line);
    count += other.predicate;
  }
  const int result = kind == Barrier::all ? count == num_threads : kind == Barrier::any ? count > 0 : count;
  num_at_barrier = 0;
  for (int i = 0; i < num_threads; ++i) {
    const int t = order == Order::ascending ? num_threads - 1 - i : i;
    threads[t].predicate = result;
    make_ready(t);
  }
  wait();
  return me.predicate;
}

void warp_exchange(WarpFunction function, unsigned mask, uint64_t value, uint64_t values[32], Site site) {
  const int t = current, me = lane(), warp = t / 32;
  const unsigned bit = 1u << me;
  if (!(mask & bit))
    fail("%s:%d: lane %d calls with the mask %08x, which lacks it", site.file, site.line, me, mask);
  auto& calls = warps[warp];
  size_t c = 0;
  for (; c < calls.size(); ++c) {
    if (calls[c].function != function || !same_site(calls[c].site, site)) continue;
    if (calls[c].mask == mask) break;
    if (calls[c].mask & bit)
      fail("%s:%d: lanes of warp %d call with the masks %08x and %08x", site.file, site.line, warp,
           calls[c].mask, mask);
  }
  if (c == calls.size()) {
    for (int l = 0; l < 32; ++l) {
      if (!(mask >> l & 1)) continue;
      if (warp * 32 + l >= num_threads)
        fail("%s:%d: mask %08x names lane %d, which does not exist", site.file, site.line, mask, l);
      if (threads[warp * 32 + l].state == State::ended)
        fail("%s:%d: mask %08x names lane %d, which has returned", site.file, site.line, mask, l);
    }
    calls.push_back({function, site, mask, 0, {}});
  }
  WarpCall& call = calls[c];
  call.arrived |= bit;
  call.values[me] = value;
  Thread& thread = threads[t];
  thread.state = State::at_warp_function;
  thread.site = site;
  thread.mask = mask;
  if (call.arrived == mask) {
    const WarpCall done = call;
    calls.erase(calls.begin() + long(c));
    for (int i = 0; i < 32; ++i) {
      const int l = order == Order::ascending ? 31 - i : i;
      if (!(mask >> l & 1)) continue;
      memcpy(threads[warp * 32 + l].values, done.values, sizeof(done.values));
      make_ready(warp * 32 + l);
    }
  }
  wait();
  memcpy(values, threads[t].values, sizeof(thread.values));
}

}  // namespace cuda_on_cpu
