"""Matrix products as launches."""

from __future__ import annotations

from torch import Tensor

from . import tiles
from .algorithms import Problem, select
from .epilogue import Epilogue
from .launch import accumulate_type, is_interpreted, is_wide, launch, precision


def gemm(a: Tensor, b: Tensor, y: Tensor, transpose_a: bool, transpose_b: bool, epilogue: Epilogue, algo: str) -> None:
    """Into y, of (M, N) or (B, M, N)."""
    select("gemm", Problem(), algo)
    a, b = (t.transpose(-1, -2) if turn else t for t, turn in ((a, transpose_a), (b, transpose_b)))
    if y.dim() == 2:
        a, b, y = a.unsqueeze(0), b.unsqueeze(0), y.unsqueeze(0)
        epilogue = epilogue.unsqueezed()
    batch, rows, columns = y.shape
    inner = a.shape[2]
    tile = tiles.product_tile(batch * rows, columns, inner, a.dtype, is_interpreted(a))
    grid = batch * tiles.ceil_div(rows, tile.m) * tiles.ceil_div(columns, tile.n)
    launch(
        "gemm", "gemm", (grid,), a, a, b, y, epilogue.bias, epilogue.residual, epilogue.alpha, rows, columns, inner,
        *a.stride(), *b.stride(), *y.stride(), *epilogue.strides(y), **epilogue.constants(),
        ACC=accumulate_type(a.dtype), PRECISION=precision(a, convolution=False),
        WIDE=is_wide(a, b, y, epilogue.residual), **tile.constants(),
    )  # fmt: skip
