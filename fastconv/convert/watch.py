"""Noticing that a model is no longer built as it was when it was converted. Its weights are watched elsewhere."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


# Held by identity: a module that sets one of its own anew changes what it does.
_PLAIN = (int, float, bool, str, tuple, torch.Tensor)


class Structure:
    """The modules of a model, their hooks, and the numbers, texts and plain tensors that they keep beside their weights
    (BatchNorm's eps, a slope, a stride, a switch of the user's); what lies in lists and dictionaries is not watched."""

    def __init__(self, model: nn.Module) -> None:
        self._children: list[tuple[dict[str, Any], tuple[nn.Module | None, ...]]] = []
        self._values: list[tuple[dict[str, Any], Any, tuple[Any, ...]]] = []
        self._states: list[dict[str, Any]] = []
        self._empty: list[Any] = []
        self._hooks: list[tuple[Any, tuple[int, ...]]] = []
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            state: dict[str, Any] = vars(module)
            children: dict[str, Any] = state["_modules"]
            if children:
                self._children.append((children, tuple(children.values())))
            else:
                self._empty.append(children)
            # `training` says nothing here: a conversion is for evaluation.
            names = [name for name, value in state.items() if type(value) in _PLAIN and name != "training"]
            if names:
                get = operator.itemgetter(*names, names[0])  # two at least: a tuple
                self._values.append((state, get, get(state)))
            if "forward" not in state:
                self._states.append(state)
            for table in (state[name] for name in _HOOKS):
                if table:
                    self._hooks.append((table, tuple(table)))
                else:
                    self._empty.append(table)

    def unchanged(self) -> bool:
        """About 0.3 microseconds a module."""
        if any(self._empty):
            return False
        for table, handles in self._hooks:
            if tuple(table) != handles:
                return False
        for children, modules in self._children:
            if len(children) != len(modules) or not all(map(operator.is_, children.values(), modules)):
                return False
        for state in self._states:
            if "forward" in state:
                return False
        try:
            for state, get, values in self._values:
                if not all(map(operator.is_, get(state), values)):
                    return False
        except KeyError:  # one was deleted
            return False
        return True
