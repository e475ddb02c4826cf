"""The registered operators: their fakes, derivatives, and the reference behind the same schemas.

`native` and `reference` hold the default overloads. Importing this package registers everything once.
"""

from collections.abc import Callable
from typing import Any

import torch

from fastconv import _C  # noqa: F401  registers the operators

from . import autograd_conv, autograd_other, fakes, reference_backend
from .library import NAMESPACES, Operators, native, operator_names, operators, reference

__all__ = ["NAMESPACES", "Operators", "native", "operator_names", "operators", "reference"]


def _bound(backward: Callable[..., Any], ops: Operators) -> Callable[..., Any]:
    """`backward` for one namespace, as register_autograd wants it."""
    return lambda ctx, *gradients: backward(ops, ctx, *gradients)


def _register_autograd() -> None:
    for namespace in NAMESPACES:
        for name, (setup, backward) in {**autograd_conv.RULES, **autograd_other.RULES}.items():
            torch.library.register_autograd(
                f"{namespace}::{name}", _bound(backward, operators(namespace)), setup_context=setup
            )


_reference_library = reference_backend.register()
fakes.register()
_register_autograd()
