"""The registered operators: their fakes, derivatives, and the reference and Triton behind the same schemas.

`native`, `reference` and `triton` hold the default overloads. Importing this package registers everything once.
"""

from typing import Any

import torch

from . import autograd_conv, autograd_norm, autograd_other, fakes, reference_backend, triton_backend
from .autograd_other import derives_from_result
from .library import (
    NAMESPACES,
    Operators,
    native,
    not_served,
    operator_names,
    operators,
    operators_of,
    reference,
    triton,
)
from .recording import bound, function, inplace_activation

__all__ = [
    "NAMESPACES",
    "Operators",
    "derives_from_result",
    "native",
    "not_served",
    "operator_names",
    "operators",
    "operators_of",
    "recorded",
    "recorded_in_place",
    "reference",
    "triton",
]


RULES = {**autograd_conv.RULES, **autograd_other.RULES, **autograd_norm.RULES}
_functions: dict[Any, type[torch.autograd.Function]] = {}
_in_place: dict[Operators, type[torch.autograd.Function]] = {}


def recorded(operator: Any, *arguments: Any) -> Any:
    """Calls an operator of any namespace so that autograd records it, in eager mode."""
    if torch._C._are_functorch_transforms_active():
        return operator(*arguments)
    return _functions[operator].apply(*arguments)


def recorded_in_place(operators: Operators, x: Any, act: str, param: float, backend: str) -> Any:
    """activation_ on x so that autograd records it, in eager mode, where `derives_from_result(act, param)`."""
    return _in_place[operators].apply(x, act, param, backend)


def _register_autograd() -> None:
    for namespace in NAMESPACES:
        own = operators(namespace)
        for name, rule in RULES.items():
            setup, backward = rule
            torch.library.register_autograd(f"{namespace}::{name}", bound(backward, own), setup_context=setup)
            _functions[getattr(own, name)] = function(name, own, rule)
        _in_place[own] = inplace_activation(own, RULES["activation"][1])


_reference_library = reference_backend.register()
_triton_library = triton_backend.register()
fakes.register()
_register_autograd()
