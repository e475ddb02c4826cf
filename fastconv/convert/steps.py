"""What a converted network runs: each step is one kernel, with weights made beforehand.

A step has two ways to call its kernel. The direct one hands packed weights to the operator with nothing in between; it
holds where nobody records a gradient, autocasts or forces a backend. Calling the step goes through
fastconv.functional, which serves every case and raises torch's errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastconv import functional
from fastconv.convert import ir
from fastconv.convert.prepared import Prepared, Stale, is_channels_last
from fastconv.functional import choice
from fastconv.functional.arguments import split_param
from fastconv.functional.dispatch import below_autograd
from fastconv.nn.fold import Slot
from fastconv.nn.weights import Activation, Weight
from fastconv.ops import native

__all__ = [
    "ActStep",
    "ConvStep",
    "ConvTransposeStep",
    "FormatStep",
    "LinearStep",
    "NormaliseStep",
    "OwnTypeStep",
    "PoolStep",
    "Prepared",
    "ReadStep",
    "SoftmaxStep",
    "Stale",
    "activate",
    "all_of",
    "is_channels_last",
    "restore",
]


class ConvStep:
    """act(norm(conv(pad(upsample(x)))) + residual)"""

    def __init__(self, spec: ir.Conv, prepared: Prepared, dtype: torch.dtype | None) -> None:
        self.spec, self.prepared, self.dtype = spec, prepared, dtype
        self._upsample = (spec.upsample,) if spec.upsample != (1, 1) else ()
        self._function = functional.upsample_conv2d if self._upsample else functional.conv2d
        self._operator = native.upsample_conv2d if self._upsample else native.conv2d
        self._geometry = (*self._upsample, spec.stride, spec.padding, spec.dilation, spec.groups)
        self._shapes: dict[torch.Size, tuple[int, ...]] = {}
        self._act: tuple[Any, ...] = ()
        # By shape of x, choice.layout() and choice.epoch(): the algorithm and the weights packed for it.
        self._packs: dict[tuple[torch.Size, bool, int], tuple[str, Tensor | None]] = {}

    def bind(self) -> None:
        """Readies `direct` for the weights as they are now."""
        self._act = (self.spec.act.name, *split_param(self.spec.act.name, self.prepared.alpha))
        self._packs = {}

    def _pack(self, x: Tensor) -> tuple[str, Tensor | None]:
        prepared, geometry, spec = self.prepared, self._geometry, self.spec
        weight = prepared.weight
        if not x.is_cpu:
            return "", None  # a GPU's kernels read weights as they are
        if self._upsample:
            return "", prepared.packed(geometry, lambda: native.pack_upsample_weight(weight, *geometry))
        algo = choice.conv2d(x, weight, spec.stride, spec.padding, spec.dilation, spec.groups)
        unpacked = algo == choice.UNPACKED
        return algo, prepared.packed(
            (spec.groups, algo), lambda: None if unpacked else native.pack_conv2d_weight(weight, spec.groups, algo)
        )

    def direct(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if self.dtype is not None:
            x = x.to(self.dtype)
            residual = None if residual is None else residual.to(self.dtype)
        if x.dim() != 4 or (residual is not None and self._is_odd(residual, x)):
            return self(x, residual)
        weights, packs, key = self.prepared, self._packs, (x.shape, choice.layout(x), choice.epoch())
        packed = packs.get(key)
        if packed is None:
            if len(packs) >= 64:
                packs.clear()
            packed = packs[key] = self._pack(x)
        try:
            with below_autograd():
                return self._operator(
                    x, weights.weight, weights.bias, *self._geometry, None, None, residual, *self._act, packed[0], "",
                    packed[1],
                )  # fmt: skip
        except (RuntimeError, ValueError, TypeError):
            return self(x, residual)  # for torch's own words

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        weights = self.prepared
        if self.dtype is not None:
            x = x.to(self.dtype)
            residual = None if residual is None else residual.to(self.dtype)
        if residual is not None and self._is_odd(residual, x):
            # The sum broadcasts or promotes: torch's addition, then the activation.
            y = self._function(x, weights.weight, weights.bias, *self._geometry)
            return activate(y + residual, self.spec.act, weights.alpha)
        act = self.spec.act.name
        return self._function(
            x, weights.weight, weights.bias, *self._geometry, residual=residual, act=act, act_param=weights.alpha
        )

    def _is_odd(self, residual: Tensor, x: Tensor) -> bool:
        return residual.shape != self._output_shape(x) or residual.dtype is not x.dtype

    def _output_shape(self, x: Tensor) -> tuple[int, ...]:
        known = self._shapes.get(x.shape)
        if known is None:
            k, _, *kernel = self.prepared.weight.shape
            spec, pads = self.spec, (self.spec.padding[:2], self.spec.padding[2:])
            sides = [
                (extent * up + sum(pad) - dilation * (side - 1) - 1) // stride + 1
                for extent, up, pad, dilation, side, stride in zip(
                    x.shape[-2:], spec.upsample, pads, spec.dilation, kernel, spec.stride, strict=True
                )
            ]
            known = (*x.shape[:-3], k, *sides)
            if len(self._shapes) >= 64:
                self._shapes.clear()
            self._shapes[x.shape] = known
        return known


class ConvTransposeStep:
    """norm(conv_transpose(x))"""

    def __init__(self, spec: ir.ConvTranspose, prepared: Prepared, dtype: torch.dtype | None) -> None:
        self.spec, self.prepared, self.dtype = spec, prepared, dtype
        self._geometry = (spec.stride, spec.padding, spec.output_padding, spec.groups, spec.dilation)
        self._packed: Tensor | None = None

    def bind(self) -> None:
        spec, weight = self.spec, self.prepared.weight
        geometry = (spec.stride, spec.padding, spec.dilation, spec.groups)
        self._packed = self.prepared.packed(geometry, lambda: native.pack_transpose_weight(weight, *geometry))

    def direct(self, x: Tensor) -> Tensor:
        weights = self.prepared
        x = x if self.dtype is None else x.to(self.dtype)
        if x.dim() != 4:
            return self(x)
        try:
            with below_autograd():
                return native.conv_transpose2d(x, weights.weight, weights.bias, *self._geometry, "", "", self._packed)
        except (RuntimeError, ValueError, TypeError):
            return self(x)

    def __call__(self, x: Tensor) -> Tensor:
        x = x if self.dtype is None else x.to(self.dtype)
        return functional.conv_transpose2d(x, self.prepared.weight, self.prepared.bias, *self._geometry)


class LinearStep:
    """act(x @ weight.T + bias)"""

    def __init__(self, spec: ir.Linear, prepared: Prepared, dtype: torch.dtype | None) -> None:
        self.spec, self.prepared, self.dtype = spec, prepared, dtype
        self._tail: tuple[Any, ...] = ()

    def bind(self) -> None:
        weights, act = self.prepared, self.spec.act.name
        packed = weights.packed("gemm", lambda: native.pack_gemm_b(weights.weight, True))
        self._tail = (act, *split_param(act, weights.alpha), "", "", packed)

    def direct(self, x: Tensor) -> Tensor:
        x = x if self.dtype is None else x.to(self.dtype)
        if x.dim() != 2:
            return self(x)
        weights = self.prepared
        try:
            with below_autograd():
                return native.gemm(x, weights.weight, weights.bias, False, True, None, *self._tail)
        except (RuntimeError, ValueError, TypeError):
            return self(x)

    def __call__(self, x: Tensor) -> Tensor:
        weights, act = self.prepared, self.spec.act
        x = x if self.dtype is None else x.to(self.dtype)
        if act.name == "prelu" and x.dim() != 2:
            # torch's channels are dimension 1, the kernel's are the columns: the same for matrices only.
            return activate(functional.linear(x, weights.weight, weights.bias), act, weights.alpha)
        return functional.linear(x, weights.weight, weights.bias, act=act.name, act_param=weights.alpha)


class ActStep:
    def __init__(self, spec: ir.Act, prepared: Prepared) -> None:
        self.spec, self.prepared = spec, prepared

    def __call__(self, x: Tensor) -> Tensor:
        return activate(x, self.spec.act, self.prepared.alpha)


class PoolStep:
    def __init__(self, spec: ir.Pool) -> None:
        self.spec = spec
        self._function: Callable[..., Any] = getattr(functional, spec.function)

    def __call__(self, x: Tensor) -> Any:
        return self._function(x, **self.spec.arguments)


class NormaliseStep:
    """act(norm(x)) by the running statistics, which are read at each call."""

    def __init__(self, spec: ir.Normalise, dtype: torch.dtype | None) -> None:
        self.spec, self.dtype = spec, dtype

    def __call__(self, x: Tensor) -> Tensor:
        x = x if self.dtype is None else x.to(self.dtype)
        try:
            norm, alpha = self.spec.norm.read(), self.spec.act.argument()
        except KeyError as error:
            raise Stale(f"the tensor {error} is gone") from error
        mean, var, weight, bias = (
            None if part is None else self._cast(part.detach())
            for part in (norm.mean, norm.var, norm.weight, norm.bias)
        )
        alpha = alpha.detach() if isinstance(alpha, Tensor) else alpha
        return functional.batch_norm_act(
            x, mean, var, weight, bias, eps=norm.eps, act=self.spec.act.name, act_param=alpha
        )

    def _cast(self, statistic: Tensor) -> Tensor:
        # Half precision is normalised by statistics of float32.
        narrow = self.dtype in (torch.float16, torch.bfloat16)
        return statistic if self.dtype is None else statistic.to(torch.float32 if narrow else self.dtype)


def slots_of_norm(spec: ir.Normalise) -> tuple[Slot, ...]:
    """Where the tensors live that a NormaliseStep reads."""
    param = spec.act.param
    return (*spec.norm.slots, *(param.slots if isinstance(param, Weight) else ()))


class SoftmaxStep:
    def __init__(self, spec: ir.Softmax) -> None:
        self.spec = spec

    def __call__(self, x: Tensor) -> Tensor:
        return functional.softmax(x, dim=self.spec.dim)


def activate(x: Tensor, act: Activation, param: float | Tensor | None) -> Tensor:
    """The activation on its own."""
    if act.name == "identity":
        return x
    function: Callable[..., Tensor] = getattr(functional, act.name)
    if param is None:
        return function(x)
    return function(x, param.to(x.dtype) if isinstance(param, Tensor) else param)


class ReadStep:
    """A parameter or buffer of the model that something left to torch reads."""

    def __init__(self, weight: Weight) -> None:
        self.weight = weight

    def __call__(self) -> Tensor:
        try:
            return self.weight.read()
        except KeyError as error:
            raise Stale(f"the tensor {error} is gone") from error


class OwnTypeStep:
    """Something left to torch that has parameters, in a network converted to another type: it keeps its own."""

    def __init__(self, function: Callable[..., Any], dtype: torch.dtype) -> None:
        self.function, self.dtype = function, dtype

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        def widen(leaf: Any) -> Any:
            return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype is self.dtype else leaf

        args, kwargs = torch.utils._pytree.tree_map(widen, (args, kwargs))
        return self.function(*args, **kwargs)


def all_of(*flags: bool) -> bool:
    return all(flags)


def restore(x: Any, channels_last: bool) -> Any:
    """x in the layout that it has in the original network."""
    if not isinstance(x, Tensor) or x.dim() not in (3, 4):
        return x
    swap = channels_last and x.dim() == 4
    x = x.contiguous(memory_format=torch.channels_last if swap else torch.contiguous_format)
    # An extent of 1 leaves its stride open; these are torch's.
    strides, step = [0] * x.dim(), 1
    for dim in (1, 3, 2, 0) if swap else range(x.dim() - 1, -1, -1):
        strides[dim] = step
        step *= max(x.shape[dim], 1)
    return x if x.stride() == tuple(strides) else x.as_strided(x.shape, strides)


class FormatStep:
    """Whether a value is channels_last in the original network: where an input or a weight on its way is."""

    def __init__(self, weights: tuple[Prepared, ...]) -> None:
        self._weights = weights

    def __call__(self, *flags: bool) -> bool:
        return any(flags) or any(prepared.source_channels_last for prepared in self._weights)
