"""Finding where a module's weight comes from, and which activation a module is, whatever torch wrapped around them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from fastconv.nn.fold import NormTensors, Slot


@dataclass(frozen=True)
class Weight:
    """A tensor that is read anew at each fold, and the slots that decide its value."""

    label: str
    slots: tuple[Slot, ...]
    read: Callable[[], Tensor]

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for two weights that always have the same value."""
        return (self.label, *((id(owner), name) for owner, name in self.slots))


def find_weight(module: nn.Module, name: str, label: str) -> Weight | None:
    """The weight that `module.name` is: a plain, a parametrized or a pruned one. None where it is something else."""
    if parametrize.is_parametrized(module, name):
        parametrizations: Any = module.parametrizations
        chain = parametrizations[name]
        slots = tuple(
            (owner, key) for part in chain.modules() for owner in (part._parameters, part._buffers) for key in owner
        )
        return Weight(label, slots, lambda: getattr(module, name))
    # Named in two steps, for mypy: the two dictionaries have different value types.
    tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
    for owner in tables:
        if isinstance(owner.get(name), Tensor):
            return Weight(label, ((owner, name),), functools.partial(owner.__getitem__, name))
    original, mask = name + "_orig", name + "_mask"
    if original in module._parameters and mask in module._buffers:
        parameters: dict[str, Any] = module._parameters
        buffers: dict[str, Any] = module._buffers
        slots = ((parameters, original), (buffers, mask))
        return Weight(label, slots, lambda: parameters[original] * buffers[mask])
    return None


def stock_type(module: nn.Module) -> type[nn.Module]:
    """The class whose forward the module runs: a parametrized module's class is made on the spot from its own."""
    if parametrize.is_parametrized(module):
        return type(module).__bases__[0]
    return type(module)


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module runs more than its forward, pruning apart: `find_weight` reads that."""
    state = module.__dict__
    if state["_forward_hooks"] or state["_backward_hooks"] or state["_backward_pre_hooks"]:
        return True
    return bool(state["_forward_pre_hooks"]) and any(
        not isinstance(hook, prune.BasePruningMethod) for hook in module._forward_pre_hooks.values()
    )


def runs_forward_hooks(module: nn.Module) -> bool:
    """Whether calling the module runs somebody's code around its forward: not what torch's own utilities register,
    which only makes its weight (pruning, weight_norm, spectral_norm)."""
    if isinstance(module, torch.jit.ScriptModule):
        return False
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(not type(hook).__module__.startswith("torch.nn.utils.") for hook in hooks)


@dataclass(frozen=True)
class Activation:
    """A name of `fastconv.functional`'s `act` list and its parameter: a slope, or PReLU's weight."""

    name: str
    param: float | Weight | None = None

    def argument(self) -> float | Tensor | None:
        """What to pass as `act_param`."""
        return self.param.read() if isinstance(self.param, Weight) else self.param


_BY_TYPE: Mapping[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.SiLU: "silu",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
}


def activation_of(module: nn.Module, label: str = "act") -> Activation | None:
    """The activation that a module computes, or None where it is not one the kernels fuse."""
    for kind, name in _BY_TYPE.items():
        if isinstance(module, kind) and forward_is_stock(module, kind):
            return Activation(name)
    if isinstance(module, nn.LeakyReLU) and forward_is_stock(module, nn.LeakyReLU):
        return Activation("leaky_relu", float(module.negative_slope))
    if isinstance(module, nn.ELU) and forward_is_stock(module, nn.ELU):
        return Activation("elu", float(module.alpha))
    if isinstance(module, nn.GELU) and forward_is_stock(module, nn.GELU) and module.approximate == "none":
        return Activation("gelu")
    if isinstance(module, nn.Hardtanh) and forward_is_stock(module, nn.Hardtanh):
        return Activation("relu6") if (module.min_val, module.max_val) == (0, 6) else None
    if isinstance(module, nn.PReLU) and forward_is_stock(module, nn.PReLU):
        weight = find_weight(module, "weight", f"{label}.weight")
        return None if weight is None else Activation("prelu", weight)
    return None


def forward_is_stock(module: nn.Module, kind: type[nn.Module]) -> bool:
    forward = type(module).forward
    return "forward" not in module.__dict__ and (
        forward is kind.forward or getattr(forward, "__module__", "").startswith("fastconv.nn.")
    )


COUNTER = "num_batches_tracked"
UNCOUNTED = f"without {COUNTER} nothing tells when its statistics have changed"
NORM_TYPES: tuple[type[nn.Module], ...] = (nn.BatchNorm2d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Norm:
    """A BatchNorm that uses running statistics."""

    mean: Weight
    var: Weight
    weight: Weight | None
    bias: Weight | None
    eps: float

    @property
    def slots(self) -> tuple[Slot, ...]:
        parts = (self.mean, self.var, self.weight, self.bias)
        slots = [slot for part in parts if part is not None for slot in part.slots]
        # In training torch writes the running statistics without a new version (pytorch#108863); the counter has one.
        return (*slots, *((owner, COUNTER) for owner, _ in self.mean.slots))

    @property
    def counted(self) -> bool:
        """Whether changes of the running statistics can be noticed."""
        return all(owner.get(COUNTER) is not None for owner, _ in self.mean.slots)

    @property
    def key(self) -> tuple[Any, ...]:
        parts = (self.mean, self.var, self.weight, self.bias)
        return (*(None if part is None else part.key for part in parts), self.eps)

    def read(self) -> NormTensors:
        return NormTensors(
            self.mean.read(),
            self.var.read(),
            None if self.weight is None else self.weight.read(),
            None if self.bias is None else self.bias.read(),
            self.eps,
        )


def norm_of(bn: nn.Module, label: str = "bn") -> Norm | None:
    """The running statistics and affine part of a BatchNorm; None where `reason_not_to_fold` has a reason."""
    if reason_not_to_fold(bn) is not None:
        return None
    mean = find_weight(bn, "running_mean", f"{label}.running_mean")
    var = find_weight(bn, "running_var", f"{label}.running_var")
    if mean is None or var is None:
        return None
    weight = find_weight(bn, "weight", f"{label}.weight")
    bias = find_weight(bn, "bias", f"{label}.bias")
    return Norm(mean, var, weight, bias, float(bn.eps))  # type: ignore[arg-type]


def reason_not_to_fold(bn: nn.Module) -> str | None:
    """Why a BatchNorm in evaluation mode is not a scale and a shift that can be kept."""
    if bn.running_mean is None or bn.running_var is None:
        return "it normalises by the statistics of the batch"
    if bn._buffers.get(COUNTER) is None:
        return UNCOUNTED
    if not any(forward_is_stock(bn, kind) for kind in NORM_TYPES):
        return f"{type(bn).__name__} has a forward of its own"
    return None


def needs_grad(*modules: nn.Module | None) -> bool:
    """Whether a gradient could be wanted for a parameter of the modules."""
    return torch.is_grad_enabled() and any(
        parameter.requires_grad for module in modules if module is not None for parameter in module.parameters()
    )
