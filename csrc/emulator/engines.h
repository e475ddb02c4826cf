// State of one cluster's asynchronous machinery: barriers, bulk copies, warpgroup products. The device_*.h headers say
// what each of them does.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "clocks.h"
#include "device_barriers.h"
#include "device_tma.h"
#include "device_wgmma.h"

namespace fastconv::emulator {

struct Fiber;

// XORs the bits of a shared address that choose the 16-byte chunk in a row of `swizzle_bytes` with those that count
// rows of 128 bytes: the pattern of TMA and wgmma.
inline uint32_t swizzled(uint32_t address, uint32_t swizzle_bytes) {
  const uint32_t chunk_bits = swizzle_bytes ? swizzle_bytes - 16 : 0;
  return address ^ (address >> 3 & chunk_bits);
}

constexpr uint32_t kTensorMapMagic = 0x7e50c0de;  // a TensorMap that an encoder has filled

struct NamedBarrier {
  int expected = 0, arrived = 0;
  Caller first = {nullptr, 0};
  std::vector<Fiber*> waiting;
  VectorClock arriving;
};

struct Mbarrier {
  uint64_t* address = nullptr;
  Caller initialised = {nullptr, 0};
  int owner = 0;  // the thread (as an agent) that initialised it, at clock `since`
  uint32_t since = 0;
  bool fenced = false;    // engines may know of it
  int engine = 0;         // agent of the loads that report to it
  uint32_t expected = 0;  // arrivals a phase
  uint32_t pending = 0;   // of this phase
  int64_t bytes = 0;      // this phase still waits for
  uint32_t phase = 0;
  bool counts_bytes = false;           // some phase has waited for some
  VectorClock arriving, completed[2];  // by parity of the phase
  std::vector<Fiber*> waiting;
};

// A copy between a tensor and shared memory that has been issued and not carried out.
struct BulkCopy {
  TensorMap map;
  unsigned char* shared;
  int coordinates[5];
  uint16_t offsets[3] = {};  // im2col
  Caller caller;
  int thread;  // that has issued it, as an agent
  int engine;
  uint32_t clock;
  uint64_t* barrier = nullptr;     // loads
  std::vector<unsigned char> box;  // stores: what has been read from shared memory, in the tensor's order
  bool read = false, written = false;
};

// tma_im2col.cpp: the pixels of an im2col load, each as the global address of its first channel (which may lie before
// the tensor's first channel), or null where the pixel lies outside.
std::vector<unsigned char*> im2col_pixels(const BulkCopy& copy);
// Reports what a base pixel and offsets must not be.
void check_im2col(const BulkCopy& copy);

struct BulkGroups {
  int engine = 0;
  std::vector<BulkCopy> open;
  std::deque<std::vector<BulkCopy>> committed;
};

// 64 x columns accumulators between the first wgmma that takes them and the wait that gives them back.
struct AccumulatorTile {
  int columns = 0;
  std::vector<float> values;  // row-major
};

struct WgmmaInstruction {
  WgmmaOperation operation;
  Caller caller;
  int issued = 0;  // threads
  std::shared_ptr<AccumulatorTile> tile;
};

// One thread's part in its warpgroup's stream of instructions.
struct WgmmaThread {
  struct InFlight {
    float* d;
    std::shared_ptr<AccumulatorTile> tile;
    int64_t last;  // instruction that uses it
    Caller caller;
  };
  bool fenced = false;
  int64_t issued = 0;              // instructions
  std::vector<int64_t> committed;  // instructions before the end of each group that has not been waited for
  std::vector<InFlight> in_flight;
};

struct Warpgroup {
  uint32_t clock_before_block = 0;            // of its engine
  std::deque<WgmmaInstruction> instructions;  // those not carried out
  int64_t first = 0;                          // number of instructions.front()
  std::vector<Fiber*> waiting;
};

// What a block's threads have of its registers, once one of them has asked for another number.
struct RegisterBudget {
  std::vector<int> held;  // by thread
  int64_t free = 0;
  std::vector<Fiber*> waiting;
};

// The barrier of all threads of a cluster, of which arriving and waiting are two instructions.
struct ClusterBarrier {
  int arrived = 0;
  uint32_t phase = 0;
  std::vector<uint32_t> arrived_in;  // by thread: phase + 1 where it has not waited since, else 0
  VectorClock arriving, completed;
  std::vector<Fiber*> waiting;
};

// All threads by their numbers in the cluster.
struct Engines {
  std::map<const uint64_t*, Mbarrier> mbarriers;
  int mbarriers_created = 0;
  std::deque<BulkCopy> loads;
  ClusterBarrier cluster;
  std::map<int, BulkGroups> stores;        // by thread
  std::vector<Warpgroup> warpgroups;       // of block after block
  std::vector<WgmmaThread> wgmma_threads;  // by thread
};

}  // namespace fastconv::emulator
