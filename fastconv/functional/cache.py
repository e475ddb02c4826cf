"""Packed weights of functional calls: a bounded cache that notices when a weight changes.

An entry is found by the identity of its weight, and valid while that has the same `_version` and `data_ptr`. It is
dropped when the weight dies, when the total exceeds the capacity (least recently used first), or when the instruction
set changes. The steps of torch's fused optimizers, which leave the version, are seen by a hook (`edits`). What nothing
records the cache cannot see: an edit through `.data`, through NumPy's view of the same memory or by a collective of
torch.distributed needs `torch.autograd.graph.increment_version(weight)`, which torch has for this, or `clear()`.
Tensors made in inference mode have no counter and are not cached.
"""

import itertools
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastconv.ops import native

from . import edits
from .choice import TRANSFORMED, UNPACKED

# Bytes. Packed weights are as large as the weights and die with them; a network that does not fit would pack all of
# them at every call, as the least recently used one is the next to be read. VGG-16 has 528 MiB.
DEFAULT_CAPACITY = 1 << 30
_PLAIN = (Tensor, torch.nn.Parameter)


def _can_be_watched(t: Tensor) -> bool:
    """Subclasses may lie about versions and data, or be traced; tensors inside vmap have no address. The kernels pack
    these call by call."""
    return type(t) in _PLAIN and not t.is_inference() and not torch._C._functorch.is_functorch_wrapped_tensor(t)


class _Entry:
    __slots__ = ("address", "bytes", "packed", "ref", "step", "storage", "used", "version")

    def __init__(self, weight: Tensor, drop: Callable[[Any], None]) -> None:
        """Takes the weight's state. Made before packing: a change by another thread in the meantime counts as one."""
        self.ref = weakref.ref(weight, drop)
        self.version, self.address = weight._version, weight.data_ptr()
        self.step = edits.steps  # when the packed form was last known to be good
        # Kept alive: after `.half()` and `.float()` a freed address could come back under other values with the same
        # version.
        self.storage = weight.untyped_storage()
        self.packed: Tensor | None = None
        self.bytes = self.used = 0

    def holds(self, weight: Tensor) -> bool:
        """Whether the packed form is that of `weight` as it is now."""
        if self.ref() is not weight or self.version != weight._version or self.address != weight.data_ptr():
            return False
        if self.step != edits.steps:
            if edits.written_since(self.step, weight):
                return False
            self.step = edits.steps
        return True


class _Cache:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.hits = self.misses = self.evictions = self.bytes = 0
        self._entries: dict[tuple[Any, ...], _Entry] = {}
        # Reentrant: a garbage collection inside may run an entry's weakref callback.
        self._lock = threading.RLock()
        self._clock = itertools.count(1)

    def get(self, key: tuple[Any, ...], weight: Tensor, pack: Callable[[], Tensor]) -> Tensor | None:
        """The packed weight, made anew when there is none or the weight has changed; None where kernels want none, and
        for a weight whose changes cannot be seen: packing for one call is the kernels' own business."""
        entry = self._entries.get(key)
        if entry is not None and entry.holds(weight):
            entry.used = next(self._clock)
            self.hits += 1
            return entry.packed
        if not _can_be_watched(weight):
            return None
        self.misses += 1
        entry = _Entry(weight, lambda _: self.drop(key))
        with torch._C._AutoDispatchBelowAutograd():
            packed = pack()
        if packed.numel():
            entry.packed, entry.bytes = packed, packed.numel() * packed.element_size()
        self._put(key, entry)
        return entry.packed

    def _put(self, key: tuple[Any, ...], entry: _Entry) -> None:
        with self._lock:
            self.drop(key)
            if entry.bytes > self.capacity:
                return
            entry.used = next(self._clock)
            self._entries[key] = entry
            self.bytes += entry.bytes
            self._shrink()

    def _shrink(self) -> None:
        while self.bytes > self.capacity:
            oldest = min(self._entries, key=lambda key: self._entries[key].used)
            self.drop(oldest)
            self.evictions += 1

    def drop(self, key: tuple[Any, ...]) -> None:
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is not None:
                self.bytes -= entry.bytes

    def drop_of(self, tensors: tuple[Tensor | None, ...]) -> None:
        with self._lock:
            for key, entry in list(self._entries.items()):
                if any(entry.ref() is t for t in tensors):
                    self.drop(key)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self.bytes = 0

    def resize(self, capacity: int) -> None:
        with self._lock:
            self.capacity = capacity
            self._shrink()

    def __len__(self) -> int:
        return len(self._entries)


def _capacity_from_environment() -> int:
    text = os.environ.get("FASTCONV_CACHE_MIB", "")
    if not text:
        return DEFAULT_CAPACITY
    if not text.isdigit():
        raise ValueError(f"FASTCONV_CACHE_MIB: expected a number of MiB, but got {text!r}")
    return int(text) << 20


_cache = _Cache(_capacity_from_environment())


def conv2d_weight(weight: Tensor, groups: int, algo: str = "") -> Tensor | None:
    """The weight in the format of the CPU kernels for conv2d, or None where they want none."""
    if algo == UNPACKED:
        return None
    kind = algo if algo in TRANSFORMED else ""
    key = (id(weight), "conv2d", groups, kind)
    return _cache.get(key, weight, lambda: native.pack_conv2d_weight(weight, groups, kind))


def upsample_weight(weight: Tensor, *geometry: Any) -> Tensor | None:
    """`geometry` is scale_factor, stride, padding (four values), dilation, groups."""
    key = (id(weight), "upsample", *geometry)
    return _cache.get(key, weight, lambda: native.pack_upsample_weight(weight, *geometry))


def transpose_weight(weight: Tensor, *geometry: Any) -> Tensor | None:
    """`geometry` is stride, padding (two values), dilation, groups."""
    key = (id(weight), "transpose", *geometry)
    return _cache.get(key, weight, lambda: native.pack_transpose_weight(weight, *geometry))


def gemm_b(b: Tensor, transpose_b: bool) -> Tensor | None:
    """The right operand of a product."""
    return _cache.get((id(b), "gemm", transpose_b), b, lambda: native.pack_gemm_b(b, transpose_b))


def forget(*tensors: Tensor | None) -> None:
    """Drops the packed forms of these tensors, and with them the weak references to them."""
    _cache.drop_of(tensors)


def clear() -> None:
    """Drops everything. Needed after an edit that autograd's version counter does not see, such as through `.data`, and
    before `torch.utils.swap_tensors`, which refuses tensors with weak references."""
    _cache.clear()


def set_capacity(size: int) -> None:
    """The most bytes to keep (default 1 GiB, or FASTCONV_CACHE_MIB); 0 switches the cache off."""
    if size < 0:
        raise ValueError(f"set_capacity: expected size to be at least 0, but got {size}")
    _cache.resize(size)


def stats() -> dict[str, int]:
    """hits, misses, evictions, entries, bytes and capacity."""
    return {
        "hits": _cache.hits,
        "misses": _cache.misses,
        "evictions": _cache.evictions,
        "entries": len(_cache),
        "bytes": _cache.bytes,
        "capacity": _cache.capacity,
    }
