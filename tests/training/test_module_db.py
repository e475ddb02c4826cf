"""torch's own module tests (module_db) through every layer that `replace` swaps: training and evaluation."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tolerances import compare
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fastconv
from fastconv.nn.layers import REPLACEMENTS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_modules import module_db

# torch says so of itself; ours copies nothing.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

INFOS = {info.module_cls: info for info in module_db if info.module_cls in REPLACEMENTS}
each_layer = pytest.mark.parametrize("layer", INFOS, ids=lambda layer: layer.__name__)
each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def test_every_layer_has_samples() -> None:
    assert set(INFOS) == set(REPLACEMENTS)


def samples(layer: type[nn.Module], training: bool, dtype: torch.dtype) -> list[Any]:
    torch.manual_seed(0)
    found = INFOS[layer].module_inputs_func(
        INFOS[layer], device="cpu", dtype=dtype, requires_grad=True, training=training
    )
    assert found
    return list(found)


def build(layer: type[nn.Module], sample: Any, training: bool, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """torch's module, and ours with the same weights."""
    arguments, options = sample.constructor_input.args, sample.constructor_input.kwargs
    theirs = layer(*arguments, **options).to(dtype).train(training)
    made = REPLACEMENTS[layer](*arguments, **options).to(dtype).train(training)
    made.load_state_dict(theirs.state_dict())
    replaced = fastconv.replace(copy.deepcopy(theirs))
    assert type(replaced) is type(made) is REPLACEMENTS[layer] and repr(made) == repr(theirs)
    assert replaced.state_dict().keys() == made.state_dict().keys() == theirs.state_dict().keys()
    return theirs, made


class Result:
    """Outputs, gradients and buffers of one call."""

    def __init__(self, module: nn.Module, sample: Any, dtype: torch.dtype, form: Any = None) -> None:
        def leaf(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            twin = value.detach().to(dtype) if value.is_floating_point() else value
            if form is not None and twin.dim() == 4:
                twin = twin.contiguous(memory_format=form)
            return twin.clone(memory_format=torch.preserve_format).requires_grad_(value.requires_grad)

        call = sample.forward_input
        arguments, options = pytree.tree_map(leaf, (call.args, call.kwargs))
        # An in-place layer may not write to a leaf.
        given = pytree.tree_map(lambda v: v * 1 if isinstance(v, Tensor) else v, arguments)
        self.outputs = pytree.tree_leaves(module(*given, **options))
        wanted = [y for y in self.outputs if y.requires_grad]
        generator = torch.Generator().manual_seed(1)
        dys = [(torch.randint(-32, 33, y.shape, generator=generator) / 16).to(y.dtype) for y in wanted]
        leaves = [t for t in pytree.tree_leaves((arguments, options)) if isinstance(t, Tensor) and t.requires_grad]
        leaves += list(module.parameters())
        self.grads = list(torch.autograd.grad(wanted, leaves, dys, materialize_grads=True)) if wanted else []
        self.buffers = [b.clone() for b in module.buffers()]

    @property
    def everything(self) -> list[Tensor]:
        return [*self.outputs, *self.grads, *self.buffers]


def judge(layer: type[nn.Module], training: bool, dtype: torch.dtype, form: Any = None) -> None:
    """Ours are as near to float64 as torch's; dtypes, shapes and the outputs' strides are torch's."""
    for number, sample in enumerate(samples(layer, training, dtype)):
        theirs, ours = build(layer, sample, training, dtype)
        wide = copy.deepcopy(theirs).double()
        truth, other = Result(wide, sample, torch.float64, form), Result(theirs, sample, dtype, form)
        mine = Result(ours, sample, dtype, form)
        assert len(mine.everything) == len(other.everything)
        for a, b, exact in zip(mine.everything, other.everything, truth.everything, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            lifted = [torch.atleast_1d(t.detach()) for t in (a, exact, b)]
            # Sums over a whole batch: how near torch comes on one sample is luck.
            factor = 2.0 if any(a is y for y in mine.outputs) else 8.0
            verdict = compare(lifted[0], lifted[1].numpy(), lifted[2], factor=factor)
            assert verdict, f"sample {number} ({sample.desc or sample.constructor_input}): {verdict.message}"
        for a, b in zip(mine.outputs, other.outputs, strict=True):
            assert a.stride() == b.stride() or a.numel() < 2


@each_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@each_layer
def test_forward_and_backward(layer: type[nn.Module], dtype: torch.dtype, training: bool) -> None:
    judge(layer, training, dtype)


@each_mode
@each_layer
def test_channels_last(layer: type[nn.Module], training: bool) -> None:
    judge(layer, training, torch.float32, torch.channels_last)


@each_mode
@each_layer
def test_first_and_second_derivatives(layer: type[nn.Module], training: bool) -> None:
    """Of inputs and parameters, against finite differences."""
    for sample in samples(layer, training, torch.float64):
        _, ours = build(layer, sample, training, torch.float64)
        names = [name for name, _ in ours.named_parameters()]
        parameters = [p.detach().requires_grad_() for p in ours.parameters()]
        inputs = [a.detach().double().requires_grad_() for a in sample.forward_input.args if isinstance(a, Tensor)]

        def call(
            *tensors: Tensor,
            ours: Any = ours,
            names: Any = names,
            count: int = len(inputs),
            options: Any = sample.forward_input.kwargs,
        ) -> Any:
            weights = dict(zip(names, tensors[count:], strict=True))
            buffers = {name: buffer.clone() for name, buffer in ours.named_buffers()}
            given = tuple(t * 1 for t in tensors[:count])
            outputs = torch.func.functional_call(ours, {**weights, **buffers}, given, options)
            return tuple(y for y in pytree.tree_leaves(outputs) if y.is_floating_point())

        assert torch.autograd.gradcheck(call, (*inputs, *parameters), fast_mode=True)
        assert torch.autograd.gradgradcheck(call, (*inputs, *parameters), fast_mode=True, atol=1e-4)


@each_mode
@each_layer
def test_frozen_and_pickled(layer: type[nn.Module], training: bool) -> None:
    """No gradient wanted, in inference mode, after a pickle: the same values."""
    for sample in samples(layer, training, torch.float32):
        theirs, ours = build(layer, sample, training, torch.float32)
        ours = pickle.loads(pickle.dumps(ours)).requires_grad_(False)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                call = sample.forward_input
                fresh = [copy.deepcopy(t.detach()) if isinstance(t, Tensor) else t for t in call.args]
                expected = pytree.tree_leaves(theirs(*copy.deepcopy(fresh), **call.kwargs))
                for mine, other in zip(pytree.tree_leaves(ours(*fresh, **call.kwargs)), expected, strict=True):
                    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def errors() -> Iterator[Any]:
    for layer, info in INFOS.items():
        if info.module_error_inputs_func is not None:
            given = {"device": "cpu", "dtype": torch.float32, "requires_grad": False, "training": True}
            for number, error in enumerate(info.module_error_inputs_func(info, **given)):
                yield pytest.param(layer, error, id=f"{layer.__name__}-{number}")


@pytest.mark.parametrize(("layer", "error"), list(errors()))
def test_error_inputs(layer: type[nn.Module], error: Any) -> None:
    sample = error.module_error_input
    texts = []
    for kind in (layer, REPLACEMENTS[layer]):
        with pytest.raises(error.error_type, match=error.error_regex) as caught:
            module = kind(*sample.constructor_input.args, **sample.constructor_input.kwargs)
            module(*sample.forward_input.args, **sample.forward_input.kwargs)
        texts.append((type(caught.value), str(caught.value)))
    assert texts[0] == texts[1]
