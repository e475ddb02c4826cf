"""Swapping torch's layers for fastconv's, one for one, inside the objects that already exist."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from fastconv.nn.layers import REPLACEMENTS, packs_weights


def replace(model: nn.Module) -> nn.Module:
    """Makes every layer of `model` that fastconv has run on fastconv's kernels, and returns `model`.

    Only the class of each layer changes: parameters, buffers, hooks, pruning masks, parametrizations, the training
    flag and the sharing of modules are the same objects as before, so optimizers, DistributedDataParallel and
    checkpoints made before or after fit. Calling it again changes nothing.

    A subclass with a forward of its own is left alone, since that forward may do anything; `fastconv.explain(model)`
    lists what was left and why. Functional calls inside a forward (`F.relu`) are not layers and stay torch's:
    `fastconv.convert` serves those.

    Args:
        model: any module, in training or evaluation mode; changed in place.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"replace: expected model to be a torch.nn.Module, but got {type(model).__name__}")
    for module in model.modules():
        stand_in = replacement_class(module)
        if stand_in is not None:
            module.__class__ = stand_in
    return model


def replacement_class(module: nn.Module) -> type[nn.Module] | None:
    """The class that `module` is to get, or None to leave it."""
    found = _torch_layer(type(module))
    if found is None or reason_to_leave(module) is not None:
        return None
    if type(module) is found:
        return REPLACEMENTS[found]
    if parametrize.is_parametrized(module):
        base = type(module).__bases__[0]
        fast = REPLACEMENTS[found] if base is found else _inheriting(base, REPLACEMENTS[found])
        # torch puts the computed properties on a class of its own for every module, and goes back to its first base.
        namespace = {k: v for k, v in vars(type(module)).items() if k not in ("__dict__", "__weakref__")}
        return type(type(module).__name__, (fast,), namespace)
    return _inheriting(type(module), REPLACEMENTS[found])


def reason_to_leave(module: nn.Module) -> str | None:
    """Why a layer of a kind that fastconv has stays torch's; None where it can be replaced or is of another kind."""
    kind = type(module)
    layer = _torch_layer(kind)
    if layer is None:
        return None
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "lazy: its shape is not known before the first call"
    if kind is not layer and not parametrize.is_parametrized(module) and kind.__module__.startswith("torch."):
        return f"torch calls {kind.__name__}'s weight itself, not the module"
    if "forward" in module.__dict__:
        return "its forward was replaced on the object"
    for method in ("forward", "_conv_forward"):
        if getattr(kind, method, None) is not getattr(layer, method, None):
            return f"{kind.__name__} has a {method} of its own"
    return None


def _torch_layer(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The layer of torch's that a class is or inherits from, None for other classes and for fastconv's own."""
    if runs_on_fastconv(kind):
        return None
    return next((base for base in kind.__mro__ if base in REPLACEMENTS), None)


def runs_on_fastconv(kind: type[nn.Module]) -> bool:
    """Whether a class of layers is one of fastconv's, or was made to run like one."""
    return any(base in _FAST for base in kind.__mro__)


_FAST = set(REPLACEMENTS.values())


_MADE: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}


def _inheriting(kind: type[nn.Module], fast: type[nn.Module]) -> type[nn.Module]:
    """A subclass of the user's `kind` that runs `fast`'s forward: isinstance and the user's methods keep working."""
    if (kind, fast) in _MADE:
        return _MADE[kind, fast]
    namespace: dict[str, Any] = {
        name: getattr(fast, name) for name in ("forward", "_conv_forward") if name in vars(fast)
    }

    def __reduce_ex__(self: nn.Module, protocol: Any) -> Any:
        # The class is made at run time: a pickle names the two classes it is made from.
        return _rebuild, (kind, fast), self.__getstate__() if hasattr(self, "__getstate__") else self.__dict__

    namespace.update(__reduce_ex__=__reduce_ex__, __module__=kind.__module__, __qualname__=kind.__qualname__)
    made = _MADE[kind, fast] = type(kind.__name__, (kind,), namespace)
    if "_apply" in vars(fast):
        packs_weights(made)
    _FAST.add(made)
    return made


def _rebuild(kind: type[nn.Module], fast: type[nn.Module]) -> nn.Module:
    made = _inheriting(kind, fast)
    return made.__new__(made)
