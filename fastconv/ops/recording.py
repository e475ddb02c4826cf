"""The operators as eager mode records them: one torch.autograd.Function each, over the rules that are registered too.

torch.library's own wrapper takes about 70 microseconds a call, several times what a small layer needs; it serves
captured graphs, function transforms and second derivatives, where its generality is needed.
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


def bound(backward: Callable[..., Any], operators: Operators) -> Callable[..., Any]:
    """A rule's `backward` for one namespace, refusals translated."""

    def run(ctx: Any, *gradients: Any) -> Any:
        recorded = torch.is_grad_enabled()  # by create_graph=True
        try:
            return backward(operators if recorded else _unrecorded(operators), ctx, *gradients)
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
