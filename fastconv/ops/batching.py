"""vmap: what an operator does where some of its tensors have one axis more than it knows.

Where only the tensors that have a batch axis anyway carry the new one, the two are folded into one: the same kernel, a
larger batch. Everything else (a weight for each sample, statistics of a batch) runs sample by sample and is stacked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Dims = tuple[int | None, ...]
# Calls the operator on tensors without the new axis.
Call = Callable[..., Any]


@dataclass(frozen=True)
class Fold:
    """Positions of the arguments that have a batch axis in front, and of the size that repeats its extent."""

    tensors: tuple[int, ...]
    size: int | None = None


FOLDS: dict[str, Fold] = {
    "conv2d": Fold((0, 9)),
    "upsample_conv2d": Fold((0, 10)),
    "conv_transpose2d": Fold((0,)),
    "conv2d_input_grad": Fold((0,), size=2),
    "max_pool2d": Fold((0,)),
    "max_pool2d_backward": Fold((0, 1), size=2),
    "avg_pool2d": Fold((0,)),
    "avg_pool2d_backward": Fold((0,), size=1),
    "adaptive_avg_pool2d": Fold((0,)),
    "adaptive_avg_pool2d_backward": Fold((0,), size=1),
    "adaptive_max_pool2d": Fold((0,)),
    "adaptive_max_pool2d_backward": Fold((0, 1), size=2),
    "im2col": Fold((0,)),
    "col2im": Fold((0,)),
    "upsample_nearest2d": Fold((0,)),
    "upsample_nearest2d_backward": Fold((0,)),
    "batch_norm_act": Fold((0, 7)),
    "activation": Fold((0,)),
    "activation_backward": Fold((0, 1)),
}


def batched(name: str, call: Call, extent: int, dims: Dims, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    """The results of `extent` calls at once, and the axis in which each result has them.

    Args:
        dims: for every argument the axis that it has more, or None.
    """
    dims = tuple(d if isinstance(a, Tensor) else None for a, d in zip(arguments, dims, strict=True))
    if name == "gemm" and (found := _product(call, extent, dims, arguments)) is not None:
        return found, 0
    if name == "softmax" and arguments[0].dim() > 1:
        x, dim, backend = arguments
        return call(x.movedim(dims[0], 0), dim if dim < 0 else dim + 1, backend), 0
    fold = FOLDS.get(name)
    if fold is not None and _can_fold(name, fold, dims, arguments):
        return _folded(fold, call, extent, dims, arguments)
    return _each(call, extent, dims, arguments)


def _can_fold(name: str, fold: Fold, dims: Dims, arguments: tuple[Any, ...]) -> bool:
    if any(d is not None for index, d in enumerate(dims) if index not in fold.tensors):
        return False
    if name.startswith("activation"):
        first = next(index for index in fold.tensors if dims[index] is not None)
        alpha = arguments[3 if name == "activation" else 4]
        own = arguments[first].dim() - 1
        # PReLU's channels are the second axis; a slope for each element, the batch included, has no place to grow.
        return own > 0 and (alpha is None or alpha.numel() == 1 or (own > 1 and alpha.dim() < own))
    return True


def _front(x: Tensor, dim: int | None, extent: int) -> Tensor:
    return x.unsqueeze(0).expand(extent, *x.shape) if dim is None else x.movedim(dim, 0)


def _folded(fold: Fold, call: Call, extent: int, dims: Dims, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    values = list(arguments)
    for index in fold.tensors:
        if values[index] is not None:
            values[index] = _front(values[index], dims[index], extent).flatten(0, 1)
    if fold.size is not None:
        first, *rest = values[fold.size]
        values[fold.size] = [first * extent, *rest]

    def unfold(y: Tensor) -> tuple[Tensor, int | None]:
        # Indices that were not asked for are an empty vector.
        return (y, None) if y.dim() == 1 else (y.unflatten(0, (extent, y.shape[0] // extent)), 0)

    results = call(*values)
    if isinstance(results, Tensor):
        return results.unflatten(0, (extent, results.shape[0] // extent)), 0
    pairs = [unfold(y) for y in results]
    return tuple(y for y, _ in pairs), tuple(d for _, d in pairs)


def _each(call: Call, extent: int, dims: Dims, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    results = []
    for index in range(extent):
        pairs = zip(arguments, dims, strict=True)
        results.append(call(*(a if d is None else a.select(d, index) for a, d in pairs)))
    if results[0] is None:  # written in place
        return None, None
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True)), (0,) * len(results[0])


def _product(call: Call, extent: int, dims: Dims, arguments: tuple[Any, ...]) -> Tensor | None:
    """Matrix products as one of more rows, or as a batch of products; None where neither holds."""
    a, b, bias, transpose_a, transpose_b, residual, act, param, alpha, *rest = arguments
    if dims[2] is not None or alpha is not None:
        return None
    shared = (act, param, alpha)
    if dims[1] is None and b.dim() == 2 and not transpose_a:
        rows = _front(a, dims[0], extent).flatten(0, 1)
        added = None if residual is None else _front(residual, dims[5], extent).flatten(0, 1)
        y = call(rows, b, bias, transpose_a, transpose_b, added, *shared, *rest)
        return y.unflatten(0, (extent, y.shape[0] // extent))
    operands = [None if t is None else _front(t, d, extent) for t, d in ((a, dims[0]), (b, dims[1]))]
    added = None if residual is None else _front(residual, dims[5], extent)
    nested = operands[0].dim() == 4  # type: ignore[union-attr]
    if nested:
        operands = [t.flatten(0, 1) for t in operands]  # type: ignore[union-attr]
        added = None if added is None else added.flatten(0, 1)
    y = call(*operands, bias, transpose_a, transpose_b, added, *shared, *rest[:-1], None)
    return y.unflatten(0, (extent, y.shape[0] // extent)) if nested else y
