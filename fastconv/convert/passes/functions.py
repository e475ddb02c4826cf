"""Reads function calls, methods and operators: which operation F.conv2d, x.relu() or a + b stands for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx

from fastconv.convert import ir
from fastconv.convert.calls import arguments_of, is_constant, operation_of, pair
from fastconv.convert.capture import is_scalar
from fastconv.convert.ir import Context
from fastconv.convert.passes.modules import conv_padding, integer_pair
from fastconv.nn.fold import Slot
from fastconv.nn.weights import UNCOUNTED, Activation, Norm, Weight, find_weight

_SIMPLE = {"relu", "relu6", "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid"}
_POOLS = {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"}


def read_function(node: fx.Node, context: Context) -> None:
    """Gives a function, method or operator call its spec, or says in `meta["why"]` what is in the way."""
    operation = operation_of(node)
    if operation is None or "why" in node.meta or (node.meta.get("pinned") and _writes(node, operation)):
        return
    arguments = arguments_of(node, operation)
    if not isinstance(arguments.get("input"), fx.Node):
        return
    reader = _activation if _activation_name(operation) else _READERS.get(operation)
    if reader is not None and (why := reader(node, operation, arguments, context)):
        node.meta["why"] = why


def _writes(node: fx.Node, operation: str) -> bool:
    return arguments_of(node, operation).get("inplace") is True


def weight_of(value: Any, context: Context) -> Weight | None:
    """The weight behind a graph value: a parameter, or something computed from parameters alone."""
    if not isinstance(value, fx.Node):
        return None
    slots: dict[tuple[int, str], Slot] = {}
    evaluate = _evaluator(value, context, slots)
    if evaluate is None or not slots:
        return None
    label = str(value.target) if value.op in ("get_attr", "placeholder") else value.name
    return Weight(label, tuple(slots.values()), evaluate)


def _evaluator(value: Any, context: Context, slots: dict[tuple[int, str], Slot]) -> Callable[[], Any] | None:
    """A function that computes a graph value from parameters, whose slots it adds; None where an input is involved."""
    if not isinstance(value, fx.Node):
        return (lambda: value) if is_constant(value) else None
    if value.meta.get("pinned"):
        return None
    if value.op == "placeholder" and "slot" in value.meta:
        owner, name = value.meta["slot"]
        slots[id(owner), name] = (owner, name)
        return functools.partial(owner.__getitem__, name)
    if value.op == "get_attr":
        path, _, name = str(value.target).rpartition(".")
        owner = context.root.get_submodule(path)
        found = find_weight(owner, name, str(value.target))
        if found is None:
            constant = getattr(owner, name, None)
            return (lambda: constant) if isinstance(constant, Tensor) and name.startswith("_tensor_constant") else None
        slots.update({(id(table), key): (table, key) for table, key in found.slots})
        return found.read
    if value.op not in ("call_function", "call_method"):
        return None
    parts: dict[fx.Node, Callable[[], Any]] = {}
    for argument in value.all_input_nodes:
        part = _evaluator(argument, context, slots)
        if part is None:
            return None
        parts[argument] = part

    # The node itself loses its arguments when nothing reads it any more.
    is_method, target, call = value.op == "call_method", value.target, (value.args, value.kwargs)

    def evaluate() -> Any:
        values = {node: part() for node, part in parts.items()}
        args, kwargs = fx.node.map_arg(call, lambda node: values[node])
        if is_method:
            return getattr(args[0], str(target))(*args[1:], **kwargs)
        return target(*args, **kwargs)  # type: ignore[operator]

    return evaluate


def _conv_weights(arguments: dict[str, Any], context: Context) -> tuple[Weight, Weight | None] | None:
    weight, bias = weight_of(arguments.get("weight"), context), weight_of(arguments.get("bias"), context)
    if weight is None or (bias is None and arguments.get("bias") is not None):
        return None
    return weight, bias


_COMPUTED = "its weight is computed from the network's input"
_VARIABLE = "its arguments are computed from the network's input"


def _conv(node: fx.Node, operation: str, arguments: dict[str, Any], context: Context) -> str | None:
    found = _conv_weights(arguments, context)
    if found is None:
        return _COMPUTED
    constants = {name: arguments.get(name, default) for name, default in _CONV_DEFAULTS.items()}
    if not is_constant(constants):
        return _VARIABLE
    weight, bias = found
    shape = weight.read().shape
    stride, dilation, groups = pair(constants["stride"]), pair(constants["dilation"]), constants["groups"]
    if operation == "conv_transpose2d":
        padding, output_padding = pair(constants["padding"]), pair(constants["output_padding"])
        spec: ir.Spec = ir.ConvTranspose(
            (ir.label_of(node),), weight, bias, stride, padding, output_padding, groups, dilation
        )
    else:
        four = conv_padding(constants["padding"], (shape[2], shape[3]), dilation, stride)
        if four is None:
            return "padding='same' with a stride"
        spec = ir.Conv((ir.label_of(node),), weight, bias, stride, four, dilation, groups)
    ir.put(node, spec, arguments["input"])
    return None


_CONV_DEFAULTS = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}


def _linear(node: fx.Node, operation: str, arguments: dict[str, Any], context: Context) -> str | None:
    found = _conv_weights(arguments, context)
    if found is None:
        return _COMPUTED
    ir.put(node, ir.Linear((ir.label_of(node),), *found), arguments["input"])
    return None


def _norm(node: fx.Node, operation: str, arguments: dict[str, Any], context: Context) -> str | None:
    if arguments.get("training", False) is not False:
        return "it normalises by the statistics of the batch"
    mean, var = (weight_of(arguments.get(name), context) for name in ("running_mean", "running_var"))
    weight, bias = (weight_of(arguments.get(name), context) for name in ("weight", "bias"))
    if mean is None or var is None or not isinstance(arguments.get("eps", 1e-5), float):
        return _COMPUTED
    for given, part in ((arguments.get("weight"), weight), (arguments.get("bias"), bias)):
        if given is not None and part is None:
            return _COMPUTED
    norm = Norm(mean, var, weight, bias, arguments.get("eps", 1e-5))
    if not norm.counted:
        return UNCOUNTED
    ir.annotate(node, ir.BatchNorm((ir.label_of(node),), norm))
    return None


def _pool(node: fx.Node, operation: str, arguments: dict[str, Any], context: Context) -> str | None:
    rest = {name: value for name, value in arguments.items() if name != "input"}
    if not is_constant(rest):
        return _VARIABLE
    ir.put(node, ir.Pool((ir.label_of(node),), operation, rest), arguments["input"])
    return None


def _pad(node: fx.Node, operation: str, arguments: dict[str, Any], context: Context) -> str | None:
    amounts: Any = arguments.get("pad")
    if not is_constant(arguments.get("value")) or not is_constant(amounts):
        return _VARIABLE
    zero = arguments.get("mode", "constant") == "constant" and (arguments.get("value") or 0) == 0
    if not isinstance(amounts, Sequence) or len(amounts) not in (2, 4) or min(amounts) < 0 or not zero:
        return "only zero padding of the image's sides is merged into a convolution"
    left, right, top, bottom = (*amounts, 0, 0)[:4]
    ir.annotate(node, ir.ZeroPad((ir.label_of(node),), (top, bottom, left, right)))
    return None


def _interpolate(node: fx.Node, operation: str, arguments: dict[str, Any], context: Context) -> str | None:
    scale = integer_pair(arguments.get("scale_factor"))
    other = arguments.get("size") is not None or arguments.get("recompute_scale_factor")
    if arguments.get("mode", "nearest") != "nearest" or scale is None or other:
        return "only nearest upsampling by an integer factor is merged into a convolution"
    ir.annotate(node, ir.Upsample((ir.label_of(node),), scale))
    return None


def _add(node: fx.Node, operation: str, arguments: dict[str, Any], context: Context) -> str | None:
    other = arguments.get("other")
    if isinstance(other, fx.Node) and not is_scalar(other) and arguments.get("alpha", 1) == 1:
        ir.annotate(node, ir.Add((ir.label_of(node),)))
    return None


def _softmax(node: fx.Node, operation: str, arguments: dict[str, Any], context: Context) -> str | None:
    dim = arguments.get("dim")
    if not isinstance(dim, int) or arguments.get("dtype") is not None:
        return "only softmax along one known dimension, in its own type, is a kernel"
    ir.put(node, ir.Softmax((ir.label_of(node),), dim), arguments["input"])
    return None


def _activation_name(operation: str) -> bool:
    return operation in _SIMPLE or operation in ("leaky_relu", "elu", "prelu", "gelu", "hardtanh", "clamp", "clamp_min")


def _activation(node: fx.Node, operation: str, arguments: dict[str, Any], context: Context) -> str | None:
    act = _read_activation(operation, arguments, context)
    if act is None:
        known = operation in ("prelu", "gelu")
        return "its slope is computed, or its form is not one of the kernels'" if known else None
    ir.put(node, ir.Act((ir.label_of(node),), act), arguments["input"])
    return None


def _read_activation(operation: str, arguments: dict[str, Any], context: Context) -> Activation | None:
    if operation in _SIMPLE:
        return Activation(operation)
    if operation in ("leaky_relu", "elu"):
        name, default = ("negative_slope", 0.01) if operation == "leaky_relu" else ("alpha", 1.0)
        value = arguments.get(name, default)
        return Activation(operation, float(value)) if isinstance(value, int | float) else None
    if operation == "prelu":
        weight = weight_of(arguments.get("weight"), context)
        return None if weight is None else Activation("prelu", weight)
    if operation == "gelu":
        return Activation("gelu") if arguments.get("approximate", "none") == "none" else None
    names, defaults = _LIMITS[operation]
    limits: Any = tuple(arguments.get(name, default) for name, default in zip(names, defaults, strict=True))
    if not is_constant(limits) or not all(limit is None or isinstance(limit, int | float) for limit in limits):
        return None
    return {(0, 6): Activation("relu6"), (0, None): Activation("relu")}.get(limits)


_LIMITS: dict[str, tuple[tuple[str, str], tuple[float | None, float | None]]] = {
    "hardtanh": (("min_val", "max_val"), (-1.0, 1.0)),
    "clamp": (("min", "max"), (None, None)),
    "clamp_min": (("min", "max"), (None, None)),
}
_READERS: dict[str, Any] = {
    "conv2d": _conv,
    "conv_transpose2d": _conv,
    "linear": _linear,
    "batch_norm": _norm,
    "raw_batch_norm": _norm,
    "pad": _pad,
    "interpolate": _interpolate,
    "upsample": _interpolate,
    "upsample_nearest": _interpolate,
    "add": _add,
    "softmax": _softmax,
    "named_softmax": _softmax,
    **dict.fromkeys(_POOLS, _pool),
}
