"""What the tests of fastconv.convert share: comparing with the model in float64, and looking at what ran."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


def served(converted: nn.Module) -> list[Any]:
    """The specs that the last call ran, in order."""
    functions = vars(converted.region.last.functions).values()
    return [function.spec for function in functions if hasattr(function, "spec")]


def assert_like(model: nn.Module, converted: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Within twice torch's own float32 error of the float64 model, same structure, dtype and strides."""
    with torch.no_grad():
        ours = converted(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        theirs = model(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        wide_args, wide_kwargs = pytree.tree_map(
            lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf,
            (args, kwargs),
        )
        exact = copy.deepcopy(model).double()(*copy.deepcopy(wide_args), **copy.deepcopy(wide_kwargs))
    ours_leaves, ours_spec = pytree.tree_flatten(ours)
    theirs_leaves, theirs_spec = pytree.tree_flatten(theirs)
    assert ours_spec == theirs_spec
    for y, t, e in zip(ours_leaves, theirs_leaves, pytree.tree_leaves(exact), strict=True):
        if not isinstance(t, Tensor):
            assert y == t
            continue
        assert (y.dtype, y.shape, y.stride()) == (t.dtype, t.shape, t.stride())
        limit = 2 * (t.double() - e).abs().max() + 1e-6 * e.abs().max()
        assert (y.double() - e).abs().max() <= limit


def assert_close(model: nn.Module, converted: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(converted(x), model(x), atol=1e-5, rtol=1e-5)
