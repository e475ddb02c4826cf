"""The registered operators: their fakes, derivatives, and the reference behind the same schemas.

`native` and `reference` hold the default overloads. Importing this package registers everything once.
"""

from collections.abc import Callable
from typing import Any

import torch

from . import autograd_conv, autograd_other, fakes, reference_backend
from .library import NAMESPACES, Operators, native, not_served, operator_names, operators, reference

__all__ = ["NAMESPACES", "Operators", "native", "not_served", "operator_names", "operators", "reference"]


def _bound(backward: Callable[..., Any], ops: Operators) -> Callable[..., Any]:
    """`backward` for one namespace, as register_autograd wants it."""

    def run(ctx: Any, *gradients: Any) -> Any:
        try:
            return backward(ops, ctx, *gradients)
        except RuntimeError as error:
            if (refusal := not_served(error)) is None:
                raise
            raise refusal from None

    return run


def _register_autograd() -> None:
    for namespace in NAMESPACES:
        for name, (setup, backward) in {**autograd_conv.RULES, **autograd_other.RULES}.items():
            torch.library.register_autograd(
                f"{namespace}::{name}", _bound(backward, operators(namespace)), setup_context=setup
            )


_reference_library = reference_backend.register()
fakes.register()
_register_autograd()
