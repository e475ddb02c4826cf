"""Measures whole networks: torch eager in both layouts against the converted module, and other peers where asked."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import fastconv
from fastconv.bench import gpu, memory, peers, timing
from fastconv.bench.networks import Network
from fastconv.bench.results import OURS_IN_FLOAT32, Residence, Row
from fastconv.bench.runner import Contender, Settings, compare, fill_times, finish, forced_backend
from fastconv.bench.truth import max_error
from fastconv.convert.converted import ConvertedModule
from fastconv.convert.plan.explained import graph_facts

_FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
# Errors add up through some fifty layers; relative to the largest output, beyond twice torch's own error.
_SLACK = {"float32": 2e-5, "bfloat16": 4e-2}
_MIB = float(1 << 20)


class Truth:
    """A network's outputs in float64, and how far each may be from them: twice torch's own error and a slack."""

    def __init__(self, model: torch.nn.Module, x: Tensor, dtype: str) -> None:
        kind = getattr(torch, dtype)
        with torch.inference_mode():
            self.outputs = pytree.tree_leaves(copy.deepcopy(model).double()(x.double()))
            torchs = pytree.tree_leaves(copy.deepcopy(model).to(kind)(x.to(kind)))
        self.tolerances = [
            2 * max_error(y, exact) + _SLACK[dtype] * float(exact.abs().max())
            for y, exact in zip(torchs, self.outputs, strict=True)
        ]

    def judge(self, contender: Contender) -> None:
        """Runs the contender once and records the error of the output that is the furthest off for its tolerance."""
        row = contender.row
        try:
            leaves = pytree.tree_leaves(contender.call())
        except NotImplementedError as refusal:
            row.note = str(refusal)
            return
        if len(leaves) != len(self.outputs):
            row.correct, row.note = False, f"wrong: {len(leaves)} outputs, expected {len(self.outputs)}"
            return
        errors = [max_error(y, exact) for y, exact in zip(leaves, self.outputs, strict=True)]
        worst = max(range(len(errors)), key=lambda index: errors[index] / self.tolerances[index])
        if row.max_error is None or errors[worst] / self.tolerances[worst] > row.max_error / (row.tolerance or 1.0):
            row.max_error, row.tolerance = errors[worst], self.tolerances[worst]
        row.correct = row.correct is not False and errors[worst] <= self.tolerances[worst]
        if not row.correct:
            row.note = f"wrong: off by {row.max_error:.3g}, tolerance {row.tolerance:.3g}"


def measure_network(network: Network, batch: int, settings: Settings) -> tuple[list[Row], list[Residence]]:
    """All rows of one network at one batch size, and what each engine takes in a process of its own.

    Every contender's outputs are first compared with the network in float64, then timed in turn, then compared again.
    """
    if settings.dtype not in _SLACK:
        raise ValueError(f"bench: expected dtype to be one of {', '.join(_SLACK)} for networks, got {settings.dtype!r}")
    model = network.build().to(settings.device)
    size = network.image_size
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(settings.device)
    truth = Truth(model, x, settings.dtype)
    with tempfile.TemporaryDirectory() as folder, forced_backend(settings.backend):
        onnx_file = Path(folder) / "network.onnx"
        # convert() folds and packs weights, which wants ordinary tensors: it runs outside inference mode.
        contenders = list(_contenders(network, batch, model, x, settings, onnx_file))
        with torch.inference_mode(), gpu.cudnn_search(settings.device):
            for contender in contenders:
                truth.judge(contender)
            runnable = [contender for contender in contenders if contender.row.correct]
            for contender in runnable:
                extra = memory.extra_memory_bytes(contender.call, settings.device)
                contender.row.scratch_mib = None if extra is None else extra / _MIB
            calls = {str(index): contender.call for index, contender in enumerate(runnable)}
            timings = timing.interleave(calls, settings.turns, settings.device)
            for contender, measured in zip(runnable, timings.values(), strict=True):
                fill_times(contender.row, measured)
                truth.judge(contender)
                contender.row.note = contender.row.note or contender.note() or ""
            compare([contender.row for contender in runnable], list(timings.values()))
        rows = [contender.row for contender in contenders]
        finish(rows, *count_work(model, x), settings)
        alone = settings.processes and settings.backend == "cpu"
        residences = list(_residences(network, x, settings, onnx_file)) if alone else []
    return rows, residences


def _contenders(
    network: Network, batch: int, model: torch.nn.Module, x: Tensor, settings: Settings, onnx_file: Path
) -> Iterator[Contender]:
    kind = getattr(torch, settings.dtype)

    def row(layout: str, backend: str, algorithm: str) -> Row:
        return Row(
            op="network",
            problem=f"mb{batch}ic3ih{network.image_size}",
            dtype=settings.dtype,
            layout=layout,
            backend=backend,
            algorithm=algorithm,
            group=f"batch {batch}",
            name=network.title,
            batch=batch,
        )

    converted = fastconv.convert(model, (x,), dtype=None if kind == torch.float32 else kind)
    for layout, memory_format in _FORMATS.items():
        image = x.contiguous(memory_format=memory_format)
        arranged = copy.deepcopy(model).to(kind).to(memory_format=memory_format)  # type: ignore[call-overload]
        yield Contender(row(layout, "torch", "eager"), _call(arranged, image.to(kind)))
        if layout in settings.layouts:
            yield _converted(row(layout, settings.backend, "convert"), converted, image)
    if kind != torch.float32:
        in_float32 = fastconv.convert(model, (x,))
        image = x.contiguous(memory_format=torch.channels_last)
        yield _converted(row("nhwc", OURS_IN_FLOAT32, "convert"), in_float32, image)
    for name in settings.peers:
        if name != "torch":
            call = peers.prepare(name, model, x, settings.dtype, onnx_file)
            yield Contender(row("nchw", name, "whole network"), call)


def _converted(row: Row, converted: ConvertedModule, image: Tensor) -> Contender:
    """With a word on whether a graph of the GPU was replayed."""

    def said() -> str | None:
        program = converted.region.last
        return None if program is None or program.plan is None else graph_facts(program.plan)

    return Contender(row, _call(converted, image), said)


def _call(module: torch.nn.Module, x: Tensor) -> Callable[[], Any]:
    return lambda: module(x)


def _residences(network: Network, x: Tensor, settings: Settings, onnx_file: Path) -> Iterator[Residence]:
    """Each engine in a process of its own; not torch.compile, whose compiler's memory would pass for the network's."""
    tiny = onnx_file.with_name("tiny.onnx")
    for engine in ("fastconv", *(peer for peer in settings.peers if peer != "inductor")):
        job: dict[str, Any] = {
            "engine": engine,
            "network": network.name,
            "shape": list(x.shape),
            "dtype": settings.dtype,
            "threads": torch.get_num_threads(),
        }
        residence = Residence(network.title, x.shape[0], settings.dtype, engine)
        if engine in peers.ENGINES:
            if settings.dtype not in peers.PEERS[engine].dtypes or not onnx_file.exists():
                continue  # its row says why
            if not tiny.exists():
                layers = torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
                peers.export_onnx(torch.nn.Sequential(*layers).eval(), x, tiny)
            settings_of = peers.openvino_settings(settings.dtype, torch.get_num_threads())
            job |= {"network": str(onnx_file), "tiny": str(tiny), "settings": settings_of}
        try:
            for name, value in memory.memory_of(job).items():
                setattr(residence, name, value)
        except RuntimeError as error:
            residence.note = str(error)
        yield residence


def count_work(model: torch.nn.Module, x: Tensor) -> tuple[int, int]:
    """Operations (twice the multiply-adds of convolutions and linear layers) and least bytes of one forward pass."""
    flops = traffic = 0

    def count(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal flops, traffic
        weight = module.weight
        if not isinstance(weight, Tensor):
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
