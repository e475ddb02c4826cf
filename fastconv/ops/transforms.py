"""The operators under torch.func's transforms and forward-mode differentiation.

One torch.autograd.Function per operator, in the form that composes with grad, vmap, jvp and each other: derivatives
from the same rules as everywhere (autograd_*.py), forward mode from autograd_forward.py, vmap from batching.py. Eager
training uses the leaner form of recording.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .autograd_forward import JVPS
from .batching import batched
from .library import NAMESPACES, Operators, operators
from .recording import Rule, bound, transformable, transformed, transforms_active

_below_autograd = torch._C._AutoDispatchBelowAutograd


def transforming() -> bool:
    """Whether a transform, or forward-mode differentiation, watches what is called."""
    return transforms_active() or forward_ad._current_level >= 0


def _function(name: str, own: Operators, rule: Rule) -> type[torch.autograd.Function]:
    setup, backward = rule
    operator = getattr(own, name)
    seen = transformed(own)

    def forward(*arguments: Any) -> Any:
        with _below_autograd():
            return operator(*arguments)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        setup(ctx, inputs, output)
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.save_for_forward(*(value for value in inputs if isinstance(value, Tensor)), *outputs)
        ctx.constants = [None if isinstance(value, Tensor) else (value,) for value in inputs]
        ctx.results = len(outputs) if isinstance(output, tuple) else 0

    def jvp(ctx: Any, *tangents: Any) -> Any:
        saved = iter(ctx.saved_tensors)
        arguments = tuple(next(saved) if constant is None else constant[0] for constant in ctx.constants)
        outputs = tuple(saved)
        return JVPS[name](seen, arguments, tangents, outputs if ctx.results else outputs[0])

    def vmap(info: Any, dims: Any, *arguments: Any) -> Any:
        return batched(name, getattr(seen, name), info.batch_size, dims, arguments)

    methods = {
        "forward": forward,
        "setup_context": setup_context,
        "backward": bound(backward, own),
        "jvp": jvp,
        "vmap": vmap,
    }
    namespace = {key: staticmethod(value) for key, value in methods.items()}
    return type(f"{own.namespace}_{name}_transformed", (torch.autograd.Function,), namespace)


def _autograd_kernel(name: str, own: Operators, function: type[torch.autograd.Function]) -> Any:
    """What autograd does with a call of torch.ops.<namespace>.<name>: captured graphs make such calls."""
    operator = getattr(own, name)

    def run(keyset: Any, *arguments: Any) -> Any:
        recorded = torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)
        if transforms_active() and (recorded or forward_ad._current_level >= 0):
            # A Function cannot be applied from in here, and without one tangents would be lost without a word.
            raise NotImplementedError(
                f"{operator}: torch.func cannot differentiate a direct call of the registered operator; call the "
                "function of fastconv.functional"
            )
        if forward_ad._current_level >= 0:
            return transformable[operator].apply(*arguments)
        if recorded:
            return function.apply(*arguments)
        with _below_autograd():
            return operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)

    return run


def _vmap_rule(name: str, own: Operators) -> Any:
    operator = getattr(own, name)

    def rule(info: Any, dims: Any, *arguments: Any) -> Any:
        return batched(name, operator, info.batch_size, dims, arguments)

    return rule


def register(
    rules: dict[str, Rule], functions: dict[Any, type[torch.autograd.Function]]
) -> list[torch.library.Library]:
    """Makes a Function for the transforms of every operator that has a derivative, and registers autograd and vmap for
    direct calls of the operators. The result must be kept: the registrations live as long as it does."""
    libraries = []
    for namespace in NAMESPACES:
        own = operators(namespace)
        library = torch.library.Library(namespace, "FRAGMENT")
        for name, rule in rules.items():
            operator = getattr(own, name)
            transformable[operator] = _function(name, own, rule)
            library.impl(name, _autograd_kernel(name, own, functions[operator]), "Autograd", with_keyset=True)
            torch.library.register_vmap(f"{namespace}::{name}", _vmap_rule(name, own), lib=library)
        libraries.append(library)
    return libraries
