"""The registered operators: their fakes, derivatives, and the reference and Triton behind the same schemas.

`native`, `reference` and `triton` hold the default overloads. Importing this package registers everything once.
"""

from typing import Any

import torch

from . import (
    autograd_conv,
    autograd_norm,
    autograd_other,
    blocks,
    fakes,
    reference_backend,
    transforms,
    triton_backend,
)
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
from .recording import function, inplace_activation, transformable
from .transforms import transforming

__all__ = [
    "NAMESPACES",
    "Operators",
    "derives_from_result",
    "native",
    "not_served",
    "operator_names",
    "operators",
    "operators_of",
    "recorded_in_place",
    "recorder",
    "reference",
    "transforming",
    "triton",
]


RULES = {**autograd_conv.RULES, **autograd_other.RULES, **autograd_norm.RULES, **blocks.RULES}
_functions: dict[Any, type[torch.autograd.Function]] = {}
# Function.apply without its own look for transforms, three microseconds on sixteen arguments.
_applies: dict[Any, Any] = {}
_in_place: dict[Operators, type[torch.autograd.Function]] = {}


def recorder(operator: Any) -> Any:
    """An operator of any namespace as autograd, or a transform of torch.func, records it in eager mode."""
    return transformable[operator].apply if transforming() else _applies[operator]


def recorded_in_place(operators: Operators, x: Any, act: str, param: float, backend: str) -> Any:
    """activation_ on x so that autograd records it, in eager mode, where `derives_from_result(act, param)`."""
    return _in_place[operators].apply(x, act, param, backend)


_reference_library = reference_backend.register()
_triton_library = triton_backend.register()
fakes.register()
for _namespace in NAMESPACES:
    for _name, _rule in RULES.items():
        _functions[getattr(operators(_namespace), _name)] = function(_name, operators(_namespace), _rule)
    _in_place[operators(_namespace)] = inplace_activation(operators(_namespace), RULES["activation"][1])
for _operator, _function in _functions.items():
    _applies[_operator] = super(torch.autograd.Function, _function).apply  # type: ignore[misc]
_libraries = transforms.register(RULES, _functions)
