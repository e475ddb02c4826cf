"""The operators of one namespace as attributes: `native.conv2d` is torch.ops.fastconv.conv2d.default.

Three namespaces have the same schemas: `fastconv`, registered in C++ (csrc/torch/registration.cpp),
`fastconv_reference`, the NumPy reference behind the same operators (reference_backend.py), and `fastconv_triton`, the
Triton kernels (triton_backend.py). Fakes and derivatives are registered for all, so that every backend differentiates
and compiles alike.
"""

from collections.abc import Iterator
from typing import Any

import torch

from fastconv import _C  # registers the operators

NATIVE, REFERENCE, TRITON = "fastconv", "fastconv_reference", "fastconv_triton"
NAMESPACES = (NATIVE, REFERENCE, TRITON)


def operator_names(namespace: str = NATIVE) -> list[str]:
    """Names of the operators registered under `namespace`."""
    prefix = namespace + "::"
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))


class Operators:
    """Default overloads by name, looked up once."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def __getattr__(self, name: str) -> Any:
        overload = getattr(getattr(torch.ops, self.namespace), name).default
        setattr(self, name, overload)  # found without __getattr__ from now on
        return overload

    @property
    def recording(self) -> "Operators":
        """These operators as autograd records them; recording.py has others."""
        return self

    def __iter__(self) -> Iterator[str]:
        return iter(operator_names(self.namespace))


native = Operators(NATIVE)
reference = Operators(REFERENCE)
triton = Operators(TRITON)


def not_served(error: Exception) -> NotImplementedError | None:
    """The refusal that a C++ exception carries: the stable ABI has no class for it, so its text has a mark."""
    _, mark, reasons = str(error).partition(_C.NOT_SERVED_MARK)
    return NotImplementedError(reasons) if mark else None


def operators(namespace: str) -> Operators:
    return {NATIVE: native, REFERENCE: reference, TRITON: triton}[namespace]


def operators_of(backend: str) -> Operators:
    """The operators that have `backend`'s kernels; "" leaves the choice to the tensors' device."""
    if backend.startswith("triton"):
        return triton
    return reference if backend == "reference" else native
