"""Measures whole networks: torch eager in both layouts against the converted module, and other peers where asked."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

import fastconv
from fastconv.bench import peers, timing
from fastconv.bench.networks import Network
from fastconv.bench.results import Row
from fastconv.bench.runner import Contender, Settings, fill_times, finish, forced_backend
from fastconv.bench.truth import max_error

_FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
# Errors add up through some fifty layers; relative to the largest output, beyond twice torch's own error.
_SLACK = {"float32": 2e-5, "bfloat16": 4e-2, "float16": 1e-2}
_MIB = float(1 << 20)


def measure_network(network: Network, batch: int, settings: Settings) -> list[Row]:
    """All rows of one network at one batch size, float32.

    Torch's rows and ours are first compared with the network in float64, then timed in turn, then compared again.
    """
    model = network.build().to(settings.device)
    size = network.image_size
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(settings.device)
    with torch.inference_mode():
        truth = copy.deepcopy(model).double()(x.double())
        torch_error = max_error(model(x), truth)
    tolerance = 2 * torch_error + _SLACK["float32"] * float(truth.abs().max())

    def row(layout: str, backend: str, algorithm: str) -> Row:
        problem = f"mb{batch}ic3ih{size}"
        return Row(
            op="network",
            problem=problem,
            dtype="float32",
            layout=layout,
            backend=backend,
            algorithm=algorithm,
            group=f"batch {batch}",
            name=network.title,
            batch=batch,
            tolerance=tolerance,
        )

    with forced_backend(settings.backend):
        # convert() folds and packs weights, which wants ordinary tensors: it runs outside inference mode.
        converted = fastconv.convert(model, (x,))
        with torch.inference_mode():
            contenders = []
            for layout, memory_format in _FORMATS.items():
                image = x.contiguous(memory_format=memory_format)
                arranged = copy.deepcopy(model).to(memory_format=memory_format)  # type: ignore[call-overload]
                contenders.append(Contender(row(layout, "torch", "eager"), _call(arranged, image)))
                if layout in settings.layouts:
                    contenders.append(Contender(row(layout, settings.backend, "convert"), _call(converted, image)))
            for name, call in peers.network_calls(settings.peers, model, x):
                contenders.append(Contender(row("nchw", name, "whole network"), call))
            for contender in contenders:
                _verify(contender, truth)
            runnable = [contender for contender in contenders if contender.row.correct]
            for contender in runnable:
                extra = timing.extra_memory_bytes(contender.call, settings.device)
                contender.row.scratch_mib = None if extra is None else extra / _MIB
            calls = {str(index): contender.call for index, contender in enumerate(runnable)}
            for contender, measured in zip(
                runnable, timing.interleave(calls, settings.effort, settings.device).values(), strict=True
            ):
                fill_times(contender.row, measured)
                _verify(contender, truth)
    rows = [contender.row for contender in contenders]
    flops, traffic = count_work(model, x)
    finish(rows, flops, traffic, settings)
    return rows


def _call(module: torch.nn.Module, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: module(x)


def _verify(contender: Contender, truth: torch.Tensor) -> None:
    row = contender.row
    error = max_error(contender.call(), truth)
    row.max_error = max(error, row.max_error or 0.0)
    row.correct = row.correct is not False and error <= (row.tolerance or 0.0)
    if not row.correct:
        row.note = f"wrong: off by {error:.3g}, tolerance {row.tolerance:.3g}"


def count_work(model: torch.nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """Operations (twice the multiply-adds of convolutions and linear layers) and least bytes of one forward pass."""
    flops = traffic = 0

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal flops, traffic
        weight = module.weight
        if not isinstance(weight, torch.Tensor):
            return
        flops += 2 * (output.numel() // output.shape[1]) * weight.numel()
        traffic += 4 * (inputs[0].numel() + weight.numel() + output.numel())

    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.inference_mode():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return flops, traffic
