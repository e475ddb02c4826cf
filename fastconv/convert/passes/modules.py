"""Reads module calls: which operation a layer of torch's, or of fastconv's, stands for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

import fastconv.nn as fnn
from fastconv.convert import ir
from fastconv.convert.calls import pair
from fastconv.convert.ir import Context
from fastconv.nn.fold import Slot
from fastconv.nn.fused import ConvBNAct2d
from fastconv.nn.upsample import UpsampleConv2d
from fastconv.nn.weights import (
    NORM_TYPES,
    Activation,
    activation_of,
    find_weight,
    has_hooks,
    norm_of,
    reason_not_to_fold,
    stock_type,
)


def read_module(node: fx.Node, context: Context) -> None:
    """Gives a module call its spec, or says in `meta["why"]` what is in the way where the layer is a kind of ours."""
    path = str(node.target)
    if path in context.opaque:
        node.meta["why"] = context.opaque[path]
        return
    module = context.module(node)
    reader = _reader(module)
    if reader is None:
        return
    if len(node.args) != 1 or node.kwargs or not isinstance(node.args[0], fx.Node):
        node.meta["why"] = "it is called with more than its input"
    elif has_hooks(module):
        node.meta["why"] = "hooks are registered on it"
    elif node.meta.get("pinned") and getattr(module, "inplace", False):
        node.meta["why"] = "it writes to memory that is read under another name"
    elif why := reader(node, module, path):
        node.meta["why"] = why


def _reader(module: nn.Module) -> Any:
    kind = stock_type(module)
    if kind in _READERS:
        return _READERS[kind]
    if isinstance(module, nn.Upsample):
        return _upsample
    return _activation if activation_of(module) is not None and kind.__module__.startswith(_OURS) else None


def conv_padding(
    padding: Any, kernel: tuple[int, int], dilation: tuple[int, int], stride: tuple[int, int] = (1, 1)
) -> tuple[int, int, int, int] | None:
    """torch's forms of padding as top, bottom, left, right; None where the call is an error of the model's."""
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding == "same":
        if stride != (1, 1):
            return None
        totals = [step * (extent - 1) for extent, step in zip(kernel, dilation, strict=True)]
        return (totals[0] // 2, totals[0] - totals[0] // 2, totals[1] // 2, totals[1] - totals[1] // 2)
    rows, columns = pair(padding)
    return (rows, rows, columns, columns)


def _conv(node: fx.Node, module: Any, path: str) -> str | None:
    return _put_conv(node, module, path)


def _put_conv(node: fx.Node, module: Any, path: str, **merged: Any) -> str | None:
    weight, bias = find_weight(module, "weight", f"{path}.weight"), find_weight(module, "bias", f"{path}.bias")
    if weight is None:
        return "its weight is made by a hook"
    stride, dilation = pair(module.stride), pair(module.dilation)
    explicit = module.padding_mode != "zeros"
    padding = conv_padding(0 if explicit else module.padding, pair(module.kernel_size), dilation, stride)
    if padding is None:
        return "padding='same' with a stride"
    source: Any = node.args[0]
    if explicit:
        with node.graph.inserting_before(node):
            amounts = tuple(module._reversed_padding_repeated_twice)
            source = node.graph.call_function(F.pad, (source, amounts), {"mode": module.padding_mode})
            source.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
    spec = ir.Conv((path,), weight, bias, stride, padding, dilation, module.groups, absent=_absent(module))
    ir.put(node, replace(spec, **merged), source)
    return None


def _absent(module: nn.Module) -> tuple[Slot, ...]:
    parameters: dict[str, Any] = module._parameters
    return ((parameters, "bias"),) if "bias" in parameters and parameters["bias"] is None else ()


def _conv_transpose(node: fx.Node, module: Any, path: str) -> str | None:
    weight, bias = find_weight(module, "weight", f"{path}.weight"), find_weight(module, "bias", f"{path}.bias")
    if weight is None:
        return "its weight is made by a hook"
    padding, output_padding = pair(module.padding), pair(module.output_padding)
    geometry = (pair(module.stride), padding, output_padding, module.groups, pair(module.dilation))
    spec = ir.ConvTranspose((path,), weight, bias, *geometry, absent=_absent(module))
    ir.put(node, spec, node.args[0])  # type: ignore[arg-type]
    return None


def _linear(node: fx.Node, module: Any, path: str) -> str | None:
    weight, bias = find_weight(module, "weight", f"{path}.weight"), find_weight(module, "bias", f"{path}.bias")
    if weight is None:
        return "its weight is made by a hook"
    ir.put(node, ir.Linear((path,), weight, bias, absent=_absent(module)), node.args[0])  # type: ignore[arg-type]
    return None


def _norm(node: fx.Node, module: Any, path: str) -> str | None:
    norm = norm_of(module, path)
    if norm is None:
        return reason_not_to_fold(module)
    ir.annotate(node, ir.BatchNorm((path,), norm))
    return None


def _activation(node: fx.Node, module: Any, path: str) -> str | None:
    act = activation_of(module, path)
    if act is None:
        return f"{module} is not one of the activations in the kernels"
    ir.put(node, ir.Act((path,), act), node.args[0])  # type: ignore[arg-type]
    return None


_POOL_ARGUMENTS = {
    "max_pool2d": ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "avg_pool2d": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "adaptive_avg_pool2d": ("output_size",),
    "adaptive_max_pool2d": ("output_size", "return_indices"),
}


def _pool(function: str) -> Any:
    def read(node: fx.Node, module: Any, path: str) -> None:
        arguments = {name: getattr(module, name) for name in _POOL_ARGUMENTS[function]}
        ir.put(node, ir.Pool((path,), function, arguments), node.args[0])  # type: ignore[arg-type]

    return read


def _pad(node: fx.Node, module: Any, path: str) -> str | None:
    padding = module.padding
    if getattr(module, "value", 0.0) != 0 or len(padding) != 4 or min(padding) < 0:
        return "only zero padding of the image's sides is merged into a convolution"
    left, right, top, bottom = padding
    ir.annotate(node, ir.ZeroPad((path,), (top, bottom, left, right)))
    return None


def _softmax(node: fx.Node, module: Any, path: str) -> str | None:
    if not isinstance(module.dim, int):
        return "its dimension depends on the number of dimensions of its input"
    ir.put(node, ir.Softmax((path,), module.dim), node.args[0])  # type: ignore[arg-type]
    return None


def _upsample(node: fx.Node, module: Any, path: str) -> str | None:
    scale = integer_pair(module.scale_factor)
    if module.mode != "nearest" or module.size is not None or scale is None or module.recompute_scale_factor:
        return "only nearest upsampling by an integer factor is merged into a convolution"
    ir.annotate(node, ir.Upsample((path,), scale))
    return None


def integer_pair(scale: Any) -> tuple[int, int] | None:
    """A scale factor as two positive ints, None for anything else."""
    values = scale if isinstance(scale, tuple | list) else (scale, scale)
    if len(values) != 2 or any(not isinstance(v, int | float) or v != int(v) or v < 1 for v in values):
        return None
    return (int(values[0]), int(values[1]))


def _fused_block(node: fx.Node, module: Any, path: str) -> str | None:
    """A fused block is taken apart again, so that a residual or a pad before it can join."""
    if any(has_hooks(child) for child in module.children()):
        return "hooks are registered on its parts"
    norm = norm_of(module.bn, f"{path}.bn") if module.bn is not None else None
    act = Activation("identity") if type(module.act) is nn.Identity else activation_of(module.act, f"{path}.act")
    if (module.bn is not None and norm is None) or act is None:
        return "one of its parts cannot be merged"
    scale = module.scale_factor if isinstance(module, UpsampleConv2d) else (1, 1)
    if scale != (1, 1) and module.conv.padding_mode != "zeros":
        return "an upsampled border is padded with something else than zeros"
    return _put_conv(
        node, module.conv, f"{path}.conv", labels=(path,), upsample=scale, norms=(norm,) if norm else (), act=act
    )


_OURS = ("torch.nn.", "fastconv.nn.")
_READERS: dict[type[nn.Module], Any] = {
    nn.Conv2d: _conv,
    fnn.Conv2d: _conv,
    nn.ConvTranspose2d: _conv_transpose,
    fnn.ConvTranspose2d: _conv_transpose,
    nn.Linear: _linear,
    fnn.Linear: _linear,
    nn.MaxPool2d: _pool("max_pool2d"),
    fnn.MaxPool2d: _pool("max_pool2d"),
    nn.AvgPool2d: _pool("avg_pool2d"),
    fnn.AvgPool2d: _pool("avg_pool2d"),
    nn.AdaptiveAvgPool2d: _pool("adaptive_avg_pool2d"),
    fnn.AdaptiveAvgPool2d: _pool("adaptive_avg_pool2d"),
    nn.AdaptiveMaxPool2d: _pool("adaptive_max_pool2d"),
    fnn.AdaptiveMaxPool2d: _pool("adaptive_max_pool2d"),
    nn.Softmax: _softmax,
    nn.ZeroPad2d: _pad,
    nn.ConstantPad2d: _pad,
    ConvBNAct2d: _fused_block,
    UpsampleConv2d: _fused_block,
    **dict.fromkeys((*NORM_TYPES, fnn.BatchNorm2d, fnn.SyncBatchNorm), _norm),
}
