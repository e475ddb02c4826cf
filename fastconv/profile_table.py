"""The result of fastconv.profile: a table to print, and JSON and CSV to keep."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class LayerCost:
    """One layer at one input. Bytes count each input, parameter and output once, as if caches held everything else."""

    name: str
    operation: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    bytes: int
    milliseconds: float
    bound_milliseconds: float | None  # what the machine's measured peak and bandwidth allow
    limit: str  # "arithmetic" or "memory"
    predicted_milliseconds: float | None = None  # by the cost model behind the choice of algorithms

    @property
    def share_of_bound(self) -> float | None:
        """1 where the layer runs as fast as the machine allows."""
        if self.bound_milliseconds is None or self.milliseconds <= 0:
            return None
        return self.bound_milliseconds / self.milliseconds


@dataclass
class Profile:
    """Printable; `layers` in order of execution, `to_json()` and `to_csv()` to keep it."""

    title: str
    layers: list[LayerCost]
    milliseconds: float  # the whole network in one go
    peak: dict[str, Any] = field(default_factory=dict)

    def to_json(self, path: str | Path | None = None) -> str:
        """The profile as JSON text, written to `path` where given."""
        text = json.dumps(
            {
                "title": self.title,
                "milliseconds": self.milliseconds,
                "peak": self.peak,
                "layers": [{**asdict(layer), "share_of_bound": layer.share_of_bound} for layer in self.layers],
            },
            indent=1,
        )
        return _written(text, path)

    def to_csv(self, path: str | Path | None = None) -> str:
        """One line a layer, written to `path` where given."""
        out = io.StringIO()
        names = [*LayerCost.__dataclass_fields__, "share_of_bound"]
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        for layer in self.layers:
            shape = "x".join(map(str, layer.output_shape))
            writer.writerow({**asdict(layer), "output_shape": shape, "share_of_bound": layer.share_of_bound})
        return _written(out.getvalue(), path)

    def __str__(self) -> str:
        times = ("bound ms", "predicted ms", "ms", "of bound", "limit")
        table = [("layer", "operation", "output", "params", "MMACs", "KiB", *times)]
        for layer in self.layers:
            share = layer.share_of_bound
            table.append(
                (
                    layer.name,
                    layer.operation,
                    "x".join(map(str, layer.output_shape)),
                    str(layer.parameters),
                    f"{layer.multiply_adds / 1e6:.2f}",
                    f"{layer.bytes / 1024:.0f}",
                    "-" if layer.bound_milliseconds is None else f"{layer.bound_milliseconds:.4f}",
                    "-" if layer.predicted_milliseconds is None else f"{layer.predicted_milliseconds:.4f}",
                    f"{layer.milliseconds:.4f}",
                    "-" if share is None else f"{100 * share:.0f} %",
                    layer.limit,
                )
            )
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        left = {0, 1, 2, 10}
        lines = [self.title]
        for row in table:
            cells = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
            lines.append("  ".join(cells).rstrip())
        macs, weights = sum(x.multiply_adds for x in self.layers), sum(x.parameters for x in self.layers)
        layers_ms = sum(layer.milliseconds for layer in self.layers)
        lines.append(
            f"{len(self.layers)} layers, {weights} parameters, {macs / 1e6:.1f} M multiply-adds; "
            f"{self.milliseconds:.3f} ms as a whole, {layers_ms:.3f} ms layer by layer"
        )
        if self.peak.get("unavailable"):
            lines.append(f"no bounds: {self.peak['unavailable']}")
        elif self.peak:
            lines.append(f"bounds from {self.peak['fma_gflops']:.0f} GFLOP/s and {self.peak['copy_gbs']:.1f} GB/s")
        return "\n".join(lines)


def _written(text: str, path: str | Path | None) -> str:
    if path is not None:
        Path(path).write_text(text)
    return text
