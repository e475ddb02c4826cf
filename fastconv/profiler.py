"""fastconv.profile: what each layer of a network costs, what the machine allows, and what it took."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fastconv import backends
from fastconv.convert import ir
from fastconv.convert.converted import ConvertedModule
from fastconv.convert.explain import describe, join_labels
from fastconv.convert.kernels import choose
from fastconv.convert.observe import walk
from fastconv.nn.fused import FusedBlock
from fastconv.profile_table import LayerCost, Profile

__all__ = ["LayerCost", "Profile", "profile"]

_ROUNDS = 7


def profile(
    model: nn.Module,
    example_inputs: Tensor | tuple[Any, ...],
    *,
    peak: Mapping[str, Any] | None = None,
    rounds: int = _ROUNDS,
) -> Profile:
    """Measures a network layer by layer, without gradients, in the mode that the model is in.

    A converted network is measured step by step, any other module leaf by leaf (a fused block counts as one).

    Args:
        model: any module; its state does not change in evaluation mode.
        example_inputs: a tensor, or the tuple of positional arguments.
        peak: the machine's limits, {"fma_gflops": ..., "copy_gbs": ...}; measured now where not given.
        rounds: how often each layer is timed; the median counts.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"profile: expected model to be a torch.nn.Module, but got {type(model).__name__}")
    if isinstance(example_inputs, str | bytes | int | float) or example_inputs is None:
        raise TypeError(f"profile: expected example_inputs to be a tensor or a tuple, but got {example_inputs!r}")
    args = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    if rounds < 1:
        raise ValueError(f"profile: expected rounds to be at least 1, but got {rounds}")
    limits = dict(peak) if peak is not None else _measured_peak(args)
    recorder = _Recorder(rounds, limits)
    with torch.no_grad():
        measure = _converted_layers if isinstance(model, ConvertedModule) else _module_layers
        measure(model, args, recorder)
        whole = _milliseconds(lambda: model(*args), rounds)
    subject = model.source if isinstance(model, ConvertedModule) else model
    converted = " (converted)" if isinstance(model, ConvertedModule) else ""
    shapes = ", ".join("x".join(map(str, x.shape)) for x in pytree.tree_leaves(args) if isinstance(x, Tensor))
    return Profile(f"{type(subject).__name__}{converted} on {shapes}", recorder.layers, whole, limits)


def _measured_peak(args: tuple[Any, ...]) -> dict[str, Any]:
    from fastconv import machine

    if any(leaf.is_cuda for leaf in pytree.tree_leaves(args) if isinstance(leaf, Tensor)):
        return {"fma_gflops": None, "copy_gbs": None, "unavailable": "the limits measured are the CPU's"}
    return machine.ceilings(torch.get_num_threads())


class _Recorder:
    def __init__(self, rounds: int, limits: Mapping[str, Any]) -> None:
        self.layers: list[LayerCost] = []
        self._rounds, self._limits = rounds, limits

    def add(
        self,
        name: str,
        operation: str,
        call: Callable[[], Any],
        reads: Iterable[Any],
        weights: Iterable[Tensor],
        macs: Any,
        predicted: float | None = None,
    ) -> Any:
        """Runs and times a layer; `macs` computes the multiply-adds from the output; `predicted` are milliseconds."""
        weights = list(weights)
        output = call()
        milliseconds = _milliseconds(call, self._rounds)
        tensors = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
        moved = [*(x for x in pytree.tree_leaves(list(reads)) if isinstance(x, Tensor)), *weights, *tensors]
        size = sum(tensor.numel() * tensor.element_size() for tensor in moved)
        work = int(macs(tensors[0])) if tensors else 0
        bound, limit = self._bound(work, size)
        shape = tuple(tensors[0].shape) if tensors else ()
        parameters = sum(weight.numel() for weight in weights)
        cost = LayerCost(name, operation, shape, parameters, work, size, milliseconds, bound, limit, predicted)
        self.layers.append(cost)
        return output

    def _bound(self, macs: int, size: int) -> tuple[float | None, str]:
        gflops, gbs = self._limits.get("fma_gflops"), self._limits.get("copy_gbs")
        if gflops is None or gbs is None:
            return None, "-"
        arithmetic, memory = 2 * macs / gflops * 1e-6, size / gbs * 1e-6
        return max(arithmetic, memory), "arithmetic" if arithmetic > memory else "memory"


def _milliseconds(call: Callable[[], Any], rounds: int) -> float:
    samples = []
    for _ in range(rounds):
        _synchronise()
        start = time.perf_counter()
        call()
        _synchronise()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples) * 1e3


def _synchronise() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _filter_macs(weight: Tensor) -> Callable[[Tensor], int]:
    """Multiply-adds of a convolution or a linear layer: each output element takes one filter."""
    taps = weight[0].numel()
    return lambda output: output.numel() * taps


def _transposed_macs(x: Tensor, weight: Tensor) -> Callable[[Tensor], int]:
    """Of a transposed convolution: each input element meets one filter."""
    work = x.numel() * weight[0].numel()
    return lambda output: work


def _converted_layers(model: nn.Module, args: tuple[Any, ...], recorder: _Recorder) -> None:
    assert isinstance(model, ConvertedModule)
    model(*args)
    program = model.region.last
    if program is None:
        # Nothing was captured as a whole: its parts are modules of the shell, converted where possible.
        _module_layers(model.region.module, args, recorder)
        return

    def visit(node: fx.Node, function: Callable[..., Any], values: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        spec = getattr(function, "spec", None)
        if not isinstance(spec, ir.Spec):
            module = node.meta.get("module")
            if module is None:
                return function(*values, **kwargs)
            held = list(function.parameters()) if isinstance(function, nn.Module) else []
            operation = str(node.meta.get("module_type"))
            return recorder.add(str(module), operation, lambda: function(*values, **kwargs), values, held, _no_macs)
        prepared = getattr(function, "prepared", None)
        parts = () if prepared is None else (prepared.weight, prepared.bias, prepared.alpha)
        weights = [tensor for tensor in parts if isinstance(tensor, Tensor)]
        macs: Callable[[Tensor], int] = _no_macs
        if isinstance(spec, ir.Conv | ir.Linear):
            macs = _filter_macs(weights[0])
        elif isinstance(spec, ir.ConvTranspose):
            macs = _transposed_macs(values[0], weights[0])
        name, read = join_labels(spec.labels), tuple(x for x in values if isinstance(x, Tensor))
        predicted = _predicted(choose(spec, function, read).cost, read[0])
        return recorder.add(name, describe(spec), lambda: function(*values, **kwargs), values, weights, macs, predicted)

    tensors = [leaf for leaf in pytree.tree_leaves((args, {})) if isinstance(leaf, Tensor)]
    walk(program, tensors, visit)


def _predicted(cost: float | None, x: Tensor) -> float | None:
    """Milliseconds of a batch: on a GPU as predicted, else on all threads from the seconds of an image on one."""
    if backends.resolve(x.device).startswith("cuda"):
        return None if cost is None else 1e3 * cost
    images = x.shape[0] if x.dim() == 4 else 1
    return None if cost is None else 1e3 * cost * images / torch.get_num_threads()


def _no_macs(output: Tensor) -> int:
    return 0


def _module_layers(model: nn.Module, args: tuple[Any, ...], recorder: _Recorder) -> None:
    """Intercepts each leaf's forward for one run."""
    originals: list[tuple[nn.Module, Any]] = []
    names = {module: name or type(model).__name__ for name, module in model.named_modules()}
    in_blocks = {
        part for block in names if isinstance(block, FusedBlock) for part in block.modules() if part is not block
    }

    def wrap(module: nn.Module) -> None:
        plain = module.forward
        originals.append((module, module.__dict__.get("forward")))

        def timed(*inputs: Any, **kwargs: Any) -> Any:
            # An in-place layer would feed each repeat the result of the one before: those work on a copy.
            timed_inputs = pytree.tree_map(_copied, inputs) if getattr(module, "inplace", False) else inputs
            weights, macs = list(module.parameters()), _module_macs(module, inputs)
            name, kind = names[module], type(module).__name__
            recorder.add(name, kind, lambda: plain(*timed_inputs, **kwargs), inputs, weights, macs)
            return plain(*inputs, **kwargs)

        module.__dict__["forward"] = timed

    for module in names:
        is_layer = next(module.children(), None) is None or isinstance(module, FusedBlock)
        if is_layer and module not in in_blocks:
            wrap(module)
    try:
        model(*args)
    finally:
        for module, forward in originals:
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward


def _copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _module_macs(module: nn.Module, inputs: tuple[Any, ...]) -> Callable[[Tensor], int]:
    conv: Any = module.conv if isinstance(module, FusedBlock) else module
    if isinstance(conv, nn.modules.conv._ConvTransposeNd):
        return _transposed_macs(inputs[0], conv.weight)
    if isinstance(conv, nn.modules.conv._ConvNd | nn.Linear):
        return _filter_macs(conv.weight)
    return _no_macs
