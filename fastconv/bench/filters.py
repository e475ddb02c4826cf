"""`--suite filters`: large filters, beside what scientists filter images with: scipy and numpy's FFT."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from fastconv.bench import peers, timing
from fastconv.bench.operations import OneCall, Operands, Workload, check, make_operands, our_call, torch_call
from fastconv.bench.problem import WindowProblem, parse_problem
from fastconv.bench.results import Row
from fastconv.bench.runner import Contender, Settings, _row, _verify, compare, fill_times, finish, forced_backend
from fastconv.bench.truth import Truth

# The first is the benchmark of L. Perrinet, "The fastest 2D convolution in the world" (2017): 'same' images.
_PROBLEMS = {
    "16x16, 1 to 3, 2 x 1024x1024": "mb2ic1ih1024oc3oh1025kh16ph8",
    "31x31 depthwise, 64 at 56x56": "g64mb1ic64ih56oc64kh31ph15",
    "31x31 depthwise, 384 at 14x14": "g384mb1ic384ih14oc384kh31ph15",
}
_OURS = (None, "fft", "depthwise")


def problems(quick: bool = False) -> list[Workload]:
    """The suite's convolutions, without bias or activation."""
    quick_ones = {"16x16, 1 to 3, 128x128": "mb1ic1ih128oc3oh129kh16ph8"}
    texts = quick_ones if quick else _PROBLEMS
    return [
        Workload("conv2d", parse_problem("conv2d", text), bias=False, name=name, group="large filters")
        for name, text in texts.items()
    ]


def measure_filter(workload: Workload, settings: Settings) -> list[Row]:
    """All rows of one problem: torch, other engines and libraries, then our algorithms, all checked, in turns."""
    check(workload)
    base = make_operands(workload)
    truth = Truth.of(workload, base)
    contenders = list(_contenders(workload, base, settings))
    # Seconds a call, for some: few rounds of them.
    effort = replace(settings.turns, max_rounds=min(settings.effort.max_rounds, 15))
    with torch.inference_mode(), forced_backend(settings.backend):
        runnable = [contender for contender in contenders if _verify(contender, truth)]
        timings = timing.interleave({str(i): c.call for i, c in enumerate(runnable)}, effort)
        for contender, measured in zip(runnable, timings.values(), strict=True):
            fill_times(contender.row, measured)
        compare([contender.row for contender in runnable], list(timings.values()))
    rows = [contender.row for contender in contenders]
    finish(rows, workload.flops(), workload.bytes(), settings)
    return rows


def _contenders(workload: Workload, base: Operands, settings: Settings) -> Iterator[Contender]:
    yield Contender(_row(workload, "nchw", "torch", "eager"), torch_call(workload, base))
    with tempfile.TemporaryDirectory() as folder:
        for name in settings.peers:
            if name != "torch":
                call = peers.prepare(name, OneCall(workload, base), base.x, workload.dtype, Path(folder) / "layer.onnx")
                yield Contender(_row(workload, "nchw", name, "one layer"), call)
    for name, call in _libraries(workload, base).items():
        yield Contender(_row(workload, "nchw", name, "one plane at a time"), call)
    for algo in _OURS:
        yield Contender(_row(workload, "nchw", settings.backend, algo or "auto"), our_call(workload, base, algo))


def _libraries(workload: Workload, base: Operands) -> dict[str, Callable[[], torch.Tensor]]:
    """Functions of two-dimensional arrays, called for each image and filter; correlation, as torch's convolution is."""
    problem = workload.problem
    assert base.weight is not None and isinstance(problem, WindowProblem)
    x, w = base.x.numpy(), base.weight.numpy()
    pad = [(side, side) for side in problem.padding]
    padded = np.pad(x, [(0, 0), (0, 0), *pad])
    multiplier = w.shape[0] // x.shape[1]

    def planes(filtered: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[], torch.Tensor]:
        def call() -> torch.Tensor:
            images = [
                np.stack([filtered(image[k // multiplier], w[k, 0]) for k in range(w.shape[0])]) for image in padded
            ]
            return torch.from_numpy(np.ascontiguousarray(np.stack(images)))

        return call

    def numpy_fft(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        spectrum = np.fft.rfft2(image) * np.conj(np.fft.rfft2(kernel, image.shape))
        rows, columns = (image.shape[axis] - kernel.shape[axis] + 1 for axis in (0, 1))
        return np.fft.irfft2(spectrum, image.shape)[:rows, :columns].astype(np.float32)

    libraries = {"numpy fft": planes(numpy_fft)}
    if find_spec("scipy") is not None:
        from scipy import ndimage, signal

        def fftconvolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
            return signal.fftconvolve(image, kernel[::-1, ::-1], mode="valid")

        def correlate(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
            rows, columns = kernel.shape
            whole = ndimage.correlate(image, kernel, mode="constant")
            top, left = rows // 2, columns // 2
            return whole[top : top + image.shape[0] - rows + 1, left : left + image.shape[1] - columns + 1]

        libraries["scipy fftconvolve"] = planes(fftconvolve)
        libraries["scipy ndimage"] = planes(correlate)
    return libraries
