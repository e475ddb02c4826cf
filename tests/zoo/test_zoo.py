"""Networks that others wrote, through convert and replace: values, layout, type and structure, on images that the
conversion has not seen."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from torch import nn

import fastconv
from fastconv.bench.zoo import ZOO
from fastconv.bench.zoo.runner import check


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ZOO)
def test_network(name: str) -> None:
    network = ZOO[name]
    if command := network.missing():
        pytest.skip(f"{network.source} is not installed: {command}")
    checked = check(network)
    assert not checked.on_convert.problems
    assert not checked.on_replace.problems
    if any(isinstance(module, nn.Conv2d) for module in checked.model.modules()):
        assert any(row.served for row in fastconv.explain(checked.converted).rows)


@pytest.mark.skipif(not (find_spec("transformers") and find_spec("pytorchcv")), reason="a collection is not installed")
def test_the_networks_are_there() -> None:
    assert sum(not network.missing() for network in ZOO.values()) >= 25
