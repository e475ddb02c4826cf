"""Activations, softmax and their gradients as launches."""

from __future__ import annotations

from torch import Tensor

from . import axes, tiles
from .launch import accumulate_type, is_interpreted, is_wide, launch


def _spread(alpha: Tensor | None, x: Tensor) -> Tensor | None:
    """PReLU's slopes over x's shape, without a copy. A 1-D x has one channel."""
    if alpha is None:
        return None
    if alpha.numel() == 1:
        return alpha.reshape(()).expand(x.shape)
    if alpha.dim() == 1:
        alpha = alpha.reshape(-1, *([1] * (x.dim() - 2)))
    return alpha.expand(x.shape)


def activation(x: Tensor, y: Tensor, act: str, param: float, alpha: Tensor | None) -> None:
    """y = act(x); y may be x."""
    slopes = _spread(alpha, x) if act == "prelu" else None
    tensors = [x, y] if slopes is None else [x, y, slopes]
    found = axes.merged_tensors(*tensors)
    if found is None:  # more than four axes that do not merge: through memory in order
        copy = x.contiguous()
        activation(copy, copy, act, param, None if slopes is None else slopes.contiguous())
        y.copy_(copy)
        return
    block = _block(x)
    launch(
        "elementwise", "activation", (tiles.ceil_div(x.numel(), block),), x, x, y, slopes, x.numel(),
        *_geometry(found, len(tensors), 3), ACT=act, PARAM=param, ACC=accumulate_type(x.dtype), AXES=len(found[0]),
        WIDE=is_wide(*tensors), BLOCK=block,
    )  # fmt: skip


def activation_backward(
    dy: Tensor, x: Tensor, dx: Tensor, act: str, param: float, alpha: Tensor | None, order: int
) -> None:
    """dx = dy * act'(x), act''(x) for order 2."""
    slopes = _spread(alpha, x) if act == "prelu" else None
    tensors = [dx, dy, x] if slopes is None else [dx, dy, x, slopes]
    found = axes.merged_tensors(*tensors)
    if found is None:
        tensors = [t.contiguous() for t in tensors[1:]]
        whole = tensors[0].new_empty(tensors[0].shape)
        activation_backward(tensors[0], tensors[1], whole, act, param, tensors[2] if len(tensors) > 2 else None, order)
        dx.copy_(whole)
        return
    sizes, (of_dx, *others) = found
    block = _block(x)
    launch(
        "elementwise", "activation_backward", (tiles.ceil_div(x.numel(), block),), x, dy, x, dx, slopes, x.numel(),
        *_geometry((sizes, [*others[:2], of_dx, *others[2:]]), len(tensors), 4), ORDER=order, ACT=act, PARAM=param,
        ACC=accumulate_type(x.dtype), AXES=len(sizes), WIDE=is_wide(*tensors), BLOCK=block,
    )  # fmt: skip


def _block(x: Tensor) -> int:
    return tiles.INTERPRETED_ELEMENTS if is_interpreted(x) else tiles.GPU_ELEMENTS


def _geometry(found: tuple[tuple[int, ...], axes.Strides], there: int, wanted: int) -> tuple[int, ...]:
    """Extents of the last three axes, and four strides for each of `wanted` tensors, of which `there` exist."""
    sizes, strides = found
    rows = [axes.padded(s, 0) for s in strides] + [(0,) * axes.MOST_AXES] * (wanted - there)
    return (*axes.padded(sizes, 1)[1:], *(value for row in rows for value in row))


def _lines(x: Tensor, dim: int) -> tuple[int, int, int]:
    """(lines, extent, inner) along `dim` of a contiguous tensor; a scalar is a line of one."""
    if x.dim() == 0:
        return 1, 1, 1
    dim %= x.dim()
    extent, inner = x.shape[dim], x[(0,) * (dim + 1)].numel() if x.numel() else 1
    return x.numel() // max(extent, 1), extent, inner


def _tile(x: Tensor, lines: int, extent: int, inner: int) -> tuple[int, int]:
    """(lines, elements) a program holds at once: along memory, whichever of the two that is."""
    elements = _block(x)
    along = tiles.clamped(extent, 1, elements if inner == 1 else 32)
    return tiles.clamped(lines, 1, elements // along), along


def softmax(x: Tensor, y: Tensor, dim: int) -> None:
    """y is contiguous."""
    x = x.contiguous()
    lines, extent, inner = _lines(x, dim)
    block_m, block_n = _tile(x, lines, extent, inner)
    launch(
        "softmax", "softmax", (tiles.ceil_div(lines, block_m),), x, x, y, lines, extent, inner,
        ACC=accumulate_type(x.dtype), WIDE=is_wide(x), BLOCK_M=block_m, BLOCK_N=block_n,
    )  # fmt: skip


def softmax_backward(dy: Tensor, y: Tensor, dx: Tensor, dim: int) -> None:
    """dx is contiguous."""
    dy, y = dy.contiguous(), y.contiguous()
    lines, extent, inner = _lines(y, dim)
    block_m, block_n = _tile(y, lines, extent, inner)
    launch(
        "softmax", "softmax_backward", (tiles.ceil_div(lines, block_m),), y, dy, y, dx, lines, extent, inner,
        ACC=accumulate_type(y.dtype), WIDE=is_wide(y), BLOCK_M=block_m, BLOCK_N=block_n,
    )  # fmt: skip
