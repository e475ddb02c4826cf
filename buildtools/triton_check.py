"""Compiles the Triton kernels for NVIDIA GPUs without having one, and shows registers, stack and shared memory.

    python -m buildtools.triton_check [--arch 80 90]

Each operator is called on tensors without memory, in every dtype and layout; what it would launch is compiled instead,
with the specialisation that Triton's launcher would choose. Fails where a kernel does not compile, or has a
stack: registers are spilled to it. In float64 a division keeps a frame there too, so those do not count.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ARCHITECTURES = (80, 90)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_POINTERS = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
}
_OPTIONS = ("num_warps", "num_stages")


@dataclass(frozen=True)
class Launch:
    """One kernel with its arguments as Triton's launcher would see them."""

    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    divisible: tuple[int, ...]  # arguments that are multiples of 16
    options: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel takes of a multiprocessor."""

    kernel: str
    arch: int
    dtype: str
    registers: int
    stack: int  # bytes a thread
    shared: int

    @property
    def spills(self) -> bool:
        return self.stack > 0 and self.dtype != "float64"


def describe(kernel: Any, arguments: tuple[Any, ...], constants: dict[str, Any]) -> Launch:
    """Signature and specialisation: None and 1 are constants, multiples of 16 are told to the compiler."""
    values = dict(zip(kernel.arg_names, arguments, strict=False))
    options = {name: value for name, value in constants.items() if name in _OPTIONS}
    values |= {name: value for name, value in constants.items() if name not in _OPTIONS}
    signature, fixed, divisible = [], [], []
    for position, name in enumerate(kernel.arg_names):
        value = values[name]
        if isinstance(value, torch.Tensor):
            signature.append((name, _POINTERS[value.dtype]))
            if value.storage_offset() * value.element_size() % 16 == 0:
                divisible.append(position)
        elif name in constants or value is None or value == 1:
            signature.append((name, "constexpr"))
            fixed.append((name, value))
        else:
            signature.append((name, "i32" if -(1 << 31) <= value < 1 << 31 else "i64"))
            if value % 16 == 0:
                divisible.append(position)
    return Launch(kernel, tuple(signature), tuple(fixed), tuple(divisible), tuple(options.items()))


def compile_launch(launch: Launch, arch: int) -> Any:
    """The compiled kernel for compute capability `arch`."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fastconv.triton.launch import COMPILER_OPTIONS

    attributes = {(position,): [["tt.divisibility", 16]] for position in launch.divisible}
    source = ASTSource(launch.kernel, dict(launch.signature), dict(launch.constants), attributes)
    options = {**COMPILER_OPTIONS, **dict(launch.options)}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def usage(compiled: Any, name: str, arch: int, dtype: torch.dtype) -> Usage:
    """Registers, stack and shared memory, read from the binary by the cuobjdump that Triton brings."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.search(rf"{word}:(\d+)", text).group(1)) for word in ("REG", "STACK"))  # type: ignore[union-attr]
    return Usage(name, arch, str(dtype).removeprefix("torch."), registers, stack, compiled.metadata.shared)


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Collects what the operators would launch on a GPU."""
    from fastconv.triton import launch

    found: list[Launch] = []
    launch.recorder = lambda *what: found.append(describe(*what))
    try:
        yield found
    finally:
        launch.recorder = None


def calls(dtype: torch.dtype, last: bool) -> dict[str, Callable[[], Any]]:
    """Every operator on tensors of a usual network, by name."""
    from fastconv.ops.fakes import FAKES
    from fastconv.triton.operators import IMPLEMENTATIONS

    def t(*shape: int, of: torch.dtype = dtype) -> torch.Tensor:
        layout = torch.channels_last if last and len(shape) == 4 else torch.contiguous_format
        return torch.empty(shape, dtype=of, device="meta", memory_format=layout)

    def op(name: str, *arguments: Any) -> Callable[[], Any]:
        return lambda: IMPLEMENTATIONS[name](FAKES[name](*arguments), *arguments)

    plain = (None, None, None, "identity", 0.0, None)
    fused = (t(64), t(64), t(2, 64, 56, 56), "relu", 0.0, None)
    full = (None, None, t(2, 64, 56, 56), "prelu", 0.0, t(64, 56, 56))
    window, pool = ([1, 1], [1, 1, 1, 1], [1, 1]), ([3, 3], [2, 2], [1, 1])
    x, w, y, image = t(2, 64, 56, 56), t(64, 64, 3, 3), t(2, 64, 56, 56), t(2, 3, 112, 112)
    few, deep = t(64, 1, 3, 3), t(2, 64, 28, 28)
    i64 = torch.int64
    found = {
        "conv2d": op("conv2d", x, w, t(64), *window, 1, *fused, "", "", None),
        "conv2d_full": op("conv2d", x, w, t(64), *window, 1, *full, "", "", None),
        "conv2d_stem": op("conv2d", image, t(64, 3, 7, 7), None, [2, 2], [3] * 4, [1, 1], 1, *plain, "", "", None),
        "conv2d_grouped": op("conv2d", x, t(64, 8, 3, 3), None, *window, 8, *plain, "", "", None),
        "conv2d_depthwise": op("conv2d", x, few, t(64), *window, 64, *fused, "", "", None),
        "upsample_phase": op("upsample_conv2d", deep, w, t(64), [2, 2], *window, 1, *fused, "phase", "", None),
        "upsample_gather": op("upsample_conv2d", deep, w, t(64), [2, 2], *window, 1, *fused, "gather", "", None),
        "transpose": op("conv_transpose2d", deep, w, t(64), [2, 2], [1, 1], [0, 0], 1, [1, 1], "", "", None),
        "input_grad": op("conv2d_input_grad", deep, w, [2, 64, 56, 56], [2, 2], [1, 1, 1, 1], [1, 1], 1, "", ""),
        "input_grad_depthwise": op("conv2d_input_grad", y, few, [2, 64, 56, 56], *window, 64, "", ""),
        "weight_grad": op("conv2d_weight_grad", y, x, [64, 64, 3, 3], *window, 1, "", ""),
        "weight_grad_depthwise": op("conv2d_weight_grad", y, x, [64, 1, 3, 3], *window, 64, "", ""),
        "gemm": op("gemm", t(1024, 1024), t(1024, 1024), t(1024), False, True, None, "relu", 0.0, None, "", "", None),
        "gemm_batched": op(
            "gemm", t(4, 100, 70), t(4, 90, 70), None, False, True, t(4, 100, 90), "prelu", 0.0, t(90), "", "", None
        ),
        "max_pool2d": op("max_pool2d", x, *pool, [1, 1], False, True, ""),
        "max_pool2d_backward": op(
            "max_pool2d_backward", deep, t(2, 64, 28, 28, of=i64), [2, 64, 56, 56], *pool, [1, 1], False, ""
        ),
        "avg_pool2d": op("avg_pool2d", x, *pool, False, True, 0, ""),
        "avg_pool2d_backward": op("avg_pool2d_backward", deep, [2, 64, 56, 56], *pool, False, True, 0, ""),
        "adaptive_avg_pool2d": op("adaptive_avg_pool2d", x, [7, 7], ""),
        "adaptive_avg_pool2d_backward": op("adaptive_avg_pool2d_backward", t(2, 64, 5, 5), [2, 64, 56, 56], ""),
        "adaptive_max_pool2d": op("adaptive_max_pool2d", x, [5, 5], True, ""),
        "norm_stats": op("batch_norm_stats", x, ""),
        "norm_act": op("batch_norm_act", x, t(64), t(64), t(64), t(64), True, 1e-5, y, "relu", 0.0, None, ""),
        "norm_backward": op(
            "batch_norm_act_backward", y, x, t(64), t(64), t(64), t(64), True, 1e-5, y, "relu", 0.0, None, ""
        ),
        "softmax": op("softmax", t(64, 1000), 1, ""),
        "softmax_backward": op("softmax_backward", t(64, 1000), t(64, 1000), 1, ""),
        "channel_sum": op("channel_sum", y, ""),
        "prelu_alpha_grad": op("prelu_alpha_grad", y, x, [64], ""),
        "im2col": op("im2col", x, *pool, [1, 1], ""),
        "col2im": op("col2im", t(2, 576, 784), [56, 56], *pool, [1, 1], ""),
        "upsample_nearest2d": op("upsample_nearest2d", x, [2, 2], ""),
        "upsample_nearest2d_backward": op("upsample_nearest2d_backward", x, [2, 2], ""),
    }  # fmt: skip
    for act in ("relu6", "leaky_relu", "prelu", "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "gelu", "elu"):
        alpha = t(64) if act == "prelu" else None
        found[f"activation_{act}"] = op("activation", x, act, 0.01, alpha, "")
        for order in (1, 2):
            found[f"derivative_{act}_{order}"] = op("activation_backward", y, x, act, 0.01, alpha, order, "")
    return found


def check(dtype: torch.dtype, last: bool, arch: int, only: str = "") -> Iterator[Usage]:
    """Compiles every operator's kernels for one dtype, layout and architecture."""
    seen: set[str] = set()
    with recorded() as launches:
        for name, call in calls(dtype, last).items():
            if only and only not in name:
                continue
            launches.clear()
            call()
            for launch in launches:
                key = repr((launch.kernel.__name__, launch.signature, launch.constants, launch.divisible))
                if key not in seen:
                    seen.add(key)
                    label = f"{launch.kernel.__name__} ({name})"
                    yield usage(compile_launch(launch, arch), label, arch, dtype)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--only", default="", help="operators whose name contains this")
    arguments = parser.parse_args()
    spilled = 0
    print(f"{'kernel (operator)':56} {'arch':>4} {'dtype':>9} {'registers':>9} {'stack B':>7} {'shared B':>8}")
    for arch in arguments.arch:
        for dtype in DTYPES:
            for last in (False, True):
                for u in check(dtype, last, arch, arguments.only):
                    name = u.kernel + (" nhwc" if last else "")
                    print(f"{name:56} {u.arch:4} {u.dtype:>9} {u.registers:9} {u.stack:7} {u.shared:8}", flush=True)
                    spilled += u.spills
    print(f"{spilled} kernels spill")
    return 1 if spilled else 0


if __name__ == "__main__":
    sys.exit(main())
