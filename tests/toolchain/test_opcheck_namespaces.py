"""The other implementations behind the same schemas pass torch.library.opcheck too: the reference, and Triton's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_ops_opcheck import CHECKS, SAMPLES
from torch import Tensor

import fastconv
from fastconv import ops


def _few(name: str) -> Iterator[tuple[Any, ...]]:
    """The first samples with and without a gradient."""
    found: dict[bool, tuple[Any, ...]] = {}
    for arguments in SAMPLES[name]():
        found.setdefault(any(isinstance(a, Tensor) and a.requires_grad for a in arguments), arguments)
    return iter(found.values())


@pytest.mark.parametrize("name", sorted(ops.operator_names(ops.reference.namespace)))
def test_reference(name: str) -> None:
    for arguments in _few(name):
        torch.library.opcheck(getattr(ops.reference, name), arguments, test_utils=CHECKS)


def _interpreted(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """With the last string, which is `backend`, asking for the interpreter."""
    last = max(index for index, a in enumerate(arguments) if isinstance(a, str))
    return (*arguments[:last], "triton_interpreted", *arguments[last + 1 :])


@pytest.mark.skipif(
    fastconv.backends.why_unavailable("triton_interpreted") is not None,
    reason=str(fastconv.backends.why_unavailable("triton_interpreted")),
)
@pytest.mark.parametrize("name", sorted(ops.operator_names(ops.triton.namespace)))
def test_triton(name: str) -> None:
    # Dynamic shapes (test_aot_dispatch_dynamic) run the interpreter several times more.
    for arguments in _few(name):
        torch.library.opcheck(getattr(ops.triton, name), _interpreted(arguments), test_utils=CHECKS[:3])


@pytest.mark.parametrize("own", [ops.reference, ops.triton], ids=lambda own: own.namespace)
def test_namespaces_have_the_same_operators(own: Any) -> None:
    """All but packing, which belongs to the CPU's kernels; with the same schemas."""
    packing = {name for name in ops.operator_names() if name.startswith("pack_")}
    assert set(own) == set(ops.native) - packing
    for name in own:
        schemas = (str(getattr(n, name)._schema).partition("::")[2] for n in (own, ops.native))
        assert len(set(schemas)) == 1
