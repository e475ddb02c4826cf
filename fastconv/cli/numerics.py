"""`fastconv numerics`: the rounding errors of conv2d's algorithms, as docs/numerics.md shows them."""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as torch_f
from torch import Tensor

from fastconv import functional, introspection
from fastconv.cli.console import OK, Console

CHANNELS = (64, 128, 256, 512)
ALGORITHMS = ("implicit_gemm", "winograd_2x2", "winograd_4x4")
_EXTENT, _FILTERS, _SEEDS = 14, 64, (0, 1)


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "numerics",
        help="rounding errors of the algorithms of a 3x3 layer",
        description=f"A float32 layer of {_FILTERS} 3x3 filters on {_EXTENT}x{_EXTENT} images of normal numbers, with "
        "weights normal over sqrt(9 C), so that outputs are about 1, against float64: the largest and the rms absolute "
        f"error, the worse of {len(_SEEDS)} seeds each. The times are the largest error's, of torch's.",
    )
    parser.set_defaults(run=run)


def errors(channels: int) -> dict[str, tuple[float, float]]:
    """By algorithm, torch's own first: the largest and the rms error."""
    worst: dict[str, tuple[float, float]] = {}
    for seed in _SEEDS:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(1, channels, _EXTENT, _EXTENT, generator=generator)
        w = torch.randn(_FILTERS, channels, 3, 3, generator=generator) / (9 * channels) ** 0.5
        truth = torch_f.conv2d(x.double(), w.double(), padding=1)
        results = {"torch": torch_f.conv2d(x, w, padding=1)}
        results |= {name: functional.conv2d(x, w, padding=1, algo=name) for name in ALGORITHMS}
        for name, y in results.items():
            largest, rms = _distance(y, truth)
            before = worst.get(name, (0.0, 0.0))
            worst[name] = (max(before[0], largest), max(before[1], rms))
    return worst


def _distance(y: Tensor, truth: Tensor) -> tuple[float, float]:
    difference = y.double() - truth
    return float(difference.abs().max()), float(difference.square().mean().sqrt())


def run(_: argparse.Namespace) -> int:
    """Prints the table."""
    rows = []
    with torch.no_grad():
        for channels in CHANNELS:
            row = errors(channels)
            base = row["torch"][0]
            texts = [f"{largest:.1e}, {rms:.1e} ({largest / base:.1f}x)" for largest, rms in row.values()]
            rows.append((str(channels), *texts))
    console = Console()
    console.table(("C", "torch", *ALGORITHMS), rows, left=1)
    console.line(f"instruction set {introspection.isa()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    return OK
