"""The opt-in autotuner: times the algorithms that serve a problem on the device at hand, and writes a table.

Nothing in the package measures on account of a new shape; predictions choose (csrc/cuda/model.h, csrc/cpu/cost_model.h)
until `fastconv.use_tuning` puts such a table in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from fastconv import _C, backends, introspection, tuning
from fastconv.bench import timing
from fastconv.bench.operations import DTYPES, LAYOUTS, Operands, Workload, in_layout, make_operands, our_call
from fastconv.bench.problem import GemmProblem, WindowProblem, parse_problem
from fastconv.bench.runner import forced_backend
from fastconv.tuning import ALIASES, Entry

_GEMM_LAYOUTS = ("nn", "nt", "tn", "tt")
# Algorithms that take this much longer than the fastest in a first look are not timed further.
_HOPELESS = 4.0


def autotune(
    what: str | Callable[..., Any],
    *args: Any,
    dtype: str = "float32",
    layout: str | None = None,
    backend: str | None = None,
    path: str | Path | None = None,
    effort: timing.Effort | None = None,
) -> list[Entry]:
    """Times every algorithm that serves a problem, or each problem of a network, and adds the times to a table.

    The table chooses nothing until ``fastconv.use_tuning(path)``.

    Args:
        what: an operator's name, whose problem follows as `fastconv bench` takes it; or a module or function, whose
            arguments follow: it is called once without gradients, and the problems of its convolutions and matrix
            products are timed (of a converted network those of its plan's single steps, not of fused blocks).
        dtype: float32, float64, float16 or bfloat16; a network has its own.
        layout: nchw or nhwc (default nhwc); of gemm nn, nt, tn or tt (default nn); a network has its own.
        backend: cpu or cuda; None: cuda where its kernels and a GPU are there. A network's tensors say it themselves.
        path: the table, made or added to; None: ~/.cache/fastconv/tuning.json.
        effort: how long to measure.

    Returns:
        The entries, which are also in the table.

    Raises:
        ValueError: a name or a problem that does not exist, or a file that is no table.
        NotImplementedError: a backend that cannot run here, or whose time says nothing, as an emulated one's.

    Example: ``fastconv.autotune("conv2d", "mb1ic64ih56oc64kh3ph1", layout="nhwc", path="tuning.json")``
    """
    file = tuning.default_path() if path is None else Path(path)
    if file.exists():
        tuning.read(file)  # before anything is measured
    effort = effort or timing.Effort()
    if isinstance(what, str):
        entries = [_tune_named(what, args, dtype, layout, backend, effort)]
    else:
        problems = problems_of(what, *args)
        entries = [_tune(*problem, effort) for problem in problems]
    tuning.write(file, entries)
    return entries


def _tune_named(
    op: str, args: tuple[Any, ...], dtype: str, layout: str | None, backend: str | None, effort: timing.Effort
) -> Entry:
    _choose("op", op, introspection.OPERATORS)
    _choose("dtype", dtype, tuple(DTYPES))
    if len(args) != 1 or not isinstance(args[0], str):
        raise ValueError(f"autotune: expected one problem such as mb1ic64ih56oc64kh3ph1 for {op}, but got {args}")
    layouts = _GEMM_LAYOUTS if op == "gemm" else LAYOUTS
    layout = _choose("layout", layout or ("nn" if op == "gemm" else "nhwc"), layouts)
    if backend is None:
        backend = "cuda" if backends.why_unavailable("cuda") is None else "cpu"
    return _tune(op, str(parse_problem(op, args[0])), dtype, layout, backend, effort)


def _choose(what: str, value: str, valid: tuple[str, ...]) -> str:
    if value not in valid:
        raise ValueError(f"autotune: expected {what} to be one of {', '.join(valid)}, but got {value!r}")
    return value


def check_backend(name: str) -> None:
    """Refuses a backend whose times would say nothing, or that cannot run here."""
    if name not in ("cpu", "cuda"):
        backends._checked(name, "autotune")
        why = "runs on the CPU: its time says nothing of a GPU" if name != "triton" else "has one choice of its own"
        raise NotImplementedError(f"autotune: {name} {why}; backends that can be tuned are cpu and cuda")
    if (reason := backends.why_unavailable(name)) is not None:
        raise NotImplementedError(f"autotune: {name} is not available: {reason}")


def problems_of(call: Callable[..., Any], *args: Any) -> list[tuple[str, str, str, str, str]]:
    """(op, problem, dtype, layout, backend) of what `call` computes, in `autotune`'s terms.

    Left out is what the notation of `fastconv bench` cannot say: padding that differs between two sides, and outputs
    of a transposed convolution that are larger than the filter reaches.
    """
    if forced := backends.forced():
        check_backend(forced)
    _C.note_problem_keys(True)
    try:
        with torch.inference_mode():
            call(*args)
    finally:
        _C.note_problem_keys(False)
    return [problem for key in _C.noted_problem_keys() if (problem := _written(key)) is not None]


def _written(key: list[int]) -> tuple[str, str, str, str, str] | None:
    words = _C.describe_problem_key(key)
    op, where = words["op"], (words["dtype"], words["layout"], words["backend"])
    f = {name: int(value) for name, value in words.items() if name not in ("op", "dtype", "layout", "backend")}
    if 0 in f.values() and min(f.get(extent, 1) for extent in ("N", "M", "K", "C", "batch")) == 0:
        return None
    text = str(_gemm(f) if op == "gemm" else _window(op, f))
    try:
        told = Entry(op, text, *where[:2], where[2], "", "", 0, {}).key()
    except ValueError:
        return None
    return (op, text, *where) if list(told) == key else None


def _gemm(f: Mapping[str, int]) -> GemmProblem:
    return GemmProblem(f["M"], f["K"], f["N"], f["batch"] if f["batch"] > 1 else 0)


def _window(op: str, f: Mapping[str, int]) -> WindowProblem:
    transposed = op == "conv_transpose2d"
    stride, dilation = (f["stride_h"], f["stride_w"]), (f["dilation_h"], f["dilation_w"])
    image, padding, kernel = [f["H"], f["W"]], (f["pad_top"], f["pad_left"]), (f["R"], f["S"])
    if transposed:  # told as the convolution whose input gradient it is: its output is our input
        for axis in (0, 1):
            reach = (kernel[axis] - 1) * dilation[axis] + 1
            image[axis] = (image[axis] + 2 * padding[axis] - reach) // stride[axis] + 1
    return WindowProblem(
        batch=f["N"],
        in_channels=f["K"] if transposed else f["C"],
        height=image[0],
        width=image[1],
        out_channels=f["C"] if transposed else f["K"],
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=f["groups"],
        upsample=(f["scale_h"], f["scale_w"]),
        transposed=transposed,
    )


def _tune(op: str, text: str, dtype: str, layout: str, backend: str, effort: timing.Effort) -> Entry:
    import fastconv

    check_backend(backend)
    entry = Entry(
        op, text, dtype, layout, backend, tuning.device_name(backend), fastconv.__version__,
        torch.get_num_threads() if backend == "cpu" else 0, {},
    )  # fmt: skip
    rows = introspection.explain(op, backend=backend, **entry.fields()).candidates
    names = [row.name for row in rows if not row.reasons and row.name not in ALIASES]
    workload = Workload(op, parse_problem(op, text), dtype, bias=False)
    operands = _arranged(make_operands(workload, backend), op, layout)
    calls = {name: our_call(workload, operands, name) for name in names}
    with tuning.use_tuning(None), torch.inference_mode(), forced_backend(backend):
        times = _times(calls, effort, backend)
    entry.times_us.update(sorted(times.items(), key=lambda item: item[1]))
    return entry


def _arranged(operands: Operands, op: str, layout: str) -> Operands:
    if op != "gemm":
        return in_layout(operands, layout)
    stored = {"n": lambda t: t, "t": lambda t: t.mT.contiguous().mT}
    assert operands.weight is not None
    return Operands(stored[layout[0]](operands.x), stored[layout[1]](operands.weight))


def _times(calls: Mapping[str, Callable[[], Any]], effort: timing.Effort, device: str) -> dict[str, float]:
    """Microseconds of each call, to a tenth of a percent. What refuses after all is left out."""
    first: dict[str, float] = {}
    for name, call in calls.items():
        try:
            first[name] = timing.warm_up(call, device)
        except NotImplementedError:
            continue
    least = min(first.values(), default=0.0)
    close = [name for name, seconds in first.items() if seconds <= _HOPELESS * least]
    measured = timing.interleave({name: calls[name] for name in close}, effort, device)
    seconds = {**first, **{name: measured[name].median for name in close}}
    return {name: float(f"{1e6 * time:.4g}") for name, time in seconds.items()}


def table_rows(entries: Iterable[Entry]) -> list[tuple[str, ...]]:
    """(op, problem, dtype, layout, algorithm, predicted, measured, remark) of every time, for printing."""
    lines: list[tuple[str, ...]] = []
    for entry in entries:
        with tuning.use_tuning(None):
            answer = introspection.explain(entry.op, backend=entry.backend, **entry.fields())
        predicted = {row.name: row.cost for row in answer.candidates}
        for name, time in entry.times_us.items():
            cost = predicted.get(name)
            shown = "" if cost is None else f"{1e6 * cost:.4g}"
            remark = "predicted to be fastest" if name == answer.chosen else ""
            lines.append((entry.op, entry.problem, entry.dtype, entry.layout, name, remark, shown, f"{time:.4g}"))
    return lines
