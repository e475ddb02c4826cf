// What an algorithm of the CPU is expected to take for one image on one thread, from the extents of the problem and a
// few constants of the machine. It need not be exact: it has to rank algorithms, and to rank them alike in every
// process.
//
// The constants are defaults of the instruction set, or what was measured once on this machine
// (fastconv/calibration.py). Setting others may change which algorithm serves a problem from then on: packed weights
// must know whose they are.
#pragma once

#include <algorithm>
#include <utility>

#include "../common/calls.h"
#include "cpu_kernels.h"

namespace fastconv::cpu {

// Of one core. Bandwidths in bytes a second, of streams of full vectors; capacities in bytes, as far as one thread can
// count on them.
struct Machine {
  double fma_per_second;  // fused multiply-add *instructions* on vectors of the instruction set
  double l1_bandwidth, l2_bandwidth, l3_bandwidth, memory_bandwidth;
  double l1_bytes, l2_bytes, l3_bytes;
  double call_seconds;  // of a call that computes next to nothing: dispatch, workspace, plan
};

constexpr std::pair<const char*, double Machine::*> kMachineFields[] = {
    {"fma_per_second", &Machine::fma_per_second},
    {"l1_bandwidth", &Machine::l1_bandwidth},
    {"l2_bandwidth", &Machine::l2_bandwidth},
    {"l3_bandwidth", &Machine::l3_bandwidth},
    {"memory_bandwidth", &Machine::memory_bandwidth},
    {"l1_bytes", &Machine::l1_bytes},
    {"l2_bytes", &Machine::l2_bytes},
    {"l3_bytes", &Machine::l3_bytes},
    {"call_seconds", &Machine::call_seconds},
};

// What to assume of a machine that runs this instruction set.
Machine default_machine(const Kernels& kernels);
// The constants in force for the instruction set in use.
const Machine& machine();
// Replaces them for the instruction set in use. Any thread may, at any time; a call under way keeps what it has read.
void set_machine(const Machine& constants);

// The register tile of the engine, of `rows` pixels x `vectors` of filters: cycles of one reduction step, in FMA
// instructions. A tile of few pixels waits for latency (4 cycles, 2 FMAs each), one of one vector for its broadcasts.
inline double tile_step(double rows, double vectors) { return std::max({rows * vectors, rows + vectors, 8.0}); }

// Measures them on one thread, in a fraction of a second, and rounds them to steps of a fifth: two measurements of one
// machine shall agree.
Machine measure_machine();

// Pieces that formulas are made of -----------------------------------------------------------------------------------

// Lanes of a vector of the call's accumulate type.
inline double lanes_of(DType dtype) {
  return static_cast<double>(kernels().vector_bytes) / (dtype == DType::kFloat64 ? 8 : 4);
}

// Seconds for `count` fused multiply-adds on whole vectors, at the peak.
inline double fma_seconds(double count) { return count / machine().fma_per_second; }

// Seconds to stream `bytes` through a core, of data that keeps `footprint` bytes busy: the level of cache it fits in.
double stream_seconds(double bytes, double footprint);

// Seconds of x and y coming and going once: what every algorithm pays, and all that a copy would.
double tensor_seconds(const Conv2dCall& call);

// The rows of conv2d -------------------------------------------------------------------------------------------------
double cost_of_engine(const Conv2dCall& call);  // implicit_gemm and pointwise
double cost_of_im2col(const Conv2dCall& call);
double cost_of_direct(const Conv2dCall& call);
double cost_of_depthwise(const Conv2dCall& call);
double cost_of_large_depthwise(const Conv2dCall& call);  // cost_filters.cpp
double cost_of_winograd_2x2(const Conv2dCall& call);     // cost_winograd.cpp
double cost_of_winograd_4x4(const Conv2dCall& call);
double cost_of_grouped(const Conv2dCall& call);
double cost_of_fft(const Conv2dCall& call);  // cost_filters.cpp

}  // namespace fastconv::cpu
