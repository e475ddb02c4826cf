"""Noticing that a model is no longer built as it was when it was converted. Its weights are watched elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastconv import _C
from fastconv.convert.capture import HOOK_TABLES
from fastconv.convert.contents import SEQUENCES, is_plain

_TABLES = ("_modules", *HOOK_TABLES)

# Held by identity: a module that sets one of its own anew changes what it does. A cache that it empties so may be in
# the captured graph as a constant.
_PLAIN = (int, float, bool, str, tuple, torch.Tensor)
_CONTAINERS = (dict, *SEQUENCES)
_OF_EVERY_MODULE = set(vars(nn.Module()))


class Structure:
    """The modules of a model, their hooks, and the numbers, texts and plain tensors that they keep beside their weights
    (BatchNorm's eps, a slope, a stride, a switch of the user's); lists, dictionaries and plain objects, but not what
    lies in them: of that a `WeightStore` watches what graphs have as constants."""

    def __init__(self, model: nn.Module) -> None:
        self._watch = _C.Watch()
        self._kept: list[Any] = []  # what the watch points to
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            state: dict[str, Any] = vars(module)
            # `training`, which every module has, says nothing here: a conversion is for evaluation.
            names = [name for name, value in state.items() if _is_watched(value) and name not in _OF_EVERY_MODULE]
            if "forward" not in state:
                names.append("forward")
            names += _TABLES  # torch replaces some of them when a Sequential loses a member
            self._kept += self._watch.entries(state, names)
            for name in _TABLES:
                self._kept += self._watch.values(state[name])

    def unchanged(self) -> bool:
        """About 0.1 microseconds a module."""
        return self._watch.unchanged()


def _is_watched(value: Any) -> bool:
    return type(value) in _PLAIN or isinstance(value, _CONTAINERS) or is_plain(value)
