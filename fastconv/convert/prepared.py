"""The weights of a converted network: folded, cast and packed once, and again when one of their sources changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastconv.convert import ir
from fastconv.functional.dispatch import below_autograd
from fastconv.nn.fold import Slot, Sources, fold_norms
from fastconv.nn.weights import Activation, Weight


class Stale(Exception):
    """The model's modules changed in kind, not only in value: the conversion has to be made again."""


class Prepared:
    """The weights of one step, with BatchNorms folded in, and the tensors they came from."""

    def __init__(
        self, spec: ir.Conv | ir.ConvTranspose | ir.Linear | ir.Act, dtype: torch.dtype | None, channels_last: bool
    ) -> None:
        self._spec, self._dtype, self._channels_last = spec, dtype, channels_last
        self._sources: Sources | None = None
        self.slots = slots_of(spec)
        self.absent: tuple[Slot, ...] = getattr(spec, "absent", ())
        self.alpha: float | Tensor | None = None
        self.bias: Tensor | None = None
        self._weight: Tensor | None = None
        self._made = False
        self.source_channels_last = False
        self._packs: dict[Any, Tensor | None] = {}

    @property
    def weight(self) -> Any:
        """The weight in torch's order: a Tensor from the first refresh on, remade where it was let go of."""
        weight = self._weight
        if weight is None and self._made and not isinstance(self._spec, ir.Act):
            with torch.inference_mode(False), torch.no_grad():
                self._make()
            weight = self._weight
        return weight

    def let_go(self) -> None:
        """Forgets a weight that was made here and that packed ones stand for."""
        if self.is_packed() and self.own_tensors():
            self._weight = None

    def is_packed(self) -> bool:
        """Whether every kernel that has been asked for reads packed weights."""
        return bool(self._packs) and all(pack is not None for pack in self._packs.values())

    def own_tensors(self) -> list[Tensor]:
        """What is held in torch's order and is no tensor of the model's."""
        theirs = {
            t.untyped_storage().data_ptr() for owner, name in self.slots if isinstance(t := owner.get(name), Tensor)
        }
        held = [part for part in (self._weight, self.bias, self.alpha) if isinstance(part, Tensor)]
        return [part for part in held if part.untyped_storage().data_ptr() not in theirs]

    def refresh(self) -> None:
        """Remakes the weights where a source changed; the tensors stay the same objects otherwise."""
        if self._sources is not None and self._sources.unchanged():
            return
        sources = Sources((*self.slots, *self.absent))
        if any(owner.get(name) is not None for owner, name in self.absent):
            raise Stale("a bias was added")
        try:
            with torch.inference_mode(False), torch.no_grad():
                self._make()
        except KeyError as error:
            raise Stale(f"the weight {error} is gone") from error
        self._sources = sources
        self._packs.clear()

    def renew(self) -> None:
        """Remakes the weights, without watching where they came from."""
        with torch.inference_mode(False), torch.no_grad():
            self._make()
        self._packs.clear()

    def packed(self, key: Any, pack: Callable[[], Tensor | None]) -> Tensor | None:
        """The weight in a kernel's own order; None where that kernel wants none.

        Held here and not in the cache of functional calls, whose bound a large network would exceed at every run.
        """
        if key not in self._packs:
            with torch.inference_mode(False), torch.no_grad(), below_autograd():
                made = pack()
            self._packs[key] = made if made is not None and made.numel() else None
        return self._packs[key]

    def packs(self) -> list[Tensor]:
        return [pack for pack in self._packs.values() if pack is not None]

    def forget_packs(self) -> None:
        """Another instruction set reads another order."""
        self._packs.clear()

    def _make(self) -> None:
        self._made = True
        spec = self._spec
        act = None if isinstance(spec, ir.ConvTranspose) else spec.act
        if act is not None:
            alpha = act.argument()
            if isinstance(alpha, Tensor):
                alpha = self._cast(alpha.detach())
                kept = None if isinstance(spec, ir.ConvTranspose) else spec.kept
                if kept is not None and alpha.dim() and alpha.shape[0] == kept.of_filters:  # not one slope for all
                    alpha = alpha[list(kept.filters)]
            self.alpha = alpha
        if isinstance(spec, ir.Act):
            return
        weight = spec.weight.read()
        bias = None if spec.bias is None else spec.bias.read()
        self.source_channels_last = is_channels_last(weight)
        norms = () if isinstance(spec, ir.Linear) else spec.norms
        if norms:
            read = [norm.read() for norm in norms]
            # The groups that the weight has; the step may have fewer.
            groups = len(read[0].mean) // weight.shape[1] if isinstance(spec, ir.ConvTranspose) else 0
            weight, bias = fold_norms(weight, bias, read, groups)
        if spec.kept is not None:
            weight, bias = narrowed(weight, bias, spec)
        weight = self._cast(weight.detach())
        # A GPU's kernels read filters channel by channel, and would pack others into scratch at each call.
        by_channels = self._channels_last or (weight.is_cuda and isinstance(spec, ir.Conv))
        if by_channels and not is_channels_last(weight):
            # Not .contiguous(): it keeps the strides of 1x1 and depthwise filters, which read as either format.
            weight = torch.empty_like(weight, memory_format=torch.channels_last).copy_(weight)
        if weight.is_inference():
            weight = weight.clone()  # an inference tensor has no version for caches to watch
        self._weight, self.bias = weight, None if bias is None else self._cast(bias.detach())

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor if self._dtype is None else tensor.to(self._dtype)


def slots_of(spec: ir.Spec) -> tuple[Slot, ...]:
    """Where the tensors live that decide the weights of a step."""
    found: list[Slot] = []
    for part in (getattr(spec, "weight", None), getattr(spec, "bias", None), *getattr(spec, "norms", ())):
        found.extend(() if part is None else part.slots)
    act = getattr(spec, "act", None)
    if isinstance(act, Activation) and isinstance(act.param, Weight):
        found.extend(act.param.slots)
    return tuple(found)


def narrowed(
    weight: Tensor, bias: Tensor | None, spec: ir.Conv | ir.ConvTranspose | ir.Linear
) -> tuple[Tensor, Tensor | None]:
    """The kept part of a weight, and its bias with what dropped channels added to every pixel."""
    kept = spec.kept
    assert kept is not None
    filters, channels = (torch.tensor(which, device=weight.device) for which in (kept.filters, kept.channels))
    made = None if bias is None else bias.index_select(0, filters)
    transposed = isinstance(spec, ir.ConvTranspose)
    if transposed and weight.shape[1] < kept.of_filters:
        return weight.index_select(0, channels), made  # whole groups, which lie along the channels
    # (filters, channels, ...); several features of a linear layer may belong to a channel
    blocks = weight.view(kept.of_filters, kept.of_channels, -1) if isinstance(spec, ir.Linear) else weight
    part = (blocks.transpose(0, 1) if transposed else blocks).index_select(0, filters)
    if part.shape[1] == kept.of_channels:
        if kept.numbers:
            places, numbers = zip(*kept.numbers, strict=True)
            wide = part[:, list(places)].double().flatten(2)
            extra = (wide * torch.tensor(numbers, dtype=torch.float64, device=part.device).view(-1, 1)).sum(1)
            if kept.carrier is None:
                moved = extra.sum(1)
                made = (moved if made is None else made.double() + moved).to(weight.dtype)
            else:
                column = part[:, kept.carrier]
                column.copy_(column.double() + extra.view(column.shape))
        part = part.index_select(1, channels)
    if isinstance(spec, ir.Linear):
        return part.flatten(1), made
    return part.transpose(0, 1) if transposed else part, made


def is_channels_last(x: Any) -> bool:
    """Whether torch would carry on in channels_last from here, by its own rule for strides that read both ways."""
    if not isinstance(x, Tensor) or x.dim() != 4:
        return False
    sizes, strides = x.shape, x.stride()
    if strides[1] == 0:
        return False
    least = 0
    for dim in (1, 3, 2, 0):
        if sizes[dim] == 0 or strides[dim] < least or (dim == 0 and least == strides[1]):
            return False
        least = strides[dim] * max(sizes[dim], 1)
    return True
