"""What a captured region runs: one Python function of all steps, or the plan for the shapes at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from fastconv import backends
from fastconv.convert.passes.drop_channels import Dropping
from fastconv.convert.plan import PlannedProgram, Plans
from fastconv.convert.plan.target import target_of

if TYPE_CHECKING:
    from fastconv.convert.lower import WeightStore


@dataclass
class Program:
    """One region of a network for one form of call."""

    graph: fx.Graph
    functions: SimpleNamespace
    run: Any
    store: WeightStore
    output_spec: pytree.TreeSpec
    opaque: dict[str, str]
    single: bool
    dropping: Dropping | None = None
    seen: list[tuple[torch.Size, torch.dtype, torch.device]] | None = None  # of the last call's tensors

    _direct: SimpleNamespace | None = None
    _generation: int = -1
    _plans: Plans | None = None

    def takes(self, tensors: tuple[Tensor, ...] | list[Tensor]) -> bool:
        """Where channels were dropped they are dimension 1: an image without a batch needs another program."""
        return self.dropping is None or not self.dropping.drops_any or all(x.dim() != 3 for x in tensors)

    def __call__(self, tensors: tuple[Tensor, ...] | list[Tensor]) -> Any:
        self.store.refresh()
        outputs = self._planned(tensors)
        if outputs is None:
            outputs = self.outputs(tensors, tensors)
        return outputs[0] if self.single else pytree.tree_unflatten(outputs, self.output_spec)

    def may_run_early(self) -> bool:
        """Whether nobody can tell that the program was run on example inputs: no code of the user's own is in it."""
        return not self.opaque and all(
            hasattr(function, "spec") or type(function).__module__.startswith(("torch.nn.", "fastconv."))
            for function in vars(self.functions).values()
        )

    def prepare(self, tensors: Sequence[Tensor]) -> None:
        """Packs the weights and makes the plan for tensors like these; its memory has been touched afterwards."""
        with torch.no_grad(), torch.random.fork_rng(devices={x.device for x in tensors if x.is_cuda}):
            self.store.refresh()
            for _ in range(2):
                if self._planned([x.detach() for x in tensors]) is None:
                    break

    @property
    def plan_count(self) -> int:
        return 0 if self._plans is None else self._plans.count

    @property
    def graph_bytes(self) -> tuple[int, int]:
        return (0, 0) if self._plans is None else self._plans.graph_bytes

    @property
    def plan(self) -> PlannedProgram | None:
        """That of the last call."""
        return None if self._plans is None or not self.store.plans_allowed else self._plans.last

    @property
    def unplanned(self) -> str | None:
        """Why the last shapes to be planned go step by step; None where they have a plan, or need none."""
        return None if self._plans is None else self._plans.refusal

    def _planned(self, tensors: Sequence[Tensor]) -> tuple[Any, ...] | None:
        """The flat outputs by a plan for these shapes; None where the steps are to run one by one."""
        if not self.store.plans_allowed or not _is_bare(tensors):
            return None
        target = target_of(tensors)
        if target is None:
            return None
        generation = self.store.generation
        functions: Any = self.functions  # where a backend is forced, which the public functions find
        if not target.forced:
            if self._direct is None or self._generation != generation:
                self._bind()
            functions = self._direct
        if self._plans is None:
            self._plans = Plans(self, self.store.arenas)
        self.seen = [(x.shape, x.dtype, x.device) for x in tensors]
        return self._plans.outputs(tensors, functions, generation, target)

    def outputs(self, values: Sequence[Any], inputs: Sequence[Any]) -> tuple[Any, ...]:
        """The flat outputs, with the weights as they were made last; `inputs` are the values that are no weights."""
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        self.seen = [(x.shape, x.dtype, x.device) for x in tensors]
        if not _is_plain(tensors):
            return self.run(self.functions, *values)
        if self._direct is None or self._generation != self.store.generation:
            self._bind()
        return self.run(self._direct, *values)

    def _bind(self) -> None:
        with self.store.lock:
            direct = SimpleNamespace()
            for name, function in vars(self.functions).items():
                if hasattr(function, "direct"):
                    function.bind()
                    function = function.direct
                setattr(direct, name, function)
            self._direct, self._generation = direct, self.store.generation


def _is_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether the operators can be called with nothing around them: no gradient, autocast, backend or compiler."""
    return not backends.forced() and _is_bare(tensors)


def _is_bare(tensors: Sequence[Tensor]) -> bool:
    """The same, whether a backend is forced or not."""
    if torch._C._is_any_autocast_enabled() or forward_ad._current_level >= 0:
        return False
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    recording = torch.is_grad_enabled()
    return all(
        type(x) is Tensor
        and x.layout is torch.strided
        and not (recording and x.requires_grad)
        and not (x.is_neg() or x.is_conj() or torch._is_zerotensor(x))
        and not (x.is_cuda and backends.cuda_goes_to())
        for x in tensors
    )
