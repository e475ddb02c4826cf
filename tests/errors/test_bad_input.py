"""Bad input to every function: the class and the words, the same on every backend, for fake tensors and in training."""

from __future__ import annotations

import functools
import re
from typing import Any

import bad_conv
import bad_conv_ours
import bad_others
import bad_others_ours
import pytest
import torch
from bad_input import ELEMENTWISE, TORCH, Call
from torch._subclasses.fake_tensor import FakeTensorMode

import fastconv
from fastconv import functional

LIKE_TORCH = {**bad_conv.TORCH, **bad_others.TORCH}
TYPES = {**bad_conv.TYPES, **bad_others.TYPES}
MIXED = {**bad_conv.MIXED, **bad_others.MIXED}
OURS = {**bad_conv_ours.OURS, **bad_others_ours.OURS}
ALGORITHMS = {**bad_conv.ALGORITHMS, **bad_others.ALGORITHMS}
EVERY: dict[str, Call] = {**LIKE_TORCH, **MIXED, **{name: entry[0] for name, entry in {**TYPES, **OURS}.items()}}

OTHERS = [b for b in ("cuda_emulated", "triton_interpreted", "reference") if not fastconv.backends.why_unavailable(b)]
training = functools.partial(torch.randn, requires_grad=True)


def refusal(call: Call, functions: Any = functional, make: Any = torch.randn) -> tuple[type, str]:
    with pytest.raises(Exception) as caught:
        call(functions, make)
    return caught.type, str(caught.value).strip()


def test_the_tables_do_not_overlap() -> None:
    tables = [table for m in (bad_conv, bad_others) for table in (m.TORCH, m.TYPES, m.MIXED, m.ALGORITHMS)]
    tables += [bad_conv_ours.OURS, bad_others_ours.OURS]
    assert len(EVERY) + len(ALGORITHMS) == sum(map(len, tables))


def test_every_function_is_tried() -> None:
    source = {name for call in (*EVERY.values(), *ALGORITHMS.values()) for name in call.__code__.co_names}
    functions = {name for name in functional.__all__ if callable(getattr(functional, name))}
    by_name = {"getattr"}  # the elementwise functions, of which a table has the names
    assert functions - source - set(ELEMENTWISE) == set() and by_name <= source


@pytest.mark.parametrize("call", LIKE_TORCH.values(), ids=LIKE_TORCH)
def test_torchs_class_and_words(call: Call) -> None:
    ours, theirs = refusal(call), refusal(call, TORCH)
    assert (ours[0], ours[1].splitlines()[0]) == (theirs[0], theirs[1].splitlines()[0])


@pytest.mark.parametrize(("call", "name"), TYPES.values(), ids=TYPES)
def test_wrong_types(call: Call, name: str) -> None:
    """torch's TypeErrors come from its parser and show whole signatures: the class, and the argument's name."""
    kind, text = refusal(call)
    assert kind is TypeError is refusal(call, TORCH)[0]
    assert name in text


@pytest.mark.parametrize(("call", "kind", "text"), OURS.values(), ids=OURS)
def test_what_only_we_refuse(call: Call, kind: type, text: str) -> None:
    got = refusal(call)
    assert got[0] is kind, got
    assert re.search(text, got[1]), got[1]


@pytest.mark.parametrize("call", MIXED.values(), ids=MIXED)
def test_mixed_devices(call: Call) -> None:
    kind, text = refusal(call)
    assert kind is RuntimeError and text.startswith("Expected all tensors to be on the same device")


@pytest.mark.parametrize("name", EVERY)
def test_the_same_everywhere(name: str) -> None:
    call = EVERY[name]
    expected, got = refusal(call), {}
    for backend in OTHERS:
        with fastconv.backend(backend):
            got[backend] = refusal(call)
    got["training"] = refusal(call, make=training)
    with FakeTensorMode(allow_non_fake_inputs=True):
        got["fake"], got["fake training"] = refusal(call), refusal(call, make=training)
    if name not in MIXED and "sparse" not in name:
        with torch.device("meta"):
            got["meta"] = refusal(call)
    assert {where: what for where, what in got.items() if what != expected} == {}, expected


@pytest.mark.parametrize("name", ALGORITHMS)
def test_unknown_algorithms_list_the_known(name: str) -> None:
    """Of the backend that is asked, so the lists differ; those of fakes do not."""
    call, op = ALGORITHMS[name], name.split()[0]
    for backend in ("cpu", *OTHERS):
        with fastconv.backend(backend):
            kind, text = refusal(call)
            with FakeTensorMode():
                assert (kind, text) == refusal(call)
        listed = text.split("expected algo to be one of ")[1].split(", but got 'quantum'")[0].split(", ")
        assert kind is ValueError
        assert backend == "reference" or listed == [a.name for a in fastconv.algorithms(op, backend)]


COMPILED = ("conv_transpose2d channels", "max_pool2d padding", "prelu count", "softmax dim", "linear", "relu long",
            "batch_norm residual", "conv2d no input", "bn weight", "scale")  # fmt: skip


@pytest.mark.parametrize("name", COMPILED)
def test_the_same_in_a_captured_graph(name: str) -> None:
    call, expected = EVERY[name], refusal(EVERY[name])
    torch._dynamo.reset()
    assert refusal(torch.compile(call, backend="eager")) == expected
    torch._dynamo.reset()
    # Where no part may run outside the graph the compiler wraps the error in one of its own.
    assert expected[1] in refusal(torch.compile(call, backend="eager", fullgraph=True))[1]
