"""The algorithms of each operator in order of preference, with what speaks against them: what `explain`, `algo=` and
`fastconv verify` read, as they read the compiled backends' tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .phases import upsampled_period

# Beyond this many input channels a group, products on tiles win over sums tap by tap.
MOST_SUMMED = 4
# Each phase is a launch and a filter of its own.
MOST_PHASES = 16


@dataclass(frozen=True)
class Problem:
    """A convolution as the tables see it; the fields are `explain`'s."""

    C: int = 1
    K: int = 1
    groups: int = 1
    stride_h: int = 1
    stride_w: int = 1
    scale_h: int = 1
    scale_w: int = 1

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Problem:
        """From `explain`'s fields; those that no algorithm asks for are left out."""
        return cls(**{name: value for name, value in fields.items() if name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Row:
    """One algorithm: its name, a line about it, every reason against it, and whether it is taken unasked."""

    name: str
    summary: str
    reasons_against: Callable[[Problem], list[str]] = lambda _: []
    preferred: Callable[[Problem], bool] = lambda _: True


def _summed(channels: int, groups: int, which: str) -> list[str]:
    each = channels // max(groups, 1)
    if each > MOST_SUMMED:
        return [f"it adds up {each} {which} channels a group one by one: more than {MOST_SUMMED} are a product"]
    return [f"{each} {which} channels in a single group are a product"] if groups == 1 and each > 1 else []


def _many_phases(p: Problem) -> list[str]:
    count = upsampled_period(p.scale_h, p.stride_h) * upsampled_period(p.scale_w, p.stride_w)
    return [f"{count} phases, more than {MOST_PHASES}"] if count > MOST_PHASES else []


_PRODUCT = Row("implicit_gemm", "product on tiles, operands gathered from the image")
_DEPTHWISE = "filters applied tap by tap, for groups of few channels"
_OF_INPUT = Row("depthwise", _DEPTHWISE, lambda p: _summed(p.C, p.groups, "input"), lambda p: p.groups > 1)
_OF_OUTPUT = Row("depthwise", _DEPTHWISE, lambda p: _summed(p.K, p.groups, "output"), lambda p: p.groups > 1)
TABLES: dict[str, tuple[Row, ...]] = {
    "conv2d": (_OF_INPUT, _PRODUCT),
    "upsample_conv2d": (
        Row("phase", "taps that meet the same pixel are added up beforehand", _many_phases,
            lambda p: p.scale_h * p.scale_w > 1),
        Row("gather", "the same products as the unfused pair, coordinates divided by the factor"),
    ),
    "conv_transpose2d": (_OF_OUTPUT, Row("implicit_gemm", "one product for each phase of the stride")),
    "conv2d_input_grad": (_OF_OUTPUT, Row("implicit_gemm", "one product for each phase of the stride")),
    "conv2d_weight_grad": (
        Row("depthwise", "one weight position of many channels at a time",
            lambda p: _summed(p.C, p.groups, "input"), lambda p: p.groups > 1),
        Row("implicit_gemm", "product over runs of pixels, added up in order"),
    ),
    "gemm": (Row("tiled", "product on tiles"),),
}  # fmt: skip


def candidates(op: str, fields: Mapping[str, Any]) -> list[tuple[str, str, tuple[str, ...], bool]]:
    """(name, summary, reasons against, preferred) of each algorithm for a problem in `explain`'s fields."""
    problem = Problem.of(fields)
    return [(row.name, row.summary, tuple(row.reasons_against(problem)), row.preferred(problem)) for row in TABLES[op]]


def select(op: str, problem: Problem, algo: str) -> str:
    """The first algorithm without a reason against it that wants the problem; `algo` forces one.

    Raises:
        ValueError: a name that does not exist.
        NotImplementedError: nothing serves the problem, with every candidate's reasons.
    """
    table = TABLES[op]
    if algo and algo not in (row.name for row in table):
        names = ", ".join(row.name for row in table)
        raise ValueError(f"{op}: expected algo to be one of {names}, but got '{algo}'")
    candidates = [(row, row.reasons_against(problem)) for row in table if algo in ("", row.name)]
    able = [row for row, reasons in candidates if not reasons]
    if not able:
        report = "".join(f"\n  {row.name}: {'; '.join(reasons)}" for row, reasons in candidates)
        raise NotImplementedError(f"{op}: no algorithm serves this problem:{report}")
    return next((row.name for row in able if row.preferred(problem)), able[0].name)
