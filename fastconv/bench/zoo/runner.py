"""Measures the zoo: each network converted and replaced, compared with float64, explained and timed."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

import fastconv
from fastconv import machine
from fastconv.bench import timing
from fastconv.bench.results import Run
from fastconv.bench.timing import Effort
from fastconv.bench.zoo.check import WINOGRAD, Truth, Verdict, in_format, pool
from fastconv.bench.zoo.network import ZooNetwork
from fastconv.bench.zoo.registry import ZOO

_LAST = torch.channels_last


@dataclass
class ZooRow:
    """One network. Errors are relative to the largest value of an output; times are milliseconds, batch 1."""

    name: str
    source: str
    traits: str
    image: str
    parameters: int
    kernels: int  # that serve it after convert
    layers: int  # merged into those kernels
    fused: int  # kernels that took over more than one layer
    left: int  # operations that torch computes
    reasons: list[tuple[str, str, int]]  # of those left: operation, why, how many
    torch_error: float
    convert_error: float
    replace_error: float
    problems: list[str] = field(default_factory=list)
    torch_ms: float | None = None  # the better memory format, as in the next two
    convert_ms: float | None = None
    replace_ms: float | None = None

    @property
    def convert_speedup(self) -> float | None:
        return self.torch_ms / self.convert_ms if self.torch_ms and self.convert_ms else None

    @property
    def replace_speedup(self) -> float | None:
        return self.torch_ms / self.replace_ms if self.torch_ms and self.replace_ms else None


@dataclass
class Checked:
    """A network's stand-ins and the verdict on each."""

    model: nn.Module
    converted: nn.Module
    replaced: nn.Module
    on_convert: Verdict
    on_replace: Verdict


def check(network: ZooNetwork, *, small: bool = True) -> Checked:
    """Converts with one example, and compares on other images: of the same size, and two in channels_last of another
    size where the network takes it."""
    size = network.small if small else network.size
    model = network.build(small)
    converted = fastconv.convert(model, network.example(1, size, seed=2))
    replaced = fastconv.replace(copy.deepcopy(model))
    truths = [Truth(model, network.example(1, size, seed=3)), _second_truth(network, model, size)]
    pool(truths)
    on_convert, on_replace = Verdict(), Verdict()
    for truth in reversed(truths):  # the last call is what `explain` looks at
        on_convert.add(_judge(truth, converted))
        on_replace.add(_judge(truth, replaced))
    return Checked(model, converted, replaced, on_convert, on_replace)


def _judge(truth: Truth, candidate: nn.Module) -> Verdict:
    """With sums as the definition has them as close as torch, and as close as Winograd's algorithm allows without."""
    with fastconv.allow_winograd(False):
        verdict = truth.judge(candidate)
    verdict.add(truth.judge(candidate, WINOGRAD))
    return verdict


def _second_truth(network: ZooNetwork, model: nn.Module, size: tuple[int, int]) -> Truth:
    args = network.example(2, network.other_size(size), seed=4)
    try:
        return Truth(model, in_format(args, _LAST))
    except RuntimeError:
        return Truth(model, args)  # the model itself calls .view where the format does not allow it


def measure(network: ZooNetwork, effort: Effort, *, small: bool) -> ZooRow:
    """One row: checked, explained, timed and checked again by having run."""
    checked = check(network, small=small)
    rows = fastconv.explain(checked.converted).rows
    served = [row for row in rows if row.served]
    reasons = Counter((row.operation, row.why) for row in rows if not row.served)
    size = network.small if small else network.size
    result = ZooRow(
        name=network.name,
        source=network.source,
        traits=network.traits,
        image=f"{size[0]}x{size[1]}",
        parameters=sum(parameter.numel() for parameter in checked.model.parameters()),
        kernels=len(served),
        layers=sum(len(row.layers) for row in served),
        fused=sum(row.fused for row in served),
        left=len(rows) - len(served),
        reasons=[(operation, why, count) for (operation, why), count in reasons.most_common()],
        torch_error=max(checked.on_convert.torch_error, checked.on_replace.torch_error),
        convert_error=checked.on_convert.error,
        replace_error=checked.on_replace.error,
        problems=[f"convert: {text}" for text in checked.on_convert.problems]
        + [f"replace: {text}" for text in checked.on_replace.problems],
    )
    _time(result, checked, network.example(1, size, seed=5), effort)
    return result


def _time(row: ZooRow, checked: Checked, args: tuple[Any, ...], effort: Effort) -> None:
    calls: dict[str, Callable[[], object]] = {}
    for name, module in (("torch", checked.model), ("convert", checked.converted), ("replace", checked.replaced)):
        calls[f"{name} nchw"] = _call(module, args)
        try:
            own = module if name == "convert" else copy.deepcopy(module).to(memory_format=_LAST)  # type: ignore[call-overload]
            call = _call(own, in_format(args, _LAST))
            call()
        except RuntimeError:  # a parameter of five dimensions, or a .view where the format does not allow it
            continue
        calls[f"{name} nhwc"] = call
    with torch.no_grad():
        measured = timing.interleave(calls, effort)
    for name in ("torch", "convert", "replace"):
        times = [1e3 * value.median for key, value in measured.items() if key.startswith(name)]
        setattr(row, f"{name}_ms", min(times))


def _call(module: nn.Module, args: tuple[Any, ...]) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad():
            return module(*args)

    return call


@dataclass
class ZooRun(Run):
    """A run of the suite; its rows are networks."""

    rows: list[ZooRow] = field(default_factory=list)  # type: ignore[assignment]

    @property
    def failures(self) -> list[ZooRow]:  # type: ignore[override]
        return [row for row in self.rows if row.problems]

    def summary(self) -> list[dict[str, Any]]:
        return [
            {
                "networks": len(self.rows),
                "kernels": sum(row.kernels for row in self.rows),
                "layers": sum(row.layers for row in self.rows),
                "left": sum(row.left for row in self.rows),
                "misses": len(self.failures),
                "convert_speedup": timing.geometric_mean(row.convert_speedup for row in self.rows),
                "replace_speedup": timing.geometric_mean(row.replace_speedup for row in self.rows),
            }
        ]

    def against_engines(self) -> list[dict[str, Any]]:
        return []  # the zoo is measured beside torch alone

    def to_dict(self) -> dict[str, Any]:
        rows = [
            {**asdict(row), "convert_speedup": row.convert_speedup, "replace_speedup": row.replace_speedup}
            for row in self.rows
        ]
        return {**super().to_dict(), "rows": rows}


def run_zoo(
    threads: int | None, effort: Effort, on_step: Callable[[int, int, str], None], *, small: bool = False
) -> ZooRun:
    """Every network of the zoo.

    Raises:
        MissingPackage: before anything is measured, where a collection is not installed.
    """
    for network in ZOO.values():
        network.require()
    with machine.torch_threads(threads) as used:
        run = ZooRun("zoo", {"threads": used, "backend": "cpu", "cache": "warm"}, dict(machine.ceilings(used)))
        for index, network in enumerate(ZOO.values()):
            on_step(index, len(ZOO), network.name)
            run.rows.append(measure(network, effort, small=small))
    return run
