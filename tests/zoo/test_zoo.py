"""Networks that others wrote, through convert and replace: values, layout, type and structure, on images that the
conversion has not seen."""

from __future__ import annotations

import pytest

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
