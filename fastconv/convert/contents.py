"""What objects hold, and how it is copied, put in and taken out: containers, plain objects, modules as attributes."""

from __future__ import annotations

import collections
import copy
import copyreg
import sys
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

MAPPINGS = (dict, collections.OrderedDict, collections.defaultdict)
SEQUENCES = (list, set, collections.deque)
NUMBERS = (int, float, complex, str, type(None))
ATOMS = (*NUMBERS, bytes, Tensor, torch.Size, torch.dtype, torch.device, type, types.FunctionType, types.ModuleType)
RECORDED = (fx.Proxy, FakeTensor, FunctionalTensor)  # what captures make instead of tensors

_COPYING = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
_HEAP_TYPE = 1 << 9  # of a class that Python code has defined


def own_copy(value: Any) -> Any:
    """A copy of the outermost level; the value itself where it has none, or is to stay the only one."""
    if type(value) in (*MAPPINGS, *SEQUENCES):
        return value.copy()
    if not isinstance(value, (dict, *SEQUENCES)) and not is_plain(value):
        return value
    try:
        return copy.copy(value)
    except Exception:
        return value


def is_plain(value: Any) -> bool:
    """Whether an object is no more than its attributes."""
    kind = type(value)
    if isinstance(value, (*ATOMS, nn.Module)) or not kind.__flags__ & _HEAP_TYPE or hasattr(kind, "__del__"):
        return False
    if kind.__module__.split(".")[0] in ("torch", "fastconv") or not contents(value):
        return False
    if not hasattr(kind, "__copy__") and any(getattr(kind, x, None) is not getattr(object, x, None) for x in _COPYING):
        return False
    # A constant of a module or a class, which code may compare with.
    known = (*vars(sys.modules.get(kind.__module__, kind)).copy().values(), *vars(kind).values())
    return all(other is not value for other in known)


def contents(value: Any) -> dict[Any, Any]:
    """By key, index, or name of the attribute; of a value that other threads change, as it was at one instant."""
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, set):
        return {part: part for part in value.copy()}
    if isinstance(value, list | tuple | collections.deque):
        return dict(enumerate(list(value)))
    found = dict(getattr(value, "__dict__", {}))
    for name in copyreg._slotnames(type(value)):  # type: ignore[attr-defined]
        if hasattr(value, name):
            found[name] = getattr(value, name)
    return found


def put(value: Any, key: Any, part: Any) -> None:
    if isinstance(value, collections.OrderedDict):
        collections.OrderedDict.__setitem__(value, key, part)
    elif isinstance(value, dict):
        dict.__setitem__(value, key, part)
    elif isinstance(value, list | collections.deque):
        value[key] = part
    elif key in copyreg._slotnames(type(value)):  # type: ignore[attr-defined]
        object.__setattr__(value, key, part)
    else:
        vars(value)[key] = part


def remove(value: Any, key: Any) -> None:
    if isinstance(value, dict):
        value.pop(key, None)
    elif key in copyreg._slotnames(type(value)):  # type: ignore[attr-defined]
        object.__delattr__(value, key)
    else:
        vars(value).pop(key, None)


def refill(value: Any, parts: list[Any]) -> None:
    value.clear()
    if isinstance(value, set):
        value.update(parts)
    else:
        value.extend(parts)


def leaves(value: Any) -> Iterator[Any]:
    """Everything in it that holds nothing."""
    seen: set[int] = set()
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, (*RECORDED, *ATOMS)):
            yield value
        elif id(value) not in seen and not isinstance(value, nn.Module):
            seen.add(id(value))
            left += contents(value).values()


Entry = tuple[dict[Any, Any], Any, Any]  # a dictionary, a key, what is there


def entries_on_the_way(wanted: dict[int, Any], root: nn.Module) -> list[Entry]:
    """Through which dictionaries and attributes of plain objects code gets from a module's attribute to one of these
    objects, which are given by address."""
    found: list[Entry] = []
    seen: set[int] = set()
    left: list[tuple[Any, tuple[Entry, ...]]] = []
    for module in root.modules():
        left += [(part, ()) for part in list(vars(module).values())]
    while left:
        value, way = left.pop()
        if id(value) in wanted:
            found += way
        if id(value) in seen or isinstance(value, (*RECORDED, *ATOMS, nn.Module)):
            continue
        seen.add(id(value))
        table = value if isinstance(value, dict) else getattr(value, "__dict__", {})
        for key, part in contents(value).items():
            left.append((part, (*way, (table, key, part)) if key in table else way))
    return found
