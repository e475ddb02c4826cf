"""Blocks that run as one kernel in inference: convolution, BatchNorm and activation, after an upsampling or not."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastconv import functional, ops
from fastconv.functional import conv_norm
from fastconv.nn import layers
from fastconv.nn.fold import Derived, Slot, fold_norms
from fastconv.nn.norm import normalise, normalises_plainly
from fastconv.nn.sync import SyncBatchNorm
from fastconv.nn.weights import (
    NORM_TYPES,
    Activation,
    Weight,
    activation_of,
    find_weight,
    has_hooks,
    needs_grad,
    norm_of,
    stock_type,
)

_Block = TypeVar("_Block", bound="FusedBlock")
Param = float | Tensor | None
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "relu": layers.ReLU,
    "relu6": layers.ReLU6,
    "leaky_relu": layers.LeakyReLU,
    "prelu": layers.PReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "gelu": nn.GELU,
    "elu": nn.ELU,
}


def make_activation(act: str | nn.Module | None) -> nn.Module:
    """The module for an activation's name; a module is returned as it is."""
    name = "identity" if act is None else act
    if isinstance(name, nn.Module):
        return name
    if name not in _ACTIVATIONS:
        raise ValueError(
            f"make_activation: expected act to be one of {', '.join(_ACTIVATIONS)} or a module, but got {act!r}"
        )
    return _ACTIVATIONS[name]()


@dataclass(frozen=True)
class _Plan:
    """How a block runs, and what that was decided by: the contents of dictionaries of its parts."""

    folded: Derived | None
    activation: Activation | None
    decided_by: tuple[tuple[dict[str, Any], str, Any], ...]

    def holds(self) -> bool:
        for owner, name, value in self.decided_by:  # noqa: SIM110  a generator costs twice as much
            if owner.get(name) is not value:
                return False
        return True


class FusedBlock(nn.Module):
    """conv, bn and act run one after the other in training, and as one kernel with folded weights in inference."""

    conv: nn.Conv2d
    bn: nn.Module | None
    act: nn.Module

    def _set_parts(self, conv: nn.Conv2d, bn: nn.Module | None, act: nn.Module) -> None:
        self.conv = conv
        self.register_module("bn", bn)
        self.act = act
        self._plan: _Plan | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A fold belongs to this object's tensors; a copy or a pickle makes its own.
        return {**self.__dict__, "_plan": None}

    def _make_plan(self) -> _Plan:
        conv, bn, act = self.conv, self.bn, self.act
        activation = Activation("identity") if isinstance(act, nn.Identity) else activation_of(act)
        norm = None if bn is None else norm_of(bn)
        children: dict[str, Any] = self._modules
        decided_by = [(children, name, children[name]) for name in ("conv", "bn", "act")]
        for part in (bn, act):
            state: dict[str, Any] = vars(part) if part is not None else {}
            decided_by += [
                (state, name, value)
                for name, value in state.items()
                if isinstance(value, int | float | str) and name != "training"  # the plan is for both modes
            ]
        parametrized: Any = conv._modules.get("parametrizations")
        decided_by.append((cast("dict[str, Any]", conv._modules), "parametrizations", parametrized))
        for chain in () if parametrized is None else parametrized.values():
            decided_by += [(chain._modules, str(i), chain._modules.get(str(i))) for i in range(len(chain) + 1)]
        if find_weight(conv, "weight", "conv.weight") is None or (bn is not None and norm is None):
            return _Plan(None, activation, tuple(decided_by))

        def sources() -> tuple[Weight, Weight | None]:
            # Looked up at each fold: a bias may be assigned later, pruning may move the weight.
            weight, bias = find_weight(conv, "weight", "conv.weight"), find_weight(conv, "bias", "conv.bias")
            if weight is None:
                raise RuntimeError(f"{type(self).__name__}: the convolution's weight is gone")
            return weight, bias

        def slots() -> list[Slot]:
            weight, bias = sources()
            parameters: dict[str, Any] = conv._parameters
            return [
                *weight.slots,
                (parameters, "weight"),
                *(bias.slots if bias else [(parameters, "bias")]),
                *(norm.slots if norm else []),
            ]

        def make() -> tuple[Tensor, Tensor | None]:
            weight, bias = sources()
            old_bias = bias.read().detach() if bias else None
            if norm is None:
                return weight.read().detach(), old_bias
            return fold_norms(weight.read(), old_bias, [norm.read()])

        return _Plan(Derived(slots, make), activation, tuple(decided_by))

    def forward(self, x: Tensor) -> Tensor:
        # Not self.conv: nn.Module's lookup of children costs half a microsecond each.
        children: dict[str, Any] = self._modules
        conv, bn, act = children["conv"], children["bn"], children["act"]
        plan = self._plan
        if plan is None or not plan.holds():
            plan = self._plan = self._make_plan()
        folded, activation = plan.folded, plan.activation
        if (
            folded is None
            or torch.compiler.is_compiling()
            or ops.transforming()
            or (bn is not None and bn.training)
            or (torch.is_grad_enabled() and needs_grad(self))
            or has_hooks(conv)
            or (bn is not None and has_hooks(bn))
            or has_hooks(act)
        ):
            return self._composed(x)
        weight, bias = folded.get()
        if activation is None:
            return self.act(self._convolve(x, weight, bias, "identity", None))
        return self._convolve(x, weight, bias, activation.name, activation.argument())

    def _composed(self, x: Tensor) -> Tensor:
        bn, activation = self.bn, self._plan.activation if self._plan else None
        if bn is None or activation is None or not normalises_plainly(bn) or has_hooks(self.act):
            y = self._convolve_composed(x)
            return self.act(y if bn is None else bn(y))
        found = self._convolve_with_statistics(x) if bn.training else None
        y, *statistics = (self._convolve_composed(x),) if found is None else found
        return normalise(bn, y, activation.name, activation.argument(), cast(Any, statistics) or None)

    def _convolve_composed(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def _convolve_with_statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """The convolution with its result's mean and variance, where one call gives both."""
        return None

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, act: str, param: Param) -> Tensor:
        conv: Any = self._modules["conv"]
        padding = conv.padding
        if conv.padding_mode != "zeros":
            x, padding = self._padded(x)
        return functional.conv2d(
            x, weight, bias, conv.stride, padding, conv.dilation, conv.groups, act=act, act_param=param
        )

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """x with a padding that is not of zeros, and what is left to the kernels."""
        conv: Any = self._modules["conv"]
        return F.pad(x, conv._reversed_padding_repeated_twice, mode=conv.padding_mode), (0, 0)

    @classmethod
    def _from_parts(cls: type[_Block], conv: nn.Conv2d, bn: nn.Module | None, act: nn.Module | None) -> _Block:
        if not isinstance(conv, nn.Conv2d) or type(conv).forward is not nn.Conv2d.forward:
            raise TypeError(f"{cls.__name__}.from_torch: expected conv to be a torch.nn.Conv2d, but got {conv}")
        if bn is not None and not isinstance(bn, (*NORM_TYPES, SyncBatchNorm)):
            raise TypeError(f"{cls.__name__}.from_torch: expected bn to be a BatchNorm2d or None, but got {bn}")
        if bn is not None and bn.num_features != conv.out_channels:
            raise ValueError(
                f"{cls.__name__}.from_torch: expected bn to have conv's {conv.out_channels} channels, but got "
                f"{bn.num_features}"
            )
        block = cls.__new__(cls)
        nn.Module.__init__(block)
        if type(conv) is nn.Conv2d:
            # The caller's module stays what it is; the block's own shares its parameters.
            shared = copy.copy(conv)
            shared.__dict__.update(_parameters=dict(conv._parameters), _buffers=dict(conv._buffers))
            shared.__class__ = layers.Conv2d
            conv = shared
        block._set_parts(conv, bn, make_activation(act))
        block.train(conv.training if bn is None else bn.training)
        return block


class ConvBNAct2d(FusedBlock):
    """Convolution, BatchNorm and activation: y = act(bn(conv(x))).

    Equivalent to ``torch.nn.Sequential(Conv2d(..., bias=False), BatchNorm2d(...), ReLU())``. In training, or where a
    parameter may want a gradient, the convolution runs first, on Hopper with the batch's statistics from its epilogue,
    then BatchNorm and activation in one pass (a module with hooks, a SyncBatchNorm and an activation that the kernels
    do not know run by themselves). In inference one kernel runs with the BatchNorm folded into the weights, anew after
    every change that torch records: not after an edit through ``.data``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode: as torch.nn.Conv2d.
        act: name of an activation, or a module.
        eps, momentum, affine, track_running_stats: as torch.nn.BatchNorm2d.
        bias: whether the convolution has a bias of its own; the BatchNorm makes it redundant.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | str | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        act: str | nn.Module | None = "relu",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        bias: bool = False,
        padding_mode: PaddingMode = "zeros",
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        conv = layers.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        bn = nn.BatchNorm2d(out_channels, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self._set_parts(conv, bn, make_activation(act))

    def _convolve_with_statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        conv: Any = self._modules["conv"]
        stock = stock_type(conv) is layers.Conv2d and not has_hooks(conv) and not conv._forward_pre_hooks
        if not stock or not conv_norm.gives_statistics(x):
            return None
        padding = conv.padding
        if conv.padding_mode != "zeros":
            x, padding = self._padded(x)
        return conv_norm.conv2d_stats(x, conv.weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)

    @classmethod
    def from_torch(cls, conv: nn.Conv2d, bn: nn.Module | None = None, act: nn.Module | None = None) -> ConvBNAct2d:
        """The block that computes act(bn(conv(x))) with the same parameter objects; bn and act may be missing."""
        return cls._from_parts(conv, bn, act)
