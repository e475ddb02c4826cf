"""fastconv.convert leaves out what is zero in networks with several inputs, outputs and paths."""

from __future__ import annotations

import pytest
import torch
from test_convert_pruned import random_zeros

from fastconv.bench.zoo import ZOO
from fastconv.bench.zoo.check import Truth
from fastconv.convert import convert, explain


@pytest.mark.parametrize("name", ["ssd", "yolo", "multi_task", "change", "pruned_resnet18"])
def test_zoo_with_zeros(name: str) -> None:
    network = ZOO[name]
    model = network.build(small=True)
    random_zeros(model, seed=3, share=0.4)
    converted = convert(model)
    args = network.example(2, network.small, seed=5)
    verdict = Truth(model, args).judge(converted)
    assert not verdict.problems
    dropped = torch.tensor([row.dropped for row in explain(converted).rows]).sum(0)
    assert dropped.min() > 0
