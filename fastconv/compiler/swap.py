"""One for one: torch's functions in a graph replaced by fastconv's, which autograd records like any others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload

from fastconv import backends, functional, ops
from fastconv.compiler import norms
from fastconv.convert.calls import arguments_of, operation_of
from fastconv.convert.replace import replacement_class
from fastconv.functional import dispatch
from fastconv.functional.checks import FLOAT_DTYPES


def _activation(name: str, *parameters: str) -> Callable[[dict[str, Any]], Any]:
    """Our activation for torch's arguments, where it has no others than ours."""

    def make(arguments: dict[str, Any]) -> Any:
        x = arguments.pop("input")
        if set(arguments) - set(parameters):
            return None
        return getattr(functional, name), (x,), arguments

    return make


def _same(function: Callable[..., Any]) -> Callable[[dict[str, Any]], Any]:
    """A function of ours that takes whatever torch's takes."""

    def make(arguments: dict[str, Any]) -> Any:
        x = arguments.pop("input")
        return function, (x,), arguments

    return make


def _gelu(arguments: dict[str, Any]) -> Any:
    if arguments.get("approximate", "none") != "none":
        return None
    return functional.gelu, (arguments["input"],), {}


def _hardtanh(arguments: dict[str, Any]) -> Any:
    if (arguments.get("min_val", -1.0), arguments.get("max_val", 1.0)) != (0, 6):
        return None
    return functional.relu6, (arguments["input"],), {"inplace": arguments.get("inplace", False)}


def _batch_norm(arguments: dict[str, Any]) -> Any:
    arguments.pop("cudnn_enabled", None)
    x = arguments.pop("input")
    return functional.batch_norm_act, (x,), arguments


# Operation, by the names of convert/calls.py: (our function, args, kwargs) for torch's arguments, or None.
_OURS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "conv2d": _same(functional.conv2d),
    "conv_transpose2d": _same(functional.conv_transpose2d),
    "linear": _same(functional.linear),
    "batch_norm": _batch_norm,
    "raw_batch_norm": _batch_norm,
    "max_pool2d": _same(functional.max_pool2d),
    "avg_pool2d": _same(functional.avg_pool2d),
    "adaptive_avg_pool2d": _same(functional.adaptive_avg_pool2d),
    "adaptive_max_pool2d": _same(functional.adaptive_max_pool2d),
    "prelu": _same(functional.prelu),
    "gelu": _gelu,
    "hardtanh": _hardtanh,
    "leaky_relu": _activation("leaky_relu", "negative_slope", "inplace"),
    "elu": _activation("elu", "alpha", "inplace"),
    **{name: _activation(name, "inplace") for name in ("relu", "relu6", "silu", "hardswish")},
    **{name: _activation(name) for name in ("sigmoid", "tanh", "hardsigmoid")},
}


def serves(node: fx.Node) -> bool:
    """Whether the kernels know the types and devices of a node's tensors, as far as its capture noted them."""
    values = [other.meta.get("example_value") for other in (node, *node.all_input_nodes)]
    tensors = [value for value in values if isinstance(value, Tensor)]
    return all(
        t.dtype in FLOAT_DTYPES
        and t.layout is torch.strided
        and t.device.type in ("cpu", "cuda")
        and (t.device.type == "cpu" or backends.cuda_goes_to() or backends.why_unavailable("cuda") is None)
        for t in tensors
    )


def swap_function(node: fx.Node) -> bool:
    """Puts our function in the place of torch's, if there is one for this call; says whether."""
    operation = operation_of(node)
    make = _OURS.get(operation or "")
    if make is None or not serves(node):
        return False
    ours = make(arguments_of(node, operation or ""))
    if ours is None:
        return False
    # Methods too: x.relu() becomes a call of a function.
    node.op = "call_function"
    node.target, node.args, node.kwargs = ours
    return True


def swapped(module: fx.GraphModule) -> fx.GraphModule:
    """A graph module that does the same, in the same order, on fastconv's kernels where they serve.

    It shares parameters and submodules with the one given; graphs inside (checkpoints, branches) are swapped too.
    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    root = _Attributes(module)
    for node in list(graph.nodes):
        if node.op == "get_attr" and isinstance(inner := root.get(str(node.target)), fx.GraphModule):
            node.target = root.add(swapped(inner))
        elif node.op == "call_module":
            node.target = root.twin(str(node.target))
        elif isinstance(node.target, OpOverload) and node.target in _OWN:
            node.target = _OWN[node.target]
        else:
            swap_function(node)
    norms.fuse(graph)
    return fx.GraphModule(root.values, graph)


class _Attributes:
    """What a graph refers to by name: the module's own, and twins of them."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._module = module
        self.values: dict[str, Any] = {}
        for node in module.graph.nodes:
            if node.op in ("get_attr", "call_module"):
                self.values[str(node.target)] = self.get(str(node.target))

    def get(self, path: str) -> Any:
        value: Any = self._module
        for name in path.split("."):
            value = getattr(value, name)
        return value

    def add(self, value: Any) -> str:
        name = f"_fastconv_{len(self.values)}"
        self.values[name] = value
        return name

    def twin(self, path: str) -> str:
        """The name of a layer of ours that is the given one in all but its class."""
        module: nn.Module = self.get(path)
        stand_in = replacement_class(module)
        if stand_in is None:
            return path
        # One dictionary for both: parameters, flags and hooks stay the same whoever changes them.
        twin = stand_in.__new__(stand_in)
        object.__setattr__(twin, "__dict__", module.__dict__)
        return self.add(twin)


def _called(operator: Any) -> Callable[..., Any]:
    """An operator of ours in the graph, as eager code calls it: the registered way round it costs more."""

    def call(*arguments: Any) -> Any:
        recorded = dispatch.records(*(a for a in arguments if isinstance(a, Tensor)))
        return (dispatch.recorded if recorded else dispatch.call)(operator, *arguments)

    call.__name__ = operator._opname
    return call


_OWN = {getattr(ops.native, name): _called(getattr(ops.native, name)) for name in ops.RULES}
