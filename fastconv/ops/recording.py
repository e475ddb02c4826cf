"""The operators as eager mode records them: one torch.autograd.Function each, over the rules that are registered too.

They serve direct calls of the operators and captured graphs too (transforms.py registers them): the wrapper of
torch.library.register_autograd takes about 70 microseconds a call, several times what a small layer needs, and loses
forward-mode tangents without a word. torch.func's transforms have Functions of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from .library import Operators, not_served

Rule = tuple[Callable[..., None], Callable[..., Any]]
_below_autograd = torch._C._AutoDispatchBelowAutograd


class _Unrecorded:
    """A namespace's operators for a backward pass that nobody differentiates: autograd is skipped."""

    def __init__(self, operators: Operators) -> None:
        self._operators = self.recording = operators

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operator = getattr(self._operators, name)

        def call(*arguments: Any) -> Any:
            with _below_autograd():
                return operator(*arguments)

        setattr(self, name, call)
        return call


@cache
def _unrecorded(operators: Operators) -> Any:
    return _Unrecorded(operators)


# The Functions that torch.func's transforms see, by operator: transforms.py makes them.
transformable: dict[Any, type[torch.autograd.Function]] = {}
transforms_active = torch._C._are_functorch_transforms_active


class _Transformed:
    """A namespace's operators as torch.func's transforms see them."""

    def __init__(self, operators: Operators) -> None:
        self._operators = operators
        self.recording = self

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operator = getattr(self._operators, name)

        def call(*arguments: Any) -> Any:
            return transformable[operator].apply(*arguments)

        setattr(self, name, call)
        return call


@cache
def transformed(operators: Operators) -> Any:
    return _Transformed(operators)


def bound(backward: Callable[..., Any], operators: Operators) -> Callable[..., Any]:
    """A rule's `backward` for one namespace, refusals translated."""

    def run(ctx: Any, *gradients: Any) -> Any:
        if transforms_active():  # several gradients at once, by vmap
            seen = transformed(operators)
        else:
            # Gradients are recorded themselves under create_graph=True.
            seen = operators if torch.is_grad_enabled() else _unrecorded(operators)
        try:
            return backward(seen, ctx, *gradients)
        except RuntimeError as error:
            if (refusal := not_served(error)) is None:
                raise
            raise refusal from None

    return run


def function(name: str, operators: Operators, rule: Rule) -> type[torch.autograd.Function]:
    """The Function of one operator. Its arguments are the operator's."""
    setup, backward = rule
    operator = getattr(operators, name)

    def forward(ctx: Any, *arguments: Any) -> Any:
        with _below_autograd():
            output = operator(*arguments)
        setup(ctx, arguments, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(bound(backward, operators))}
    return type(f"{operators.namespace}_{name}", (torch.autograd.Function,), methods)


def inplace_activation(operators: Operators, backward: Callable[..., Any]) -> type[torch.autograd.Function]:
    """x = act(x) for the activations whose derivative their result tells; `backward` is that of `activation`."""

    def forward(ctx: Any, x: torch.Tensor, act: str, param: float, backend: str) -> torch.Tensor:
        with _below_autograd():
            operators.activation_(x, act, param, None, backend)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x, None)
        ctx.act, ctx.param, ctx.backend = act, param, backend
        return x

    def backward_of_x(ctx: Any, dy: torch.Tensor) -> Any:
        return run(ctx, dy)[0], None, None, None

    run = bound(backward, operators)
    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward_of_x)}
    return type(f"{operators.namespace}_activation_", (torch.autograd.Function,), methods)
