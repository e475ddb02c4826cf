"""What a forward keeps in its modules beside weights: caches, lists, counters. A capture leaves none of it behind, and
takes none of it for a constant that the next call would find changed.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from fastconv.convert.contents import (
    ATOMS,
    NUMBERS,
    RECORDED,
    SEQUENCES,
    contents,
    leaves,
    own_copy,
    put,
    refill,
    remove,
)

_MISSING = object()


class CaptureError(Exception):
    """The model cannot be represented as a graph; the text says why."""


class KeptError(CaptureError):
    """What it keeps decides what its next call does: however it were captured, the graph would be wrong."""


class _Change(NamedTuple):
    owner: Any  # of the shell: a module, a container or a plain object
    key: Any  # None where the whole container is meant
    left: int  # how many entries there are now
    why: str


class _Unknown:
    """In the place of what an earlier call has left: nobody may ask for its value."""

    def __bool__(self) -> bool:
        raise KeptError("it asks for what an earlier call has left")

    def __eq__(self, other: object) -> bool:
        return bool(self)

    __hash__ = object.__hash__


class Trial:
    """A throw-away twin of a shell for one capture: its modules have attributes, containers and plain objects of their
    own, so that neither the model nor threads that run parts of it meanwhile see what the capture writes.

    Tensors are the shell's. So are objects whose class says how they are copied or closed, and those that other code
    knows by identity: what a capture has written into such is taken out again.
    """

    def __init__(self, root: nn.Module) -> None:
        self._copies: dict[int, Any] = {}
        self._made: dict[int, tuple[Any, Any, dict[Any, Any]]] = {}  # by copy: itself, the original, what was in it
        self._shared: dict[int, tuple[Any, dict[Any, Any]]] = {}
        self._weights: set[int] = set()
        self._found: list[_Change] | None = None
        modules: list[tuple[nn.Module, nn.Module]] = []
        self.root = self._twin(root, modules)
        for module, twin in modules:
            self._fill(module, twin)

    def _twin(self, module: nn.Module, made: list[tuple[nn.Module, nn.Module]]) -> Any:
        if isinstance(module, torch.jit.ScriptModule):
            return module
        if id(module) not in self._copies:
            twin = self._copies[id(module)] = object.__new__(type(module))
            made.append((module, twin))
            children = dict(module._modules)
            twin.__dict__["_modules"] = {
                name: None if child is None else self._twin(child, made) for name, child in children.items()
            }
        return self._copies[id(module)]

    def _fill(self, module: nn.Module, twin: nn.Module) -> None:
        from fastconv.convert.region import Region

        for name, value in dict(vars(module)).items():
            if name != "_modules" and not isinstance(value, Region):  # which is an eager part's forward
                twin.__dict__[name] = self._copy(value)
        self._weights |= {id(twin._parameters), id(twin._buffers)}
        self._made[id(twin)] = (twin, module, contents(twin))

    def _copy(self, value: Any) -> Any:
        """The same in a container of its own; modules that share one share its copy."""
        if id(value) in self._copies:
            return self._copies[id(value)]
        if type(value) is tuple or (isinstance(value, tuple) and hasattr(value, "_fields")):
            parts = [self._copy(part) for part in value]
            if all(part is old for part, old in zip(parts, value, strict=True)):
                return value
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        copied = own_copy(value)
        if copied is value:
            self._share(value, 0)
            return value
        self._copies[id(value)] = copied
        self._made[id(copied)] = (copied, value, {})  # which holds the original, as `_copies` goes by its address
        # Of an object the original's: what it makes of them when it is copied is no one else's.
        held = contents(copied if isinstance(value, (dict, *SEQUENCES)) else value)
        for key, part in held.items():
            own = part if isinstance(copied, set) else self._copy(part)
            if own is not part:
                put(copied, key, own)
        self._made[id(copied)] = (copied, value, contents(copied))
        return copied

    def _share(self, value: Any, depth: int) -> None:
        if isinstance(value, types.MethodType):
            value = value.__self__
        if depth > 4 or id(value) in self._shared or isinstance(value, (*ATOMS, *RECORDED)):
            return
        before = contents(value)
        self._shared[id(value)] = (value, before)
        for part in before.values():
            self._share(part, depth + 1)

    def run(self, trace: Callable[[Trial], fx.Graph]) -> fx.Graph:
        """The graph of the twin.

        Raises:
            KeptError: a recorded value went into something that is not the twin's own.
        """
        try:
            graph = trace(self)
        finally:
            taken = self._take_back()
        if taken is not None:
            raise KeptError(f"it keeps recorded values in {taken}, which cannot be put aside")
        if self._found is None:
            called = [self.root.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"]
            self._found = self._changes({id(inner) for module in called for inner in module.modules()})
        return graph

    def look(self) -> None:
        """At the end of a forward whose weights are exchanged, and whose attributes will be what they were."""
        self._found = self._changes(set(self._weights))

    def _take_back(self) -> str | None:
        taken = None
        for value, before in list(self._shared.values()):
            for key, part in contents(value).items():
                if part is before.get(key, _MISSING) or not any(isinstance(x, RECORDED) for x in leaves(part)):
                    continue
                taken = type(value).__name__
                if isinstance(value, SEQUENCES):
                    refill(value, list(before.values()))
                    break
                remove(value, key)
                if key in before:
                    put(value, key, before[key])
        return taken

    def _changes(self, seen: set[int]) -> list[_Change]:
        """What the next call would find and the one before did not: other numbers, tensors in the place of tensors,
        and values that follow from the inputs.

        A cache of what follows from the weights alone is no matter, since the graph makes that at each call. Modules
        in `seen` run as they are.
        """
        found: list[_Change] = []
        left: list[Any] = [self.root]
        while left:
            value = left.pop()
            if id(value) in seen or isinstance(value, (*ATOMS, *RECORDED)):
                continue
            seen.add(id(value))
            if id(value) not in self._made and isinstance(value, nn.Module):
                continue
            now = contents(value)
            left += now.values()
            if id(value) in self._made:
                _, original, before = self._made[id(value)]
                found += _differences(original, before, now)
        return found

    def forbid(self, changes: list[_Change]) -> None:
        """Takes out what the changes have put in: a call that gets along without it does not depend on calls before."""
        for owner, key, count, _ in changes:
            copied = self._copies[id(owner)]
            if key is None:
                refill(copied, [_Unknown() for _ in range(count)])
            elif count:
                put(copied, key, _Unknown())
            else:
                remove(copied, key)

    @property
    def found(self) -> list[_Change]:
        return self._found or []


def without_state(root: nn.Module, trace: Callable[[Trial], fx.Graph]) -> tuple[fx.Graph, nn.Module]:
    """What `trace` records of a twin of `root`, and that twin.

    Raises:
        KeptError: the recorded call would not be the next one's, because of what this one keeps.
    """
    trial = Trial(root)
    graph = trial.run(trace)
    if trial.found:
        again = Trial(root)
        try:
            again.forbid(trial.found)
            same = str(again.run(trace)) == str(graph)
        except Exception:
            same = False
        if not same:
            raise KeptError(trial.found[0].why)
    return graph, trial.root


def _differences(owner: Any, before: dict[Any, Any], now: dict[Any, Any]) -> Iterator[_Change]:
    for key, part in now.items():
        old = before.get(key, _MISSING)
        if part is old or (type(part) is type(old) and isinstance(part, NUMBERS) and part == old):
            continue
        replaced = isinstance(old, Tensor) and isinstance(part, (Tensor, *RECORDED))
        if why := f"it replaces the tensor {key!r} for calls to come" if replaced else _kept(key, part):
            yield _Change(owner, None if isinstance(owner, SEQUENCES) else key, len(now), why)
    for key in before:
        if key not in now:
            whole = isinstance(owner, SEQUENCES)
            why = f"it takes {key!r} out of what it keeps for calls to come"
            yield _Change(owner, None if whole else key, len(now) if whole else 0, why)


def _kept(key: Any, value: Any) -> str | None:
    for leaf in leaves(value):
        if isinstance(leaf, NUMBERS):
            return f"it keeps the number {key!r}, which it changes, for calls to come"
        if isinstance(leaf, fx.proxy.Attribute):
            leaf = leaf.root  # asked for its own node, it would make one now
        if isinstance(leaf, fx.Proxy):
            if _follows_from_inputs(leaf.node):
                return f"it keeps {leaf.node.name}, which follows from its inputs, for calls to come"
        elif isinstance(leaf, RECORDED):
            return f"it keeps a tensor, {key!r}, for calls to come"
    return None


def _follows_from_inputs(node: fx.Node) -> bool:
    seen, left = {node}, [node]
    while left:
        node = left.pop()
        if node.op == "placeholder":
            return True
        left += [value for value in node.all_input_nodes if value not in seen]
        seen.update(left)
    return False
