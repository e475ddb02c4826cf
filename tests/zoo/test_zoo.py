"""Networks that others wrote, through convert and replace: values, layout, type and structure, on images that the
conversion has not seen."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from torch import nn

import fastconv
from fastconv.bench.zoo import ZOO
from fastconv.bench.zoo.runner import check

# Of the networks that this process has checked: operations served by kernels of ours, and left to torch.
Totals = list[tuple[int, int]]


@pytest.fixture(scope="module")
def totals() -> Totals:
    return []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ZOO)
def test_network(name: str, totals: Totals) -> None:
    network = ZOO[name]
    if command := network.missing():
        pytest.skip(f"{network.source} is not installed: {command}")
    checked = check(network)
    assert not checked.on_convert.problems
    assert not checked.on_replace.problems
    rows = fastconv.explain(checked.converted).rows
    if any(isinstance(module, nn.Conv2d) for module in checked.model.modules()):
        assert any(row.served for row in rows)
    totals.append((sum(len(row.layers) for row in rows if row.served), sum(not row.served for row in rows)))


def test_more_is_served_than_left(totals: Totals) -> None:
    if len(totals) < 10:
        pytest.skip(f"{len(totals)} networks were checked here: too few to judge by")
    served, left = (sum(column) for column in zip(*totals, strict=True))
    assert served > 2 * left


@pytest.mark.skipif(not (find_spec("transformers") and find_spec("pytorchcv")), reason="a collection is not installed")
def test_the_networks_are_there() -> None:
    assert sum(not network.missing() for network in ZOO.values()) >= 25
