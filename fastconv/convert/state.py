"""What a forward keeps in its modules beside weights: caches, lists, flags. A capture leaves none of it behind."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

# Shared with the model, whose weights and members the capture is to see.
_SHARED = {"_parameters", "_buffers", "_modules"}
_MAPPINGS = (dict, collections.OrderedDict, collections.defaultdict)
_SEQUENCES = (list, set, collections.deque)


class Aside:
    """What has been put aside for a capture, and the containers that the forward finds instead."""

    def __init__(self) -> None:
        self.constants: set[str] = set()  # attributes of the root that are to stay
        self._copies: dict[int, Any] = {}
        self._originals: list[Any] = []  # held, as `_copies` goes by their addresses

    def copy(self, value: Any) -> Any:
        """The same in a container of its own; modules that share one share its copy."""
        if id(value) in self._copies or type(value) not in (*_MAPPINGS, *_SEQUENCES):
            return self._copies.get(id(value), value)
        copied = self._copies[id(value)] = value.copy()
        self._originals.append(value)
        if isinstance(copied, dict):
            copied.update({key: self.copy(part) for key, part in value.items()})
        elif not isinstance(copied, set):
            for index, part in enumerate(value):
                copied[index] = self.copy(part)
        return copied

    def kept_of_inputs(self) -> str | None:
        """A value that follows from the inputs and lies where the next call of the forward would find it.

        In a container that was there before the call: one that each call makes anew says nothing to the next. A cache
        of what follows from the weights alone is no matter, since the graph makes that at each call.
        """
        for container in self._copies.values():
            for part in container.values() if isinstance(container, dict) else container:
                if isinstance(part, fx.proxy.Attribute):
                    part = part.root  # asked for its own node, it would make one now
                if isinstance(part, fx.Proxy) and _follows_from_inputs(part.node):
                    return part.node.name
        return None


@contextlib.contextmanager
def put_aside(root: nn.Module) -> Iterator[Aside]:
    """The modules of a shell with containers of their own; afterwards their attributes are what they were.

    A recorded value that stayed in one would be handed out by the model itself, or found by the next capture.
    """
    aside = Aside()
    before = [(vars(m), dict(vars(m))) for m in root.modules() if not isinstance(m, torch.jit.ScriptModule)]
    for state, saved in before:
        state.update({name: aside.copy(value) for name, value in saved.items() if name not in _SHARED})
    try:
        yield aside
    finally:
        for state, saved in before:
            state.update(saved)
            kept = aside.constants if state is vars(root) else ()
            for name in [name for name in state if name not in saved and name not in kept]:
                del state[name]


def _follows_from_inputs(node: fx.Node) -> bool:
    seen, left = {node}, [node]
    while left:
        node = left.pop()
        if node.op == "placeholder":
            return True
        left += [value for value in node.all_input_nodes if value not in seen]
        seen.update(left)
    return False
