"""Measures training: a network's forward and backward pass with torch's layers, and with `fastconv.replace`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import fastconv
from fastconv.bench import memory, timing
from fastconv.bench.network_runner import count_work
from fastconv.bench.networks import Network
from fastconv.bench.operations import LAYOUTS
from fastconv.bench.results import Row
from fastconv.bench.runner import Contender, Settings, fill_times, finish, forced_backend

_FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
_TITLES = {"nchw": "NCHW", "nhwc": "channels_last"}
# How far gradients may be from float64's, in the Euclidean norm and relative to it, beyond twice torch's own distance.
# No single element can be held to more: a value that rounds to the other side of a ReLU's corner takes its gradient
# with it.
_SLACK = 1e-3
_MIB = float(1 << 20)


@dataclass
class Step:
    """One training step without the optimizer's: a forward pass in training mode, and the gradients of a loss."""

    model: nn.Module
    x: Tensor

    def forward(self) -> Tensor:
        """The loss, recorded."""
        return self.model(self.x).square().mean()

    def both(self) -> Tensor:
        """Forward and backward; the gradients are dropped, as an optimizer's zero_grad drops them."""
        loss = self.forward()
        loss.backward()
        self.model.zero_grad()
        return loss

    def gradients(self) -> Tensor:
        """The gradients of all parameters in one vector."""
        self.forward().backward()
        found = torch.cat([p.grad.double().flatten() for p in self.model.parameters() if p.grad is not None])
        self.model.zero_grad()
        return found


def distance(gradients: Tensor, truth: Tensor) -> float:
    """In the Euclidean norm, relative to the truth's; infinite where gradients are missing or a NaN appears."""
    if gradients.shape != truth.shape:
        return float("inf")
    off = float((gradients - truth).norm() / truth.norm())
    return off if off == off else float("inf")


def measure_training(network: Network, batch: int, settings: Settings) -> list[Row]:
    """All rows of one network, float32: torch's layers and ours in each memory layout, forward and forward + backward.

    Each step's gradients are compared with those of the network in float64, before and after timing.
    """
    model = network.build().requires_grad_(True).train().to(settings.device)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # every contender is to compute the same
    size = network.image_size
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(settings.device)
    truth = Step(copy.deepcopy(model).double(), x.double()).gradients()
    torchs = [Step(_arranged(model, layout), x.contiguous(memory_format=_FORMATS[layout])) for layout in LAYOUTS]
    tolerance = 2 * max(distance(step.gradients(), truth) for step in torchs) + _SLACK
    flops, traffic = count_work(model, x)
    rows: list[Row] = []
    with forced_backend(settings.backend):
        for layout in (name for name in LAYOUTS if name in settings.layouts):
            image = x.contiguous(memory_format=_FORMATS[layout])
            theirs = _arranged(model, layout)
            ours = fastconv.replace(copy.deepcopy(theirs))
            steps = [("torch", "eager", Step(theirs, image)), (settings.backend, "replace", Step(ours, image))]
            directions: tuple[tuple[str, Callable[[Step], Callable[[], Tensor]], int], ...] = (
                ("forward", lambda step: step.forward, 1),
                ("forward + backward", lambda step: step.both, 3),
            )
            for direction, call_of, passes in directions:
                contenders = [
                    Contender(_row(network, batch, layout, direction, backend, algorithm), call_of(step))
                    for backend, algorithm, step in steps
                ]
                for contender, (_, _, step) in zip(contenders, steps, strict=True):
                    contender.row.tolerance = tolerance
                    _verify(contender.row, step, truth)
                _time(contenders, settings)
                for contender, (_, _, step) in zip(contenders, steps, strict=True):
                    _verify(contender.row, step, truth)
                made = [contender.row for contender in contenders]
                # The two gradients of a convolution have as many products as the convolution.
                finish(made, passes * flops, passes * traffic, settings)
                rows += made
    return rows


def _arranged(model: nn.Module, layout: str) -> nn.Module:
    return copy.deepcopy(model).to(memory_format=_FORMATS[layout])  # type: ignore[call-overload]


def _row(network: Network, batch: int, layout: str, direction: str, backend: str, algorithm: str) -> Row:
    return Row(
        op="training",
        problem=f"mb{batch}ic3ih{network.image_size}",
        dtype="float32",
        layout=layout,
        backend=backend,
        algorithm=algorithm,
        group=f"{direction}, {_TITLES[layout]}",
        name=network.title,
        direction=direction,
        batch=batch,
    )


def _time(contenders: list[Contender], settings: Settings) -> None:
    runnable = [contender for contender in contenders if contender.row.correct]
    for contender in runnable:
        extra = memory.extra_memory_bytes(contender.call, settings.device)
        contender.row.scratch_mib = None if extra is None else extra / _MIB
    calls = {str(index): contender.call for index, contender in enumerate(runnable)}
    measured = timing.interleave(calls, settings.effort, settings.device)
    for contender, taken in zip(runnable, measured.values(), strict=True):
        fill_times(contender.row, taken)


def _verify(row: Row, step: Step, truth: Tensor) -> None:
    error = distance(step.gradients(), truth)
    row.max_error = max(error, row.max_error or 0.0)
    row.correct = row.correct is not False and error <= (row.tolerance or 0.0)
    if not row.correct:
        row.note = f"wrong: gradients off by {error:.3g}, tolerance {row.tolerance:.3g}"
