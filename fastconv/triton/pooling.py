"""Pooling and its gradients as launches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from . import tiles
from .launch import accumulate_type, is_interpreted, is_wide, launch

Ints = Sequence[int]


@dataclass(frozen=True)
class Windows:
    """What the windows are: fixed ones, or (without a kernel) ones that share the image evenly."""

    kernel: Ints = (0, 0)
    stride: Ints = (1, 1)
    padding: Ints = (0, 0)
    dilation: Ints = (1, 1)
    include_padding: bool = True
    divisor: int = 0

    @property
    def adaptive(self) -> bool:
        return not self.kernel[0]

    def arguments(self) -> tuple[int, ...]:
        return (*self.kernel, *self.stride, *self.padding, *self.dilation)

    def taps(self, image: Ints, outputs: Ints) -> list[int]:
        """The most pixels that a window holds along each axis."""
        if not self.adaptive:
            return list(self.kernel)
        # floor(i * H / P) to ceil((i + 1) * H / P): H / P, and one more at each side where P does not divide H.
        return [size // n if size % n == 0 else size // n + 2 for size, n in zip(image, outputs, strict=True)]

    def holders(self, image: Ints, outputs: Ints) -> list[int]:
        """The most windows that hold a pixel along each axis."""
        if self.adaptive:
            return [tiles.ceil_div(n, size) + 1 for size, n in zip(image, outputs, strict=True)]
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        return [tiles.ceil_div(length, step) for length, step in zip(reach, self.stride, strict=True)]

    def reach(self, image: Ints, outputs: Ints) -> int:
        """The largest coordinate, or product of coordinates, that a kernel makes."""
        if self.adaptive:
            return max((size + 1) * (n + 1) for size, n in zip(image, outputs, strict=True))
        return max(
            n * self.stride[i] + self.padding[i] + self.kernel[i] * self.dilation[i] for i, n in enumerate(outputs)
        )


def pool(x: Tensor, y: Tensor, indices: Tensor | None, windows: Windows, *, largest: bool) -> None:
    """The largest pixel of each window with its index, or the mean."""
    image, outputs = x.shape[2:], y.shape[2:]
    taps = windows.taps(image, outputs) if y.numel() else [1, 1]
    _launch(
        "pool", y, (x, y, indices), (*outputs, *image), windows, (x, y), taps,
        windows.reach(image, outputs), largest,
    )  # fmt: skip


def pool_backward(dy: Tensor, indices: Tensor | None, dx: Tensor, windows: Windows) -> None:
    """dx, with the indices of max pooling or without for the mean."""
    outputs, image = dy.shape[2:], dx.shape[2:]
    chosen = dy if indices is None else indices
    holders = windows.holders(image, outputs) if dx.numel() else [1, 1]
    _launch(
        "pool_backward", dx, (dy, indices, dx), (*image, *outputs), windows, (dy, chosen, dx), holders,
        windows.reach(image, outputs), indices is not None,
    )  # fmt: skip


def _launch(
    name: str, over: Tensor, tensors: tuple[Tensor | None, ...], extents: tuple[int, ...], windows: Windows,
    strided: tuple[Tensor, ...], taps: Ints, reach: int, largest: bool,
) -> None:  # fmt: skip
    batch, channels, height, width = over.shape
    rows = batch * height * width
    last = over.stride(1) == 1 and channels > 1
    block_m, block_n = tiles.pixel_tile(rows, channels, last, is_interpreted(over))
    grid = tiles.ceil_div(rows, block_m) * tiles.ceil_div(channels, block_n)
    strides = tuple(step for t in strided for step in t.stride())
    constants: dict[str, Any] = {
        "MAX": largest,
        "DIVISOR": 0 if largest else windows.divisor,
        "INCLUDE": windows.include_padding,
        "ADAPTIVE": windows.adaptive,
        "ACC": accumulate_type(over.dtype),
        "R": taps[0],
        "S": taps[1],
        "WIDE": is_wide(*strided, reach=max(reach, rows)),
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
    }
    launch("pool", name, (grid,), over, *tensors, rows, channels, *extents, *windows.arguments(), *strides, **constants)
