"""Packed weights and folded BatchNorms of functional calls: a bounded cache that notices when a tensor changes.

An entry is found by the identities of its tensors, and valid while each is the same object with the same `_version`
and `data_ptr`. It is dropped when one of them dies, when the total exceeds the capacity (least recently used first),
or when the instruction set changes. What the version counter cannot see, the cache cannot either: an edit through
`.data` or through NumPy's view of the same memory needs `clear()`. Tensors made in inference mode have no counter and
are not cached.
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

DEFAULT_CAPACITY = 256 << 20  # bytes
_PLAIN = (Tensor, torch.nn.Parameter)
_Stamps = tuple[tuple[int, int], ...]  # (version, address) of each tensor


def _can_be_watched(t: Tensor) -> bool:
    """Subclasses may lie about versions and data, or be traced; tensors inside vmap have no address. The kernels pack
    these call by call."""
    return type(t) in _PLAIN and not t.is_inference() and not torch._C._functorch.is_functorch_wrapped_tensor(t)


class _Entry:
    __slots__ = ("bytes", "refs", "stamps", "storages", "used", "value")

    def __init__(
        self, tensors: tuple[Tensor, ...], stamps: _Stamps, value: Any, size: int, drop: Callable[[Any], None]
    ) -> None:
        self.refs = tuple(weakref.ref(t, drop) for t in tensors)
        self.stamps = stamps
        # Kept alive: after `.half()` and `.float()` a freed address could come back under other values with the same
        # version.
        self.storages = tuple(t.untyped_storage() for t in tensors)
        self.value = value
        self.bytes = size
        self.used = 0


class _Cache:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.hits = self.misses = self.evictions = self.bytes = 0
        self._entries: dict[tuple[Any, ...], _Entry] = {}
        # Reentrant: a garbage collection inside may run an entry's weakref callback.
        self._lock = threading.RLock()
        self._clock = itertools.count(1)

    def get(
        self, key: tuple[Any, ...], tensors: tuple[Tensor, ...], make: Callable[[], Any], uncached: Callable[[], Any]
    ) -> Any:
        """The value for these tensors, made anew when there is none or one of them has changed.

        `uncached` gives the value for tensors whose changes cannot be seen.
        """
        entry = self._entries.get(key)
        if entry is not None:
            for ref, stamp, t in zip(entry.refs, entry.stamps, tensors, strict=True):
                if ref() is not t or stamp[0] != t._version or stamp[1] != t.data_ptr():
                    break
            else:
                entry.used = next(self._clock)
                self.hits += 1
                return entry.value
        if not all(_can_be_watched(t) for t in tensors):
            return uncached()
        self.misses += 1
        # Taken before the value is made: a change by another thread in the meantime must count as one.
        stamps = tuple((t._version, t.data_ptr()) for t in tensors)
        value = make()
        self._put(key, tensors, stamps, value)
        return value

    def _put(self, key: tuple[Any, ...], tensors: tuple[Tensor, ...], stamps: _Stamps, value: Any) -> None:
        parts = value if isinstance(value, tuple) else (value,)
        size = sum(part.numel() * part.element_size() for part in parts if isinstance(part, Tensor))
        with self._lock:
            self.drop(key)
            if size > self.capacity:
                return
            entry = _Entry(tensors, stamps, value, size, lambda _: self.drop(key))
            entry.used = next(self._clock)
            self._entries[key] = entry
            self.bytes += size
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


def conv2d_weight(weight: Tensor, groups: int) -> Tensor | None:
    """The weight in the format of the CPU kernels for conv2d, or None where they want none."""
    return _packed((id(weight), "conv2d", groups), weight, lambda: native.pack_conv2d_weight(weight, groups))


def upsample_weight(weight: Tensor, *geometry: Any) -> Tensor | None:
    """`geometry` is scale_factor, stride, padding (four values), dilation, groups."""
    key = (id(weight), "upsample", *geometry)
    return _packed(key, weight, lambda: native.pack_upsample_weight(weight, *geometry))


def transpose_weight(weight: Tensor, *geometry: Any) -> Tensor | None:
    """`geometry` is stride, padding (two values), dilation, groups."""
    key = (id(weight), "transpose", *geometry)
    return _packed(key, weight, lambda: native.pack_transpose_weight(weight, *geometry))


def gemm_b(b: Tensor, transpose_b: bool) -> Tensor | None:
    """The right operand of a product."""
    return _packed((id(b), "gemm", transpose_b), b, lambda: native.pack_gemm_b(b, transpose_b))


def _packed(key: tuple[Any, ...], weight: Tensor, make: Callable[[], Tensor]) -> Tensor | None:
    def made() -> Tensor | None:
        with torch._C._AutoDispatchBelowAutograd():
            packed = make()
        return packed if packed.numel() else None

    # Packing for one call is the kernels' own business.
    return _cache.get(key, (weight,), made, lambda: None)


def folded(
    tensors: tuple[Tensor | None, ...], eps: float, fold: Callable[[], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """BatchNorm's (scale, shift) for inference, from its statistics and parameters."""
    present = tuple(t for t in tensors if t is not None)

    def made() -> tuple[Tensor, Tensor]:
        # An inference tensor could not take part in autograd later.
        with torch.inference_mode(False), torch.no_grad():
            return fold()

    return _cache.get((*(id(t) for t in tensors), "bn", eps), present, made, fold)


def clear() -> None:
    """Drops everything. Needed after an edit that autograd's version counter does not see, such as through `.data`."""
    _cache.clear()


def set_capacity(size: int) -> None:
    """The most bytes to keep (default 256 MiB, or FASTCONV_CACHE_MIB); 0 switches the cache off."""
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
