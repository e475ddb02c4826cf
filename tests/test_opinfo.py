"""torch's own test inputs (OpInfo) through our functions: values, layout, gradients and errors must be torch's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tolerances import Comparison, compare
from torch import Tensor
from torch.utils import _pytree as pytree

from fastconv import functional

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db

# torch says so of itself; ours copies nothing.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

WIDE = (torch.float32, torch.float64)
HALF = (torch.float16, torch.bfloat16)


def _unfold(x: Tensor, kernel: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    return functional.im2col(x, kernel, stride=stride, padding=padding, dilation=dilation)


def _addmm(x: Tensor, a: Tensor, b: Tensor, *, alpha: float = 1, beta: float = 1) -> Tensor:
    return functional.gemm(alpha * a, b, residual=(beta * x).expand(a.shape[0], b.shape[1]))


def _batch_norm(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    # What is written stays out of the sample, which torch reads next.
    statistics = [None if t is None else t.clone() for t in (mean, var)]
    return functional.batch_norm_act(x, *statistics, weight, bias, training, momentum, eps)


def _upsampled(x: Tensor, *rest: Any, **options: Any) -> Tensor:
    """torch's side of upsample_conv2d, which has no counterpart of its own."""
    image = x if x.dim() == 4 else x.unsqueeze(0)
    large = torch.nn.functional.interpolate(image, scale_factor=2)
    return torch.nn.functional.conv2d(large if x.dim() == 4 else large[0], *rest, **options)


def _upsample_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **options: Any) -> Tensor:
    return functional.upsample_conv2d(x, weight, bias, 2, *rest, **options)


def _hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    """torch's own derivative in float64 has a factor of 1 / 6 in float32."""
    return torch.nn.functional.relu6(x + 3) / 6


def _softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return functional.softmax(x, dim, dtype=dtype)


@dataclass(frozen=True)
class Subject:
    """One entry of op_db and our function with its arguments."""

    opinfo: str
    ours: Callable[..., Any]
    variant: str = ""
    thin: int = 1  # every how many samples to run where all would be too many
    half: bool = True  # whether half precision can be judged: not where our side here rounds more than once
    theirs: Callable[..., Any] | None = None  # where our function is not the counterpart of the entry itself
    takes: Callable[[Any], bool] = lambda sample: True

    def samples(self, dtype: torch.dtype, requires_grad: bool = True) -> list[Any]:
        return [s for s in self.info.sample_inputs("cpu", dtype, requires_grad=requires_grad) if self.takes(s)]

    @property
    def op(self) -> Callable[..., Any]:
        return self.theirs or self.info.op

    @property
    def info(self) -> Any:
        return next(op for op in op_db if (op.name, op.variant_test_name) == (self.opinfo, self.variant))

    def __str__(self) -> str:
        name = self.theirs.__name__.strip("_") if self.theirs else None
        return ".".join(filter(None, (self.opinfo.removeprefix("nn.functional."), self.variant, name)))


SUBJECTS = (
    Subject("nn.functional.conv2d", functional.conv2d),
    Subject("nn.functional.conv_transpose2d", functional.conv_transpose2d),
    Subject("nn.functional.linear", functional.linear),
    Subject("addmm", _addmm, half=False),
    Subject("addmm", _addmm, variant="decomposed"),
    Subject("mm", functional.gemm),
    Subject("bmm", functional.gemm),
    Subject("nn.functional.max_pool2d", functional.max_pool2d, thin=11),
    Subject("nn.functional.avg_pool2d", functional.avg_pool2d),
    Subject("nn.functional.adaptive_avg_pool2d", functional.adaptive_avg_pool2d),
    Subject("nn.functional.adaptive_max_pool2d", functional.adaptive_max_pool2d),
    Subject("nn.functional.prelu", functional.prelu),
    Subject("nn.functional.leaky_relu", functional.leaky_relu),
    Subject("nn.functional.relu6", functional.relu6),
    Subject("nn.functional.relu", functional.relu),
    Subject("nn.functional.silu", functional.silu),
    Subject("nn.functional.hardswish", functional.hardswish),
    Subject("sigmoid", functional.sigmoid),
    Subject("tanh", functional.tanh),
    Subject("softmax", _softmax),
    Subject("softmax", _softmax, variant="with_dtype"),
    Subject("nn.functional.unfold", _unfold, thin=5),
    # torch takes a vector too where it is empty.
    Subject("nn.functional.batch_norm", _batch_norm, takes=lambda sample: sample.input.dim() > 1),
    Subject("nn.functional.elu", functional.elu),
    Subject("nn.functional.hardsigmoid", functional.hardsigmoid, theirs=_hardsigmoid),
    Subject(
        "nn.functional.gelu",
        lambda x, approximate="none": functional.gelu(x),
        takes=lambda sample: sample.kwargs.get("approximate", "none") == "none",
    ),
    # torch rounds the same sums in another order: those of `phase` are of summed weights.
    Subject("nn.functional.conv2d", _upsample_conv2d, theirs=_upsampled, thin=2, half=False),
)
# Public functions without an entry in op_db, and where they are judged.
NO_ENTRY = {
    "conv2d_bn_act": "torch has no such function: test_fusion.py",
    "Stage": "an argument of the blocks: test_blocks.py",
    "inverted_residual": "torch has no such function: test_blocks.py",
    "depthwise_pointwise": "torch has no such function: test_blocks.py",
    "conv_max_pool": "torch has no such function: test_blocks.py",
    "col2im": "torch keeps no samples of fold: test_functional.py",
}


# ---- one sample through one function -----------------------------------------------------------------------------


@dataclass
class Run:
    """What a function made of a sample: its outputs, and the gradients of the operands that asked for one."""

    outputs: list[Tensor]
    grads: list[Tensor]


def _run(function: Callable[..., Any], sample: Any, dtype: torch.dtype | None = None) -> Run:
    """Calls `function` on fresh leaves that lie in memory as the sample's tensors do, in `dtype` where one is given."""
    leaves: list[Tensor] = []

    def leaf(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        twin = value.detach() if dtype is None else value.detach().to(dtype)
        if value.requires_grad:
            leaves.append(twin.requires_grad_())
        return twin

    arguments, options = pytree.tree_map(leaf, ((sample.input, *sample.args), sample.kwargs))
    result = function(*arguments, **options)
    outputs = list(result) if isinstance(result, tuple | list) else [result]
    wanted = [y for y in outputs if y.requires_grad]
    if not wanted or not leaves:
        return Run(outputs, [])
    generator = torch.Generator().manual_seed(1)
    # Of sixteenths, so that every dtype gets the same.
    dys = [(torch.randint(-32, 33, y.shape, generator=generator) / 16).to(y.dtype) for y in wanted]
    return Run(outputs, list(torch.autograd.grad(wanted, leaves, dys, materialize_grads=True)))


def _rounded(precise: Run, like: Run) -> Run:
    """The values of `precise` in the dtypes and strides of `like`."""

    def cast(values: list[Tensor], forms: list[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            cast = [torch.empty_like(form).copy_(value) for value, form in zip(values, forms, strict=True)]
        return [t.requires_grad_(form.requires_grad) for t, form in zip(cast, forms, strict=True)]

    return Run(cast(precise.outputs, like.outputs), cast(precise.grads, like.grads))


def _layout(y: Tensor) -> list[int]:
    """The strides that decide where elements lie: those of axes with more than one entry."""
    return [stride for size, stride in zip(y.shape, y.stride(), strict=True) if size > 1] if y.numel() else []


def _compare(y: Tensor, exact: Tensor, other: Tensor) -> Comparison:
    """`compare` for any number of dimensions, none included."""
    if y.shape != other.shape:
        return Comparison(False, message=f"expected shape {list(other.shape)}, but got {list(y.shape)}")
    lifted = [torch.atleast_1d(t.detach()) for t in (y, exact, other)]
    return compare(lifted[0], lifted[1].numpy(), lifted[2])


def _differences(subject: Subject, sample: Any) -> Iterator[str]:
    """How our result on a sample differs from torch's, in words."""
    theirs, truth = _run(subject.op, sample), _run(subject.op, sample, torch.float64)
    if sample.input.dtype in HALF:
        # Some of torch's CPU kernels for half precision are far off (fp16 convolutions with dilation return Inf): its
        # float32 result, rounded, is what must be met.
        theirs = _rounded(_run(subject.op, sample, torch.float32), theirs)
    ours = _run(subject.ours, sample)
    if len(ours.outputs) != len(theirs.outputs):
        yield f"{len(ours.outputs)} outputs, not {len(theirs.outputs)}"
        return
    for number, (y, other, exact) in enumerate(zip(ours.outputs, theirs.outputs, truth.outputs, strict=True)):
        if y.requires_grad != other.requires_grad:
            yield f"output {number}: requires_grad {y.requires_grad}, not {other.requires_grad}"
        if y.shape == other.shape and _layout(y) != _layout(other):
            yield f"output {number} of shape {list(y.shape)}: strides {y.stride()}, not {other.stride()}"
        verdict = _compare(y, exact, other)
        if not verdict:
            yield f"output {number}: {verdict.message}"
    if len(ours.grads) != len(theirs.grads):
        yield f"{len(ours.grads)} gradients, not {len(theirs.grads)}"
        return
    for number, (dx, other, exact) in enumerate(zip(ours.grads, theirs.grads, truth.grads, strict=True)):
        verdict = _compare(dx, exact, other)
        if not verdict:
            yield f"gradient {number}: {verdict.message}"


def _describe(sample: Any) -> str:
    def shape(value: Any) -> Any:
        return list(value.shape) if isinstance(value, Tensor) else value

    return str(pytree.tree_map(shape, (sample.input, *sample.args, sample.kwargs)))


def _judge(subject: Subject, samples: list[Any]) -> None:
    """Runs all samples and then names the ones that failed: the first must not hide the rest."""
    failures: list[str] = []
    for sample in samples:
        try:
            failures += [f"{_describe(sample)}: {text}" for text in _differences(subject, sample)]
        except Exception as error:
            failures.append(f"{_describe(sample)}: {type(error).__name__}: {error}")
    assert samples
    assert not failures, f"{len(failures)} differences in {len(samples)} samples\n" + "\n".join(failures[:20])


# ---- the tests ---------------------------------------------------------------------------------------------------


def test_every_function_has_an_entry() -> None:
    served = {getattr(subject.ours, "__name__", "").lstrip("_") for subject in SUBJECTS}
    served |= {"batch_norm_act", "im2col", "gelu", "gemm"}  # behind the adapters above
    public = {name for name in functional.__all__ if callable(getattr(functional, name))}
    assert served & public | set(NO_ENTRY) == public and not served & set(NO_ENTRY)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_samples(subject: Subject, dtype: torch.dtype) -> None:
    samples = subject.samples(dtype)
    _judge(subject, samples if dtype == torch.float32 else samples[:: subject.thin])


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("subject", [subject for subject in SUBJECTS if subject.half], ids=str)
def test_samples_in_half_precision(subject: Subject, dtype: torch.dtype) -> None:
    samples = subject.samples(dtype)
    _judge(subject, samples[:: subject.thin])


@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_strided_samples(subject: Subject) -> None:
    samples = subject.samples(torch.float32)[:: subject.thin]
    _judge(subject, [sample.noncontiguous() for sample in samples])


@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_samples_without_gradients(subject: Subject) -> None:
    samples = subject.samples(torch.float32, requires_grad=False)[:: subject.thin]
    with torch.inference_mode():
        _judge(subject, samples)


def _error_inputs() -> Iterator[Any]:
    for subject in SUBJECTS:
        if subject.info.error_inputs_func is not None and subject.theirs is None:
            for number, error in enumerate(subject.info.error_inputs("cpu")):
                if subject.takes(error.sample_input):
                    yield pytest.param(subject, error, id=f"{subject}-{number}")


@pytest.mark.parametrize(("subject", "error"), list(_error_inputs()))
def test_error_inputs(subject: Subject, error: Any) -> None:
    sample = error.sample_input
    with pytest.raises(error.error_type, match=error.error_regex) as theirs:
        subject.info.op(sample.input, *sample.args, **sample.kwargs)
    with pytest.raises(error.error_type, match=error.error_regex) as ours:
        subject.ours(sample.input, *sample.args, **sample.kwargs)
    assert type(ours.value) is type(theirs.value)
