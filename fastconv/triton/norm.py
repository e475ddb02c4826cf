"""BatchNorm with residual and activation as launches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import tiles
from .epilogue import Epilogue
from .launch import accumulate_type, is_interpreted, is_wide, launch
from .reductions import sum_axes

_OVER = (0, 2, 3)


def stats(x: Tensor, mean: Tensor, var: Tensor) -> None:
    """Mean and variance (divisor N*H*W) of each channel, the deviations squared about the mean."""
    count = x.numel() // max(x.shape[1], 1)
    sum_axes(x, _OVER, mean, divide_by=count)
    sum_axes(x, _OVER, var, factor=mean.view(1, -1, 1, 1).expand(x.shape), kind="square", divide_by=count)


def _vector(v: Tensor | None) -> Tensor | None:
    return None if v is None else v.contiguous()


def _geometry(y: Tensor, *tensors: Tensor | None) -> tuple[int, tuple[int, ...], dict[str, Any]]:
    """Programs, extents, and what every kernel here is specialised for."""
    batch, channels, height, width = y.shape
    rows = batch * height * width
    block_m, block_n = tiles.pixel_tile(rows, channels, y.stride(1) == 1 and channels > 1, is_interpreted(y))
    constants = {
        "ACC": accumulate_type(y.dtype),
        "WIDE": is_wide(y, *tensors),
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
    }
    programs = tiles.ceil_div(rows, block_m) * tiles.ceil_div(channels, block_n)
    return programs, (rows, channels, height, width), constants


def norm_act(
    x: Tensor, y: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float,
    epilogue: Epilogue,
) -> None:  # fmt: skip
    programs, extents, constants = _geometry(y, x, epilogue.residual, epilogue.alpha)
    launch(
        "norm", "norm_act", (programs,), x, x, y, _vector(mean), _vector(var), _vector(weight), _vector(bias),
        epilogue.residual, epilogue.alpha, *extents, *x.stride(), *y.stride(), *epilogue.strides(y),
        EPS=eps, **epilogue.constants(), **constants,
    )  # fmt: skip


def norm_act_backward(
    out: tuple[Tensor, Tensor, Tensor, Tensor], dy: Tensor, x: Tensor, mean: Tensor, var: Tensor,
    weight: Tensor | None, bias: Tensor | None, training: bool, eps: float, epilogue: Epilogue,
) -> None:  # fmt: skip
    """out is dx, dweight, dbias, dresidual (of no elements without a residual)."""
    dx, dweight, dbias, dresidual = out
    wide_type = torch.float64 if x.dtype is torch.float64 else torch.float32
    # As dx lies in memory, with room for a sum's type: one pass makes both, two sums and one pass read them.
    dz, normals = (torch.empty_like(dx, dtype=wide_type) for _ in range(2))
    programs, extents, constants = _geometry(dx, dy, x, epilogue.residual, epilogue.alpha)
    var, weight = var.contiguous(), _vector(weight)
    launch(
        "norm", "norm_gradient", (programs,), x, dy, x, dz, normals, dresidual if dresidual.numel() else None,
        _vector(mean), var, weight, _vector(bias), epilogue.residual, epilogue.alpha, *extents, *dy.stride(),
        *x.stride(), *dx.stride(), *epilogue.strides(dx), EPS=eps, **epilogue.constants(), **constants,
    )  # fmt: skip
    sum_axes(dz, _OVER, dbias)
    sum_axes(dz, _OVER, dweight, factor=normals, kind="product")
    pixels = x.numel() // max(x.shape[1], 1)
    launch(
        "norm", "norm_input_grad", (programs,), x, dz, normals, dx, var, weight, dweight, dbias, *extents, pixels,
        *dx.stride(), EPS=eps, TRAINING=training, **constants,
    )  # fmt: skip
