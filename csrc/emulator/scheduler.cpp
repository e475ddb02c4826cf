// Launches: one cluster after the other, a fiber for each of its threads, and who runs when one waits.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <numeric>

#include "kernel_list.h"
#include "machine.h"

namespace fastconv::emulator {

Machine* the_machine = nullptr;

const ThreadContext& self() { return *machine().current->context; }

int64_t switch_count() { return the_machine ? the_machine->switches : 0; }

void ReadyQueue::reset(int threads) {
  ring_.assign(threads + 1, nullptr);
  first_ = count_ = 0;
}

void ReadyQueue::push(Fiber* fiber) {
  ring_[(first_ + count_) % ring_.size()] = fiber;
  ++count_;
}

Fiber* ReadyQueue::pop(Schedule schedule, std::mt19937& random) {
  if (count_ == 0) return nullptr;
  const size_t last = (first_ + count_ - 1) % ring_.size();
  --count_;
  if (schedule == Schedule::kLifo) return ring_[last];
  if (schedule == Schedule::kRandom) std::swap(ring_[first_], ring_[(first_ + random() % (count_ + 1)) % ring_.size()]);
  Fiber* fiber = ring_[first_];
  first_ = (first_ + 1) % ring_.size();
  return fiber;
}

namespace {

void report_deadlock() {
  Machine& m = machine();
  struct Group {
    int count = 0;
    const Fiber* first = nullptr;
  };
  std::map<std::string, Group> groups;
  for (Fiber& fiber : m.fibers) {
    if (fiber.done) continue;
    std::string what = std::string(fiber.wait) + " at " + position(fiber.wait_caller);
    if (fiber.wait_state) what += fiber.wait_state(fiber);
    Group& group = groups[what];
    if (group.count++ == 0) group.first = &fiber;
  }
  std::string text = std::string("no thread of the ") + (m.cluster_blocks > 1 ? "cluster" : "block") + " can run:";
  for (const auto& [what, group] : groups) {
    text += "\n    " + std::to_string(group.count) + " thread(s) wait in " + what + ", the first is " +
            describe(*group.first);
  }
  const int finished = static_cast<int>(m.fibers.size()) - m.live;
  if (finished) text += "\n    " + std::to_string(finished) + " thread(s) have returned from the kernel";
  Fiber* first = groups.empty() ? nullptr : const_cast<Fiber*>(groups.begin()->second.first);
  m.current = first;
  if (first) report("deadlock", Site{0, first->wait_caller}, text);
}

// The running fiber cannot go on; run another. Returns when it has been made ready and chosen again.
void run_another(Fiber* from) {
  Machine& m = machine();
  Fiber* next = m.ready.pop(m.schedule, m.random);
  while (!next && m.live > 0 && land_a_load()) next = m.ready.pop(m.schedule, m.random);
  if (next == from) return;
  if (!next) {
    if (m.live > 0) {
      report_deadlock();
      m.abandoned = true;
    }
    m.current = nullptr;
    switch_context(from->machine, m.host);
    __builtin_unreachable();
  }
  m.current = next;
  ++m.switches;
  switch_context(from->machine, next->machine);
}

void fiber_main() {
  Machine& m = machine();
  m.body(m.argument);
  Fiber* me = m.current;
  check_unfinished_operations(*me);
  me->done = true;
  --m.live;
  const bool last = --m.block().live == 0;
  if (m.checking) check_unfinished_copies(*me);
  thread_left(*me);
  leave_cluster_barrier(*me);
  if (last && m.checking) {
    check_unfinished_loads(me->context->cluster_rank);
    check_visitors(me->context->cluster_rank);
  }
  run_another(me);
  __builtin_unreachable();
}

// Of "rand:SEED"; plain "rand" is rand:1.
unsigned random_seed(const std::string& text) {
  return text.size() > 5 ? static_cast<unsigned>(strtoul(text.c_str() + 5, nullptr, 10)) : 1u;
}

void read_environment() {
  Machine& m = machine();
  const char* schedule = getenv("FASTCONV_EMULATOR_SCHEDULE");
  const std::string name = schedule ? schedule : "fifo";
  if (name == "fifo" || name.empty()) {
    m.schedule = Schedule::kFifo;
  } else if (name == "lifo") {
    m.schedule = Schedule::kLifo;
  } else if (name == "rand" || name.rfind("rand:", 0) == 0) {
    m.schedule = Schedule::kRandom;
    m.random.seed(random_seed(name));
  } else {
    throw std::invalid_argument("FASTCONV_EMULATOR_SCHEDULE: expected fifo, lifo or rand:SEED, but got '" + name + "'");
  }
  const char* copies = getenv("FASTCONV_EMULATOR_COPIES");
  const std::string timing = copies ? copies : "lazy";
  if (timing == "lazy" || timing.empty()) {
    m.copy_timing = CopyTiming::kLazy;
  } else if (timing == "eager") {
    m.copy_timing = CopyTiming::kEager;
  } else if (timing == "rand" || timing.rfind("rand:", 0) == 0) {
    m.copy_timing = CopyTiming::kRandom;
    m.copy_random.seed(random_seed(timing));
  } else {
    throw std::invalid_argument("FASTCONV_EMULATOR_COPIES: expected lazy, eager or rand:SEED, but got '" + timing +
                                "'");
  }
  const char* check = getenv("FASTCONV_EMULATOR_CHECK");
  m.checking = !(check && strcmp(check, "0") == 0);
  const char* limit = getenv("FASTCONV_EMULATOR_LIMIT");
  m.work_left = limit && *limit ? strtoll(limit, nullptr, 10) : INT64_MAX;
  read_counter_setting();
}

// The limits that a real launch would refuse with cudaErrorInvalidConfiguration.
std::string invalid_shape(const LaunchShape& s) {
  const uint64_t threads = uint64_t{s.block.x} * s.block.y * s.block.z;
  const auto extent = [](const dim3& d) {
    return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
  };
  if (threads < 1 || threads > kMaxThreads || s.block.z > 64) return "block " + extent(s.block);
  if (s.grid.x < 1 || s.grid.y < 1 || s.grid.z < 1 || s.grid.x > 0x7fffffffu || s.grid.y > 65535 || s.grid.z > 65535) {
    return "grid " + extent(s.grid);
  }
  const uint64_t blocks = uint64_t{s.cluster.x} * s.cluster.y * s.cluster.z;
  if (blocks < 1 || blocks > kMaxClusterBlocks || s.grid.x % s.cluster.x || s.grid.y % s.cluster.y ||
      s.grid.z % s.cluster.z) {
    return "grid " + extent(s.grid) + " in clusters of " + extent(s.cluster) + " blocks";
  }
  if (s.dynamic_shared_bytes > kMaxDynamicSharedBytes) {
    return std::to_string(s.dynamic_shared_bytes) + " bytes of dynamic shared memory";
  }
  return "";
}

void start_fiber(int rank, int thread) {
  Machine& m = machine();
  const int agent = rank * m.threads + thread;
  Fiber& fiber = m.fibers[agent];
  fiber = Fiber();
  // Frames of different fibers must not all fall into the same cache sets: stagger the tops.
  char* top = m.stacks.top(agent) - sizeof(ThreadContext) - (agent % 61) * 64;
  top = reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t{63});
  const dim3& extent = m.shape.block;
  const unsigned t = static_cast<unsigned>(thread);
  fiber.context = new (top) ThreadContext{{t % extent.x, t / extent.x % extent.y, t / (extent.x * extent.y)},
                                          m.blocks[rank].index,
                                          extent,
                                          m.shape.grid,
                                          thread,
                                          thread / 32,
                                          thread % 32,
                                          rank,
                                          m.shape.cluster,
                                          agent};
  make_context(fiber.machine, m.stacks.low(agent), top, fiber_main);
  m.ready.push(&fiber);
}

// `first`: the cluster's first block.
void run_cluster(uint3 first) {
  Machine& m = machine();
  const int warps = m.warps_per_block(), blocks = m.cluster_blocks;
  const dim3& extent = m.shape.cluster;
  m.blocks.assign(blocks, Block());
  m.warps.assign(blocks * warps, Warp());
  for (int rank = 0; rank < blocks; ++rank) {
    const unsigned r = static_cast<unsigned>(rank);
    m.blocks[rank].index = {first.x + r % extent.x, first.y + r / extent.x % extent.y,
                            first.z + r / (extent.x * extent.y)};
    m.blocks[rank].live = m.threads;
    for (int t = 0; t < m.threads; ++t) m.warps[rank * warps + t / 32].existing |= 1u << (t % 32);
  }
  for (Warp& warp : m.warps) warp.live = warp.existing;
  m.live = blocks * m.threads;
  m.ready.reset(m.live);
  for (CopyQueue& queue : m.copies) {
    queue.copies.clear();
    queue.closed_groups = 0;
  }
  start_counting(first.x + first.y + first.z == 0);
  start_cluster_memory();
  start_cluster_engines();
  for (int rank = 0; rank < blocks; ++rank) {
    for (int t = 0; t < m.threads; ++t) start_fiber(rank, t);
  }
  m.current = m.ready.pop(m.schedule, m.random);
  switch_context(m.host, m.current->machine);
  m.current = nullptr;
  if (m.abandoned) return;
  for (int warp = 0; m.counting && warp < warps; ++warp) count_warp(warp);
  check_cluster_memory();
  note_ring_rounds();
}

// A GPU starts clusters in no order that a kernel may count on.
std::vector<uint32_t> cluster_order(uint64_t clusters) {
  Machine& m = machine();
  std::vector<uint32_t> order(clusters);
  std::iota(order.begin(), order.end(), 0u);
  if (m.schedule == Schedule::kLifo) std::reverse(order.begin(), order.end());
  if (m.schedule == Schedule::kRandom) std::shuffle(order.begin(), order.end(), m.random);
  return order;
}

}  // namespace

void Machine::block_current(const char* wait, Caller caller, std::string (*state)(const Fiber&), const void* object) {
  Fiber* me = current;
  if (--work_left < 0) report_runaway();
  me->wait = wait;
  me->wait_caller = caller;
  me->wait_state = state;
  me->wait_object = object;
  run_another(me);
  me->wait = nullptr;
}

void Machine::abandon() {
  Fiber* me = current;
  abandoned = true;
  current = nullptr;
  switch_context(me->machine, host);
  __builtin_unreachable();
}

std::vector<Report> run(const char* kernel, const LaunchShape& shape, void (*body)(void*), void* argument,
                        size_t argument_bytes) {
  static std::mutex one_launch_at_a_time;
  const std::lock_guard<std::mutex> lock(one_launch_at_a_time);
  if (!the_machine) the_machine = new Machine;
  Machine& m = machine();
  m.kernel = kernel;
  m.shape = shape;
  m.body = body;
  m.argument = argument;
  m.argument_bytes = argument_bytes;
  m.abandoned = false;
  clear_reports();
  read_environment();
  if (const std::string what = invalid_shape(shape); !what.empty()) {
    report("bad-launch", Site{}, "a GPU would refuse this launch: " + what);
    return take_reports();
  }
  m.threads = static_cast<int>(shape.block.x * shape.block.y * shape.block.z);
  const dim3 &grid = shape.grid, &cluster = shape.cluster;
  m.cluster_blocks = static_cast<int>(cluster.x * cluster.y * cluster.z);
  const int threads = m.cluster_blocks * m.threads;
  m.stacks.reserve(threads);
  m.fibers.resize(threads);
  m.copies.resize(threads);
  m.clocks.reset(threads, m.cluster_blocks * kEngines);
  prepare_global_memory();
  prepare_shared_memory();
  const unsigned clusters_x = grid.x / cluster.x, clusters_y = grid.y / cluster.y, clusters_z = grid.z / cluster.z;
  for (const uint32_t i : cluster_order(uint64_t{clusters_x} * clusters_y * clusters_z)) {
    run_cluster(
        {i % clusters_x * cluster.x, i / clusters_x % clusters_y * cluster.y, i / clusters_x / clusters_y * cluster.z});
    if (m.abandoned) break;
  }
  if (!m.abandoned) note_run(shape.function);
  return take_reports();
}

}  // namespace fastconv::emulator
