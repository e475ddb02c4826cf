"""What the package can run, and why: algorithms, reasons against them, instruction sets, the build."""

import os
import platform
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from . import _C, backends
from .triton import algorithms as triton_tables

# Functions that run another operator's algorithms.
_SAME_AS = {"linear": "gemm", "conv2d_bn_act": "conv2d"}
OPERATORS = ("conv2d", "upsample_conv2d", "conv_transpose2d", "conv2d_input_grad", "conv2d_weight_grad", "gemm")
# Of several operators' work in one call, where a backend has a kernel for them; others run the parts.
BLOCKS = ("inverted_residual", "depthwise_pointwise", "conv_max_pool")
# Of two operators' work in one call, on compiled backends; others run the parts.
FUSED = ("conv2d_stats",)
_COMPILED = ("cpu", "cuda", "cuda_emulated")
_TRITON = ("triton", "triton_interpreted")
# What a problem is described by: csrc/torch/introspection.cpp reads these.
_CONV_FIELDS = (
    "N", "C", "H", "W", "K", "R", "S", "stride_h", "stride_w", "pad_top", "pad_bottom", "pad_left", "pad_right",
    "dilation_h", "dilation_w", "groups", "scale_h", "scale_w", "channels_last", "weight_channels_last",
)  # fmt: skip
_BLOCK_FIELDS = ("hidden",)
_GEMM_FIELDS = ("M", "N", "K", "batch", "transpose_a", "transpose_b")
_COMMON_FIELDS = ("dtype", "act", "bias", "scale", "shift", "residual")


class Algorithm(NamedTuple):
    """One way to compute an operator."""

    name: str
    summary: str

    def __str__(self) -> str:
        return self.name


class Candidate(NamedTuple):
    """An algorithm, and what speaks against it for one problem (nothing: it can serve)."""

    name: str
    summary: str
    reasons: tuple[str, ...]
    preferred: bool
    # Predicted seconds, where the algorithm has an opinion: cpu of one image on one thread, cuda of the whole call.
    cost: float | None = None
    bound: str = ""  # cuda: what most of them go to
    plan: str = ""  # cuda: its tile, and into how many parts the reduction is split
    measured: float | None = None  # seconds of the call in the table of `fastconv.use_tuning`


@dataclass(frozen=True)
class Explanation:
    """Which algorithm serves a problem, and why the others do not. `str()` gives one line for each.

    `decided_by` is "measurement" where a table of `fastconv.use_tuning` chose, else "model".
    """

    op: str
    backend: str
    problem: dict[str, Any]
    chosen: str | None
    candidates: tuple[Candidate, ...] = field(repr=False)
    decided_by: str = "model"

    def __str__(self) -> str:
        why = " (by measurement)" if self.decided_by == "measurement" else ""
        lines = [f"{self.op} on {self.backend}: {self.chosen or 'no algorithm serves this problem'}{why}"]
        for row in self.candidates:
            summary = row.summary + ("" if row.preferred else " (not preferred here)")
            text = "; ".join(row.reasons) if row.reasons else summary
            if times := self._times(row):
                text += f" [{times}]"
            lines.append(f"  {'*' if row.name == self.chosen else '-'} {row.name}: {text}")
        return "\n".join(lines)

    def _times(self, row: Candidate) -> str:
        parts = []
        if row.cost is not None:
            whose = "predicted" if self.backend.startswith("cuda") else "predicted for an image on one thread"
            parts.append(f"{row.cost * 1e6:.3g} us {whose}" + (f", bound by {row.bound}" if row.bound else ""))
            parts += [row.plan] if row.plan else []
        if row.measured is not None:
            parts.append(f"{row.measured * 1e6:.3g} us measured")
        return "; ".join(parts)


def algorithms(op: str, backend: str = "cpu") -> list[Algorithm]:
    """The algorithms of an operator on a backend, in order of preference; empty where it has a single kernel.

    Args:
        op: conv2d, conv2d_bn_act, upsample_conv2d, conv_transpose2d, conv2d_input_grad, conv2d_weight_grad, gemm,
            linear, or any other function of fastconv.functional.
        backend: one of `fastconv.backends.BACKENDS`.
    """
    backends._checked(backend, "fastconv.algorithms")
    from . import functional

    name = _SAME_AS.get(op, op)
    if name in OPERATORS:
        if backend in _TRITON:
            return [Algorithm(row.name, row.summary) for row in triton_tables.TABLES[name]]
        return [Algorithm(*row) for row in _C.algorithms(name, backend)] if backend in _COMPILED else []
    if name in FUSED:
        return [Algorithm(*row) for row in _C.algorithms(name, backend)] if backend in _COMPILED else []
    if name in BLOCKS:
        return [Algorithm(*row) for row in _C.algorithms(name, backend)] if backend in _COMPILED else []
    if not callable(getattr(functional, str(op), None)) and op not in _operator_names():
        functions = (f for f in functional.__all__ if callable(getattr(functional, f)))
        known = sorted({*OPERATORS, *_SAME_AS, *functions})
        raise ValueError(f"fastconv.algorithms: expected op to be one of {', '.join(known)}, but got {op!r}")
    return []


def _operator_names() -> list[str]:
    from . import ops

    return ops.operator_names()


def algorithm_names(op: str, backend: str = "cpu") -> list[str]:
    return [algorithm.name for algorithm in algorithms(op, backend)]


def explain(op: str, text: str = "", *, backend: str = "cpu", **problem: Any) -> Explanation:
    """Which algorithm serves a problem, with the reasons against each.

    Args:
        op: one of `fastconv.introspection.OPERATORS`, or conv2d_stats, inverted_residual or depthwise_pointwise.
        text: the problem as `fastconv bench` takes it, for example "mb1ic64ih56oc64kh3ph1" or "m512k512n512".
        backend: any but the reference, which has no algorithms to choose from.
        problem: fields that add to the text or stand alone: N, C, H, W, K, R, S, stride_h, stride_w, pad_top,
            pad_bottom, pad_left, pad_right, dilation_h, dilation_w, groups, scale_h, scale_w (conv2d and its kin;
            defaults 1, no padding), or M, N, K, batch, transpose_a, transpose_b (gemm), and dtype, act, channels_last,
            weight_channels_last, bias, scale, shift, residual. Of blocks: `hidden` channels under the window (default
            C), `act` behind every stage but the last.

    Raises:
        ValueError: a name or a value of these that does not exist, or that makes no problem.

    Example: ``print(fastconv.explain("conv2d", "mb1ic64ih56oc64kh3ph1", channels_last=True, act="relu"))``
    """
    name = _SAME_AS.get(op, op)
    if text:
        from fastconv.bench.problem import parse_problem

        problem = {**parse_problem("gemm" if name == "gemm" else op, text).kernel_fields(), **problem}
    fields = (*(_GEMM_FIELDS if name == "gemm" else _CONV_FIELDS), *_COMMON_FIELDS)
    fields += _BLOCK_FIELDS if name in BLOCKS else ()
    if unknown := [field for field in problem if field not in fields]:
        raise ValueError(f"explain: expected the problem in terms of {', '.join(fields)}, but got {unknown[0]!r}")
    if isinstance(dtype := problem.get("dtype"), torch.dtype):
        problem["dtype"] = str(dtype).removeprefix("torch.")
    for term, value in problem.items():
        kind = str if term in ("dtype", "act") else int
        if not isinstance(value, kind):
            what = "a name" if kind is str else "an integer"
            raise TypeError(f"explain: expected {term} to be {what}, but got {value!r}")
    if backend in _TRITON:
        _C.reasons(name, "cpu", problem)  # refuses values that make no problem, whatever the backend
        rows = [Candidate(*row) for row in triton_tables.candidates(name, problem)]
        able = [row for row in rows if not row.reasons]
        chosen = next((row.name for row in able if row.preferred), able[0].name if able else None)
        return Explanation(op, backend, dict(problem), chosen, tuple(rows))
    from . import tuning

    summaries = dict(_C.algorithms(name, backend))
    answers = _C.reasons(name, backend, problem)
    times = tuning.times_of(name, backend, problem)
    rows = [
        Candidate(a.name, summaries[a.name], tuple(a.reasons), a.preferred, a.cost, a.bound, a.plan, times.get(a.name))
        for a in answers
    ]
    chosen = next((a.name for a in answers if a.chosen), None)
    decided_by = "measurement" if any(a.measured for a in answers) else "model"
    return Explanation(op, backend, dict(problem), chosen, tuple(rows), decided_by)


def isa() -> str:
    """The instruction set in use: amx, avx512_bf16 (AVX-512 and products of bfloat16), avx512, avx2 or scalar."""
    return _C.isa()


def available_isas() -> list[str]:
    """The instruction sets that this CPU can run, best first."""
    return _C.available_isas()


def isa_is_forced() -> bool:
    """Whether FASTCONV_CPU_ISA names the instruction set."""
    return bool(os.environ.get("FASTCONV_CPU_ISA"))


def select_isa(name: str) -> None:
    """Uses another instruction set from now on ("": the best). Drops the weights packed for the one before."""
    from . import calibration, tuning
    from .functional import cache

    _C.select_isa(name)
    cache.clear()
    calibration.load()
    tuning.reload()


def why_unavailable(name: str) -> str | None:
    """`fastconv.backends.why_unavailable`."""
    return backends.why_unavailable(name)


def why_not_emulated() -> str | None:
    """None if the emulated CUDA kernels are in this build, else why not."""
    return build_info()["left_out"].get("cuda_emulated")


def build_info() -> dict[str, Any]:
    """How this build was made (compiler, flags, git_sha, CUDA, what was left out and why) and where it runs."""
    from ._build_info import BUILD_INFO

    return {
        **BUILD_INFO,
        "isa": isa(),
        "available_isas": available_isas(),
        "torch_running": torch.__version__,
        "python": platform.python_version(),
    }


def peak_workspace_bytes() -> int:
    """The most scratch memory that one call has taken since the last reset."""
    return _C.peak_workspace_bytes()


def reset_peak_workspace() -> None:
    _C.reset_peak_workspace_bytes()
