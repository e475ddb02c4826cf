"""The namespace fastconv_triton: the operators' schemas with the Triton kernels of fastconv/triton behind them.

Shapes and strides of results are those of the fakes, as for every other backend. A CUDA tensor runs compiled, a CPU
tensor in Triton's interpreter; `backend` only says whether a CPU tensor is meant to be here.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import blocks, fakes
from .library import NATIVE, TRITON, native, operator_names, triton


def _kernel(name: str) -> Callable[..., Any]:
    fake = fakes.checked(name)

    def run(*arguments: Any) -> Any:
        # Not before the first call: importing Triton takes a second, and it need not be there.
        from fastconv.triton.operators import IMPLEMENTATIONS, check

        if name in blocks.NAMES:
            fake(*arguments)  # checks
            return blocks.parts(name, triton, arguments, _backend(name, arguments))
        if name not in IMPLEMENTATIONS:
            raise NotImplementedError(f"{name}: triton: no kernel for {name}")
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        check(name, tensors, _backend(name, arguments))
        y = fake(*arguments)
        IMPLEMENTATIONS[name](y, *arguments)
        return y

    return run


def _backend(name: str, arguments: tuple[Any, ...]) -> str:
    """The argument `backend`: the last string of every schema."""
    return next((a for a in reversed(arguments) if isinstance(a, str)), "")


def register() -> torch.library.Library:
    """Defines the namespace. The result must be kept: the operators live as long as it does."""
    library = torch.library.Library(TRITON, "DEF")
    for name in operator_names(NATIVE):
        if name not in fakes.FAKES:
            continue  # packing: these kernels read weights as they are
        library.define(str(getattr(native, name)._schema).removeprefix(NATIVE + "::"))
        library.impl(name, _kernel(name), "CompositeExplicitAutograd")
    return library
