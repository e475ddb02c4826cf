"""Whose kernels a plan is made of: the CPU's, a GPU's, or the emulated GPU's; and the memory that they run in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastconv import _C, backends

# Of arenas and scratch on a device: what torch's allocator gives there is aligned to at least this.
ALIGNMENT = 256


@dataclass(frozen=True)
class Target:
    backend: str
    device: torch.device

    @property
    def on_host(self) -> bool:
        """Whether arenas are the plans' own, and kernels take tensors however they are aligned."""
        return self.backend == "cpu"

    @property
    def forced(self) -> str:
        """The `backend` argument of operators."""
        return self.backend if self.backend == "cuda_emulated" else ""

    def key(self, tensors: Sequence[Tensor]) -> Any:
        """What beside shapes decides which kernels a network's calls get."""
        if self.on_host:
            return None
        aligned = tuple(x.data_ptr() % 16 for x in tensors)
        if self.device.type == "cuda":
            return self, aligned, _C.tf32_allowed(True), _C.tf32_allowed(False)
        return self, aligned, *map(os.environ.get, ("FASTCONV_EMULATED_ARCH", "FASTCONV_EMULATED_MULTIPROCESSORS"))

    def owns(self, x: Tensor) -> bool:
        return x.device == self.device

    def recorder(self) -> _C.Recorder:
        return _C.Recorder(self.backend)

    def refusal(self, plan: _C.Plan) -> str:
        """Why a call cannot run where the plan has its tensors: algorithms were chosen where they were recorded."""
        if self.on_host:
            return ""
        if self.device.type != "cuda":
            return plan.refusal()
        with torch.cuda.device(self.device):
            return plan.refusal()

    def run(self, plan: _C.Plan, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Runs a plan, on torch's current stream of the device."""
        read, made = [x.data_ptr() for x in inputs], [y.data_ptr() for y in outputs]
        if self.on_host:
            plan.run(read, made)
            return
        # From torch's allocator at each run: freed in the stream's order, and a graph's own where one is captured.
        number = self.device.index if self.device.type == "cuda" else -1
        arena = self._memory(plan.arena_bytes)
        at, count = 0, len(plan.kernels)
        while at < count:  # once, except at a first run, where kernels may ask for more scratch than was known
            size = plan.scratch_bytes
            scratch = self._memory(size)
            at = plan.run_on(number, _base(arena), _base(scratch), size, at, read, made)

    def empty(self, shape: Any, stride: Any, dtype: torch.dtype) -> Tensor:
        return torch.empty_strided(shape, stride, dtype=dtype, device=self.device)  # whatever torch's default device is

    def _memory(self, size: int) -> Tensor:
        return torch.empty(size + ALIGNMENT if size else 0, dtype=torch.uint8, device=self.device)


def _base(memory: Tensor) -> int:
    return -(-memory.data_ptr() // ALIGNMENT) * ALIGNMENT


class Random:
    """Where the generators are that a run may draw from, for a second run to draw the same."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._host = device, torch.get_rng_state()
        self._gpu: Tensor | None = None
        if device.type == "cuda":
            with torch.cuda.device(device):
                if not torch.cuda.is_current_stream_capturing():  # whose numbers are drawn at each replay
                    self._gpu = torch.cuda.get_rng_state(device)

    def restore(self) -> None:
        torch.set_rng_state(self._host)
        if self._gpu is not None:
            torch.cuda.set_rng_state(self._gpu, self._device)


_HOST = Target("cpu", torch.device("cpu"))
_EMULATED = Target("cuda_emulated", torch.device("cpu"))


def target_of(tensors: Sequence[Tensor]) -> Target | None:
    """Whose kernels compute a call on these tensors; None where no plan does: other backends, tensors on several
    devices."""
    forced = backends.forced()
    if all(x.is_cpu for x in tensors):
        return _HOST if not forced else _EMULATED if forced == "cuda_emulated" else None
    device = tensors[0].device
    if forced or device.type != "cuda" or backends.resolve(device) != "cuda":
        return None
    return Target("cuda", device) if all(x.device == device for x in tensors) else None
