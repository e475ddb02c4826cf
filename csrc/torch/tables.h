// From a tensor's device and the caller's `backend` to the kernels: algorithm tables where an operation has several
// ways, one function where it has one.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <optional>

#include "../common/algorithm_table.h"
#include "../cpu/cpu_kernels.h"
#include "../plan/recorder.h"
#include "describe.h"
#include "measured.h"
#include "tensor_utils.h"
#include "workspace.h"

namespace fastconv::ops {

enum class Backend { kCpu, kCudaEmulated, kCuda };

const char* backend_name(Backend backend);
// `name` empty: by the tensor's device; else the backend for CPU tensors. Throws std::invalid_argument for an unknown
// name, NotServed for a CPU tensor on "cuda".
Backend backend_of(const Tensor& t, const std::string& name, const char* op);
// By name alone, for introspection.
Backend backend_named(const std::string& name);

// The algorithms of an operation on a backend, in order of preference; empty when it has none.
template <class Call>
const AlgorithmTable<Call>& algorithms(Backend backend);
// conv2d and upsample_conv2d share their call, so the latter has its own name.
const AlgorithmTable<Conv2dCall>& upsample_algorithms(Backend backend);

// Makes t's GPU the current one for a scope; nothing on the CPU.
class OnDeviceOf {
 public:
  OnDeviceOf(const Tensor& t, Backend backend) {
    if (backend == Backend::kCuda) guard_.emplace(t.get_device_index());
  }

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
};

// torch's current stream of t's device; null for the others.
void* current_stream(const Tensor& t, Backend backend);

// Runs a kernel; a failure of the GPU, or a finding of the emulator, comes back with the operation and its problem in
// front of the launch that it names.
template <class Call, class Run>
void run_named(Run&& run, const Call& call, Backend backend, const char* op) {
  try {
    run();
  } catch (const NotServed&) {
    throw;
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(concat(op, " on ", backend_name(backend), ", ", describe(call), ", ",
                                    dtype_name(element_type(call)), ": ", error.what()));
  }
}

// Who records this call, if anybody does; a plan holds calls of one backend.
inline plan::Recorder* recorder_of(Backend backend, const char* op) {
  plan::Recorder* const recorder = plan::Recorder::current();
  if (!recorder || recorder->on_host() == (backend == Backend::kCpu)) return recorder;
  recorder->refuse(concat(op, " runs on backend ", backend_name(backend)));
  return nullptr;
}

// Selects from `table` and runs, with a workspace on `like`'s device.
template <class Call>
void run_algorithm(const AlgorithmTable<Call>& table, const Call& call, Backend backend, const std::string& algo,
                   const char* op, const Tensor& like) {
  if (table.empty()) throw NotServed(concat(op, ": backend ", backend_name(backend), " has no algorithm for it"));
  const OnDeviceOf device(like, backend);
  TorchWorkspace workspace(like, backend == Backend::kCpu);
  if (notes_problems()) note_problem(problem_key(call, backend, op));
  const Algorithm<Call>* measured = algo.empty() ? measured_choice(table, call, backend, op) : nullptr;
  const Algorithm<Call>& algorithm = measured ? *measured : select_algorithm(table, call, op, algo);
  if (plan::Recorder* recorder = recorder_of(backend, op)) {
    recorder->note(call, algorithm.run, op, algorithm.name, algorithm.reasons_against);
  }
  const CallContext context{&workspace, current_stream(like, backend)};
  run_named([&] { algorithm.run(call, context); }, call, backend, op);
}

// The single kernels of a backend.
const OpKernels& op_kernels(Backend backend);
// That of copies, sums and products in network plans.
OpKernels::Kernel<CombineCall> combine_kernel(Backend backend);

// Runs the one kernel of an operation, with a workspace on `like`'s device.
template <class Call>
void run_kernel(OpKernels::Kernel<Call> OpKernels::* slot, const Call& call, Backend backend, const char* op,
                const Tensor& like) {
  const auto kernel = op_kernels(backend).*slot;
  if (!kernel) throw NotServed(concat(op, ": backend ", backend_name(backend), " has no kernel for it"));
  const OnDeviceOf device(like, backend);
  TorchWorkspace workspace(like, backend == Backend::kCpu);
  const CallContext context{&workspace, current_stream(like, backend)};
  if (plan::Recorder* recorder = recorder_of(backend, op)) recorder->note(call, kernel, op, "kernel");
  run_named([&] { kernel(call, context); }, call, backend, op);
}

}  // namespace fastconv::ops
