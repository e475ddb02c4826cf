"""Whether a converted network computes what its model computes: the one place that judges."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

# Beyond multiples of torch's own error, relative to the largest value of the output: some sixteen roundings of
# float32, for outputs so few or networks so shallow that torch happens to be nearly exact.
SLACK = 1e-6
# How many times torch's error one may make: with sums as the definition has them, and by Winograd's algorithm
# (docs/numerics.md: five to ten times torch's in one layer).
EXACT_SUMS, WINOGRAD = 2.0, 10.0


@dataclass
class Verdict:
    """Errors are the largest over all outputs, relative to the largest value of the output they are in."""

    error: float = 0.0
    torch_error: float = 0.0
    problems: list[str] = field(default_factory=list)

    def add(self, other: Verdict) -> None:
        """Takes the worse of two."""
        self.error, self.torch_error = max(self.error, other.error), max(self.torch_error, other.torch_error)
        self.problems += other.problems


class Truth:
    """A model's outputs in float64, and in float32 by torch in each of its ways: both memory formats, and its own
    kernels in place of oneDNN's. The largest error of these is torch's: that of one run is a matter of luck where a
    network has few outputs."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        self.args = args
        self.like, self.spec = pytree.tree_flatten(_run(model, args))
        runs = [self.like]
        with warnings.catch_warnings(), torch.backends.mkldnn.flags(enabled=False):
            warnings.simplefilter("ignore")  # TF32 on GPUs that are not here
            runs.append(pytree.tree_leaves(_run(model, args)))
        last = torch.channels_last
        try:
            swapped = copy.deepcopy(model).to(memory_format=last)  # type: ignore[call-overload]
            runs.append(pytree.tree_leaves(_run(swapped, in_format(args, last))))
        except RuntimeError:
            pass  # it calls .view where the format does not allow it
        wide = pytree.tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, args)
        self.exact = pytree.tree_leaves(_run(copy.deepcopy(model).double(), wide))
        self.torch_errors = [
            max(_distance(run[index], exact) for run in runs) / _scale(exact) if _is_float(exact) else 0.0
            for index, exact in enumerate(self.exact)
        ]

    def judge(self, candidate: Callable[..., Any], within: float = EXACT_SUMS) -> Verdict:
        """Same structure; every tensor of the same type, shape and strides; float ones no further from float64 than
        `within` * torch's own error + SLACK * the largest value, others equal. NaN and infinity must stand where
        torch's do, and torch's outputs must be worth comparing."""
        leaves, spec = pytree.tree_flatten(_run(candidate, self.args))
        if spec != self.spec:
            return Verdict(float("inf"), problems=[f"expected the structure {self.spec}, but got {spec}"])
        verdict = Verdict()
        for index, (y, like) in enumerate(zip(leaves, self.like, strict=True)):
            if isinstance(like, Tensor) and isinstance(y, Tensor):
                verdict.add(self._judge_tensor(index, y, like, within))
            elif type(y) is not type(like) or y != like:
                verdict.problems.append(f"output {index}: expected {like!r}, but got {y!r}")
        return verdict

    def _judge_tensor(self, index: int, y: Tensor, like: Tensor, within: float) -> Verdict:
        for name in ("shape", "dtype", "device"):
            ours, theirs = getattr(y, name), getattr(like, name)
            if ours != theirs:
                return Verdict(float("inf"), problems=[f"output {index}: expected {name} {theirs}, but got {ours}"])
        problems = []
        shape = tuple(y.shape)
        # The stride of an extent of 1 means nothing, and torch's differs from operation to operation.
        if any(n > 1 and a != b for n, a, b in zip(shape, y.stride(), like.stride(), strict=True)):
            problems.append(f"output {index} of {shape}: expected strides {like.stride()}, but got {y.stride()}")
        if not _is_float(like):
            if not torch.equal(y, like):
                problems.append(f"output {index}: {like.dtype} values differ")
            return Verdict(problems=problems)
        exact = self.exact[index]
        if not like.numel() or not bool(like.isfinite().all()) or (like.numel() > 1 and not float(like.std()) > 0):
            problems.append(f"output {index} of {tuple(like.shape)} says nothing: it is constant or not finite")
        error, own = _distance(y, exact) / _scale(exact), self.torch_errors[index]
        if not error <= within * own + SLACK:
            problems.append(f"output {index}: off by {error:.2g} of its largest value, torch by {own:.2g}")
        return Verdict(error, own, problems)


def pool(truths: list[Truth]) -> None:
    """Takes torch's error on each output as the largest of the errors on several inputs of one network."""
    errors = [max(of_one) for of_one in zip(*(truth.torch_errors for truth in truths), strict=True)]
    for truth in truths:
        truth.torch_errors = errors


def in_format(args: tuple[Any, ...], memory_format: torch.memory_format) -> tuple[Any, ...]:
    """The arguments with their images in a memory format."""
    moved: tuple[Any, ...] = pytree.tree_map_only(
        Tensor, lambda t: t.contiguous(memory_format=memory_format) if t.dim() == 4 else t, args
    )
    return moved


def _run(module: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    with torch.no_grad():
        return module(*pytree.tree_map_only(Tensor, torch.clone, args))


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _distance(y: Tensor, exact: Tensor) -> float:
    """Largest difference; infinite for NaN that only one of them has, or other shapes."""
    if y.shape != exact.shape:
        return float("inf")
    difference = (y.double() - exact).abs()
    difference[(y.isnan() & exact.isnan()) | (y == exact)] = 0.0
    largest = float(difference.max()) if y.numel() else 0.0
    return largest if largest == largest else float("inf")


def _scale(exact: Tensor) -> float:
    """The largest value."""
    return max(float(exact.abs().max()), torch.finfo(torch.float32).tiny) if exact.numel() else 1.0
