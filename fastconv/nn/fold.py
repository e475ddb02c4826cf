"""Weights made from other weights (BatchNorm folded in, cast, reordered), kept until one of their sources changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastconv import _C
from fastconv.functional import edits

# Where a tensor lives: the dictionary of a module (`_parameters`, `_buffers`) and the key in it. The dictionary, not
# the tensor, so that `module.weight = other` is seen. Numbers among a module's attributes count as well.
Slot = tuple[dict[str, Any], str]


class Sources:
    """The tensors that something was made from, and whether any of them has changed since.

    A change is another tensor in the slot, a new version (every in-place operation, `load_state_dict`, an optimizer
    step), another address (`.to()`, `.half()` replace a parameter's storage and leave its version) or the step of a
    fused optimizer. What torch itself does not record cannot be noticed: an in-place edit through `.data`, or of an
    inference tensor.
    """

    def __init__(self, slots: Iterable[Slot]) -> None:
        self._watch = _C.Watch()
        self._step = edits.steps
        # What the watch points to. With aliases of the tensors, which keep their storages alive: a freed address could
        # come back under other values with the same version.
        self._kept: list[Any] = []
        self._tensors: list[Tensor] = []  # with a version, which fused optimizers leave as it is
        slots = tuple(slots)
        names: dict[int, tuple[dict[str, Any], set[str]]] = {}
        for owner, name in slots:
            names.setdefault(id(owner), (owner, set()))[1].add(name)
        # Before the tensors are read: what another thread exchanges from here on is noticed at the next call.
        for owner, watched in names.values():
            self._kept += self._watch.entries(owner, list(watched))
        seen: set[int] = set()
        for owner, name in slots:
            tensor = owner.get(name)
            if not isinstance(tensor, Tensor) or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            self._kept += (tensor, tensor.detach())
            self._watch.tensor(tensor, versioned=not tensor.is_inference())
            if not tensor.is_inference():
                self._tensors.append(tensor)

    def unchanged(self) -> bool:
        """About 0.1 microseconds a tensor."""
        return self._watch.unchanged() and (self._step == edits.steps or self._unwritten())

    def _unwritten(self) -> bool:
        step = edits.steps
        if any(edits.written_since(self._step, tensor) for tensor in self._tensors):
            return False
        self._step = step
        return True


@dataclass(frozen=True)
class NormTensors:
    """What an inference-time BatchNorm needs: y = (x - mean) / sqrt(var + eps) * weight + bias."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float


def norm_affine(norms: Sequence[NormTensors]) -> tuple[Tensor, Tensor]:
    """The scale and shift, in float64, that a chain of BatchNorms amounts to: y = scale * x + shift."""
    scale = torch.ones_like(norms[0].mean, dtype=torch.float64)
    shift = torch.zeros_like(scale)
    for norm in norms:
        factor = torch.rsqrt(norm.var.double() + norm.eps)
        if norm.weight is not None:
            factor = factor * norm.weight.double()
        offset = -norm.mean.double() * factor
        if norm.bias is not None:
            offset = offset + norm.bias.double()
        scale, shift = scale * factor, shift * factor + offset
    return scale, shift


def fold_norms(
    weight: Tensor, bias: Tensor | None, norms: Sequence[NormTensors], transposed_groups: int = 0
) -> tuple[Tensor, Tensor]:
    """Weight (K, C/groups, R, S) and bias (K,) that already contain the BatchNorms which follow the convolution.

    weight'[k] = scale[k] * weight[k],  bias' = scale * bias + shift, computed in float64 and rounded once.

    With `transposed_groups` > 0 the weight is a transposed convolution's (C, K/groups, R, S), of that many groups.
    """
    scale, shift = norm_affine(norms)
    wide = weight.double()
    if transposed_groups:
        c, k_per_group, *rest = wide.shape
        grouped = wide.view(transposed_groups, c // transposed_groups, k_per_group, *rest)
        folded = (grouped * scale.view(transposed_groups, 1, k_per_group, *([1] * len(rest)))).view(wide.shape)
    else:
        folded = wide * scale.view(-1, *([1] * (wide.dim() - 1)))
    new_bias = shift if bias is None else bias.double() * scale + shift
    return folded.to(weight.dtype), new_bias.to(weight.dtype)


class Derived:
    """One made weight and bias with the sources they came from; `get()` remakes them when a source has changed.

    The same tensor objects are returned until then: the packed form of a weight is cached per tensor object.
    """

    __slots__ = ("_make", "_slots", "_sources", "bias", "weight")

    def __init__(self, slots: Callable[[], Iterable[Slot]], make: Callable[[], tuple[Tensor, Tensor | None]]) -> None:
        self._slots = slots
        self._make = make
        self._sources: Sources | None = None
        self.weight: Tensor
        self.bias: Tensor | None

    def get(self) -> tuple[Tensor, Tensor | None]:
        if self._sources is None or not self._sources.unchanged():
            # Read the state first: a change that arrives while folding is then noticed at the next call.
            sources = Sources(self._slots())
            # Not inference mode, whose tensors have no version for the caches of packed weights to watch.
            with torch.inference_mode(False), torch.no_grad():
                self.weight, self.bias = self._make()
            self._sources = sources
        return self.weight, self.bias
