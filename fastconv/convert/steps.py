"""What a converted network runs: each step is one call of fastconv.functional with weights made beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastconv import functional
from fastconv.convert import ir
from fastconv.nn.fold import Slot, Sources, fold_norms
from fastconv.nn.weights import Activation, Weight


class Stale(Exception):
    """The model's modules changed in kind, not only in value: the conversion has to be made again."""


class Prepared:
    """The weights of one step, with BatchNorms folded in, and the tensors they came from."""

    def __init__(
        self, spec: ir.Conv | ir.ConvTranspose | ir.Linear | ir.Act, dtype: torch.dtype | None, channels_last: bool
    ) -> None:
        self._spec, self._dtype, self._channels_last = spec, dtype, channels_last
        self._sources: Sources | None = None
        self.slots = _slots(spec)
        self.absent: tuple[Slot, ...] = getattr(spec, "absent", ())
        self.alpha: float | Tensor | None = None
        self.bias: Tensor | None = None
        self.weight: Tensor | None = None
        self.source_channels_last = False

    def refresh(self) -> None:
        """Remakes the weights where a source changed; the tensors stay the same objects otherwise."""
        if self._sources is not None and self._sources.unchanged():
            return
        sources = Sources((*self.slots, *self.absent))
        if any(owner.get(name) is not None for owner, name in self.absent):
            raise Stale("a bias was added")
        try:
            with torch.inference_mode(False), torch.no_grad():
                self._make()
        except KeyError as error:
            raise Stale(f"the weight {error} is gone") from error
        self._sources = sources

    def _make(self) -> None:
        spec = self._spec
        act = None if isinstance(spec, ir.ConvTranspose) else spec.act
        if act is not None:
            alpha = act.argument()
            self.alpha = self._cast(alpha.detach()) if isinstance(alpha, Tensor) else alpha
        if isinstance(spec, ir.Act):
            return
        weight = spec.weight.read()
        bias = None if spec.bias is None else spec.bias.read()
        self.source_channels_last = is_channels_last(weight)
        norms = () if isinstance(spec, ir.Linear) else spec.norms
        if norms:
            groups = spec.groups if isinstance(spec, ir.ConvTranspose) else 0
            weight, bias = fold_norms(weight, bias, [norm.read() for norm in norms], groups)
        weight = self._cast(weight.detach())
        if self._channels_last and not is_channels_last(weight):
            # Not .contiguous(): it keeps the strides of 1x1 and depthwise filters, which read as either format.
            weight = torch.empty_like(weight, memory_format=torch.channels_last).copy_(weight)
        self.weight, self.bias = weight, None if bias is None else self._cast(bias.detach())

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor if self._dtype is None else tensor.to(self._dtype)


def _slots(spec: ir.Spec) -> tuple[Slot, ...]:
    found: list[Slot] = []
    for part in (getattr(spec, "weight", None), getattr(spec, "bias", None), *getattr(spec, "norms", ())):
        found.extend(() if part is None else part.slots)
    act = getattr(spec, "act", None)
    if isinstance(act, Activation) and isinstance(act.param, Weight):
        found.extend(act.param.slots)
    return tuple(found)


class ConvStep:
    """act(norm(conv(pad(upsample(x)))) + residual)"""

    def __init__(self, spec: ir.Conv, prepared: Prepared, dtype: torch.dtype | None) -> None:
        self.spec, self.prepared, self.dtype = spec, prepared, dtype
        self._act = spec.act.name
        self._arguments = (spec.stride, spec.padding, spec.dilation, spec.groups)
        self._shapes: dict[torch.Size, tuple[int, ...]] = {}

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        prepared = self.prepared
        if self.dtype is not None:
            x = x.to(self.dtype)
            residual = None if residual is None else residual.to(self.dtype)
        if residual is not None and (residual.shape != self._output_shape(x) or residual.dtype is not x.dtype):
            # The sum broadcasts or promotes: torch's addition, then the activation.
            return activate(self._call(x, None, "identity", None) + residual, self.spec.act, prepared.alpha)
        return self._call(x, residual, self._act, prepared.alpha)

    def _call(self, x: Tensor, residual: Tensor | None, act: str, alpha: float | Tensor | None) -> Tensor:
        prepared = self.prepared
        if self.spec.upsample != (1, 1):
            return functional.upsample_conv2d(
                x,
                prepared.weight,
                prepared.bias,
                self.spec.upsample,
                *self._arguments,
                residual=residual,
                act=act,
                act_param=alpha,
            )
        return functional.conv2d(
            x, prepared.weight, prepared.bias, *self._arguments, residual=residual, act=act, act_param=alpha
        )

    def _output_shape(self, x: Tensor) -> tuple[int, ...]:
        known = self._shapes.get(x.shape)
        if known is None:
            assert self.prepared.weight is not None
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
    def __init__(self, spec: ir.ConvTranspose, prepared: Prepared, dtype: torch.dtype | None) -> None:
        self.spec, self.prepared, self.dtype = spec, prepared, dtype

    def __call__(self, x: Tensor) -> Tensor:
        spec, prepared = self.spec, self.prepared
        x = x if self.dtype is None else x.to(self.dtype)
        geometry = (spec.stride, spec.padding, spec.output_padding, spec.groups, spec.dilation)
        return functional.conv_transpose2d(x, prepared.weight, prepared.bias, *geometry)


class LinearStep:
    def __init__(self, spec: ir.Linear, prepared: Prepared, dtype: torch.dtype | None) -> None:
        self.spec, self.prepared, self.dtype = spec, prepared, dtype

    def __call__(self, x: Tensor) -> Tensor:
        prepared, act = self.prepared, self.spec.act
        x = x if self.dtype is None else x.to(self.dtype)
        if act.name == "prelu" and x.dim() != 2:
            # torch's channels are dimension 1, the kernel's are the columns: the same for matrices only.
            return activate(functional.linear(x, prepared.weight, prepared.bias), act, prepared.alpha)
        return functional.linear(x, prepared.weight, prepared.bias, act=act.name, act_param=prepared.alpha)


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


def is_channels_last(x: Any) -> bool:
    """Whether torch would carry on in channels_last from here, by its own rule for strides that read both ways."""
    if not isinstance(x, Tensor) or x.dim() != 4:
        return False
    sizes, strides = x.shape, x.stride()
    if strides[1] == 0:
        return False
    least = 0
    for dim in (1, 3, 2, 0):
        if sizes[dim] == 0 or strides[dim] < least or (dim == 0 and least == strides[1]):
            return False
        least = strides[dim] * max(sizes[dim], 1)
    return True


def any_of(*flags: bool) -> bool:
    return any(flags)


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
    """Whether the output of a convolution is channels_last in the original network: where its input or weight is."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared

    def __call__(self, input_is_channels_last: bool) -> bool:
        return input_is_channels_last or self._prepared.source_channels_last
