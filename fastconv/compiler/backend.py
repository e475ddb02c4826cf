"""The backend that torch.compile finds under the name fastconv."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._dynamo.backends import registry

from fastconv import ops
from fastconv.compiler.inference import Converted
from fastconv.compiler.swap import swapped
from fastconv.convert.capture import CaptureError
from fastconv.convert.steps import Stale

NAME = "fastconv"


def fastconv_backend(
    module: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: dict[str, Any] | None = None,
) -> CompiledGraph:
    """What ``torch.compile(model, backend="fastconv")`` does with each graph that Dynamo finds.

    Where nothing is recorded (``torch.no_grad()``, ``torch.inference_mode()``, or no input or parameter that wants a
    gradient) a graph is fused as `fastconv.convert` does it: convolution + BatchNorm + residual addition + activation,
    zero padding before and nearest upsampling before a convolution, linear + activation; weights are folded and packed
    once, and again as soon as one changes (another tensor, an in-place edit, an optimizer's step, `load_state_dict`;
    not an edit through ``.data``, which is recorded nowhere).

    Where autograd records, each function of torch that fastconv has is called in fastconv's form, BatchNorm together
    with the addition and activation after it; gradients, running statistics and side effects are those of the model.

    What fastconv has no kernel for runs as torch, in eager mode. Shapes are Dynamo's business: a dynamic batch or image
    size is compiled once.

    Args:
        mode, options: there are none; anything but None raises a ValueError.
    """
    if mode is not None:
        raise ValueError(f"torch.compile(backend='fastconv'): expected mode to be 'default', but got {mode!r}")
    if options:
        raise ValueError(f"torch.compile(backend='fastconv'): expected options to be empty, but got {options!r}")
    return CompiledGraph(module, example_inputs)


class CompiledGraph:
    """One of Dynamo's graphs on fastconv's kernels."""

    def __init__(self, module: fx.GraphModule, examples: Sequence[Any]) -> None:
        self.module = module
        self.number = next(_numbers)
        self.why: str | None = None  # why the graph is not fused
        self.converted: Converted | None = None
        self.one_for_one: Callable[..., Any] | None = None
        self._recorded_with: list[weakref.ref[Tensor]] = []
        try:
            self.converted = Converted(module, examples)
        except CaptureError as error:
            self.why = str(error)
        if any(isinstance(node.target, torch._ops.HigherOrderOperator) for node in module.graph.nodes):
            # Run eagerly, a checkpoint around a BatchNorm finds its count of batches changed; AOTAutograd knows how.
            self.one_for_one = registry.lookup_backend("aot_eager")(swapped(module), list(examples))
        compiled_graphs.add(self)

    def __call__(self, *arguments: Any) -> Any:
        if self.converted is None or _is_recorded(arguments):
            return self._recorded(arguments)
        try:
            return self.converted(arguments)
        except (CaptureError, Stale) as error:
            self.why, self.converted = str(error), None
            return self._recorded(arguments)

    def recorded_with(self) -> set[int]:
        """Identities of the tensors that the graph was first called with where it is not fused."""
        return {id(ref()) for ref in self._recorded_with}

    def _recorded(self, arguments: tuple[Any, ...]) -> Any:
        if self.one_for_one is None:
            self.one_for_one = swapped(self.module)
        if not self._recorded_with:
            self._recorded_with = [weakref.ref(t) for t in arguments if isinstance(t, Tensor)]
        return self.one_for_one(*arguments)


# Those alive, for fastconv.explain.
compiled_graphs: weakref.WeakSet[CompiledGraph] = weakref.WeakSet()
_numbers = itertools.count()


def _is_recorded(arguments: tuple[Any, ...]) -> bool:
    if ops.transforming():
        return True
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in arguments)


def register() -> None:
    """Makes the backend known by name, unless the package's entry point has done so or will."""
    if NAME not in registry._BACKENDS:
        registry.register_backend(fastconv_backend, name=NAME)
