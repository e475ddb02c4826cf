"""What every verification case has: parameters, an id, its cost, inputs, the float64 truth and torch's own answer."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as torch_f

Inputs = dict[str, torch.Tensor | None]
Results = tuple[torch.Tensor, ...]
Truth = tuple[np.ndarray, ...]

LAYOUTS = ("nchw", "nhwc")
FILLS = ("normal", "integer", "nan", "inf")
VIEWS = ("", "sliced", "expanded", "transposed", "offset", "weight", "weight_expanded")
# Slopes that are exact in every dtype, so that small-integer cases stay exact through these activations.
ACT_PARAM = {"leaky_relu": 0.25, "elu": 0.75}
_EXACT_ACTS = ("identity", "relu", "relu6", "leaky_relu", "prelu")


@dataclass(frozen=True, kw_only=True)
class Case(abc.ABC):
    """One problem of one operator.

    `fill` says what the tensors hold: "normal" values; small "integer"s whose sums every accumulation order gets
    exactly (`exact` asks for equality then); "nan" or "inf": a few of them in the first operand. `view` is how the
    first operand lies in memory, or "weight" for a transposed second one, "weight_expanded" for one that repeats.
    """

    fill: str = "normal"
    view: str = ""

    op: ClassVar[str]

    # Non-finite inputs where a sum is rearranged (Winograd, FFT, pre-summed filters) spread further than the
    # definition says; such algorithms are not asked for `elementwise` cases.
    @property
    def elementwise(self) -> bool:
        return self.fill in ("nan", "inf")

    @property
    def exact(self) -> bool:
        """Whether outputs must equal the reference rounded to the dtype; transforming algorithms are excused."""
        return self.fill == "integer" and getattr(self, "act", "identity") in _EXACT_ACTS

    @property
    @abc.abstractmethod
    def problem_string(self) -> str:
        """The shapes, without fill and view."""

    @property
    def id(self) -> str:
        """A short name, unique within the operator's cases."""
        marks = [mark for mark in (self.fill if self.fill != "normal" else "", self.view) if mark]
        return "+".join([self.problem_string, *marks])

    @abc.abstractmethod
    def flops(self) -> int:
        """Operations of the definition."""

    @abc.abstractmethod
    def bytes(self, element_size: int) -> int:
        """The least memory traffic: every input and output element once."""

    @abc.abstractmethod
    def make_inputs(self, dtype: torch.dtype, layout: str = "nchw", seed: int = 0) -> Inputs:
        """The operands by name, on the CPU."""

    @abc.abstractmethod
    def reference(self, inputs: Inputs) -> Truth:
        """The results in float64, by fastconv.reference, from the operands as rounded to their dtype."""

    @abc.abstractmethod
    def torch(self, inputs: Inputs) -> Results:
        """torch's own results in the operands' dtype, by its stock operators."""

    @abc.abstractmethod
    def run(self, inputs: Inputs, algo: str = "", backend: str = "") -> Results:
        """fastconv's results; algo and backend as the operators take them, "" leaves the choice to the package."""

    def torch_same(self, inputs: Inputs) -> Results:
        """`torch`; where the CPU's torch lacks a half-precision operator, its float32 result rounded to the dtype."""
        dtype = next(t.dtype for t in inputs.values() if t is not None)
        try:
            return self.torch(inputs)
        except (NotImplementedError, RuntimeError) as error:
            if dtype not in (torch.float16, torch.bfloat16) or "not implemented" not in str(error):
                raise
        wide: Inputs = {name: t.float() if t is not None else None for name, t in inputs.items()}
        return tuple(y.to(dtype) if y.is_floating_point() else y for y in self.torch(wide))

    def __str__(self) -> str:
        return f"{self.op} {self.id}"


# ---- operands ----------------------------------------------------------------------------------------------------


def make_tensor(
    shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator, fill: str = "normal", scale: float = 1.0
) -> torch.Tensor:
    """A contiguous tensor of normal values times `scale`, or of integers from -2 to 2."""
    if fill == "integer":
        return torch.randint(-2, 3, tuple(shape), generator=generator).to(dtype)
    return (torch.randn(tuple(shape), generator=generator, dtype=torch.float64) * scale).to(dtype)


def poison(x: torch.Tensor, fill: str) -> torch.Tensor:
    """x with a few NaN or Inf values, the first and last element among them."""
    if fill not in ("nan", "inf") or x.numel() == 0:
        return x
    flat = x.reshape(-1).clone()
    value = float(fill)
    flat[0], flat[-1], flat[flat.numel() // 2] = value, -value, value
    return flat.reshape(x.shape)


def on_device(inputs: Inputs, device: str) -> Inputs:
    """The operands on another device, lying there as they lie here: gaps, overlaps and offsets included."""

    def moved(t: torch.Tensor) -> torch.Tensor:
        flat = torch.empty(0, dtype=t.dtype).set_(t.untyped_storage())
        return torch.as_strided(flat.to(device), t.size(), t.stride(), t.storage_offset())

    return {name: None if t is None else moved(t) for name, t in inputs.items()}


def in_layout(x: torch.Tensor, layout: str) -> torch.Tensor:
    """A copy of x in `layout`; only images have one."""
    if layout not in LAYOUTS:
        raise ValueError(f"case: expected layout to be one of {', '.join(LAYOUTS)}, but got {layout!r}")
    if x.dim() != 4 or layout == "nchw":
        return x.contiguous()
    return x.contiguous(memory_format=torch.channels_last)


def as_view(x: torch.Tensor, view: str) -> torch.Tensor:
    """The same values as x, lying in memory as `view` says; "expanded" repeats the first entry of the first axis."""
    if view == "sliced":  # every second element of a larger tensor, in the last axis and in the first
        large = x.new_full([2 * x.shape[0] + 1, *x.shape[1:-1], 2 * x.shape[-1] + 1], 99.0)
        if x.dim() == 4:
            large = in_layout(large, "nhwc" if _is_nhwc(x) else "nchw")
        inside = large[1::2][..., 1::2]
        inside.copy_(x)
        return inside
    if view == "expanded":
        return x[:1].clone(memory_format=torch.preserve_format).expand(x.shape)
    if view == "transposed":
        return x.transpose(-1, -2).clone(memory_format=torch.contiguous_format).transpose(-1, -2)
    if view == "offset":  # contiguous, but one element off every alignment
        flat = x.new_full([x.numel() + 1], 99.0)
        return flat[1:].as_strided(x.shape, x.stride(), 1).copy_(x)
    return x


def _is_nhwc(x: torch.Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def f64(t: torch.Tensor | None) -> np.ndarray | None:
    """The operand as a float64 array, or None."""
    return None if t is None else t.detach().cpu().double().numpy()


def array(t: torch.Tensor | None) -> np.ndarray:
    """The operand as a float64 array; it must be there."""
    return present(t).detach().cpu().double().numpy()


def present(t: torch.Tensor | None) -> torch.Tensor:
    """The operand, which this case has."""
    if t is None:
        raise TypeError("this case has no such operand")
    return t


# ---- activations and gradients -----------------------------------------------------------------------------------

_TORCH_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda x: x.clone(),
    "relu": torch_f.relu,
    "relu6": torch_f.relu6,
    "leaky_relu": lambda x: torch_f.leaky_relu(x, ACT_PARAM["leaky_relu"]),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": torch_f.silu,
    "hardswish": torch_f.hardswish,
    "hardsigmoid": torch_f.hardsigmoid,
    "gelu": torch_f.gelu,
    "elu": lambda x: torch_f.elu(x, ACT_PARAM["elu"]),
}


def torch_activation(x: torch.Tensor, act: str, alpha: torch.Tensor | None, channel_axis: int = 1) -> torch.Tensor:
    """torch's activation; PReLU with an alpha that torch's own does not take is written with `where`."""
    if act != "prelu":
        return _TORCH_ACTIVATIONS[act](x)
    slopes = present(alpha)
    if slopes.dim() == 1 and slopes.numel() > 1:
        shape = [1] * x.dim()
        shape[channel_axis] = slopes.numel()
        slopes = slopes.reshape(shape)
    return torch.where(x > 0, x, slopes * x)


def alpha_shape(form: str, out_shape: Sequence[int], channel_axis: int = 1) -> tuple[int, ...]:
    """PReLU's parameter for an output of `out_shape`: "one" slope, one per "channel", or a "full" one."""
    if form == "channel":
        return (out_shape[channel_axis],)
    if form == "full":
        return tuple(out_shape[1:]) if len(out_shape) > 2 else tuple(out_shape)
    return (1,)


def gradient(forward: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
    """dx of `forward` at x for the output gradient dy, by autograd."""
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        y = forward(leaf)
    return torch.autograd.grad(y, leaf, dy)[0]


@contextlib.contextmanager
def on_backend(name: str) -> Iterator[None]:
    """`with fastconv.backend(name)`, or nothing for ""."""
    if not name:
        yield
        return
    import fastconv

    with fastconv.backend(name):
        yield


def operators(backend: str = "") -> Any:
    """The registered operators that have `backend`'s kernels."""
    from fastconv import ops

    return ops.operators_of(backend)


def functional() -> Any:
    """fastconv.functional, imported late: the cases themselves need only torch."""
    from fastconv import functional as ours

    return ours
