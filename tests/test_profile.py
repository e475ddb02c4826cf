"""fastconv.profile: counts that can be checked by hand, and forms to keep them in."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch
from networks import randomise, resnet
from torch import nn
from tricky_networks import Branches

import fastconv.nn as fnn
from fastconv.convert import convert
from fastconv.profiler import Profile, profile

PEAK = {"fma_gflops": 50.0, "copy_gbs": 10.0}


def network() -> nn.Module:
    return randomise(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(8, 4, 2, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 5),
        )
    )


def by_name(result: Profile) -> dict[str, tuple[int, int, int]]:
    return {layer.name: (layer.parameters, layer.multiply_adds, layer.bytes) for layer in result.layers}


def test_counts_of_a_model() -> None:
    model = network()
    x = torch.randn(2, 3, 10, 12)
    before = model(x)
    costs = by_name(profile(model, x, peak=PEAK, rounds=1))
    assert costs["0"] == (216, 2 * 8 * 120 * 27, 4 * (720 + 216 + 2 * 8 * 120))
    assert costs["1"][:2] == (16, 0)
    assert costs["3"][1] == 2 * 8 * 120 * 16
    assert costs["6"] == (25, 2 * 5 * 4, 4 * (8 + 25 + 10))
    assert torch.equal(model(x), before)
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_counts_of_a_converted_model() -> None:
    model = network()
    result = profile(convert(model), (torch.randn(2, 3, 10, 12),), peak=PEAK, rounds=2)
    first = result.layers[0]
    assert first.name == "0 + 1 + 2" and first.operation == "conv 3x3 +bn +relu"
    assert (first.parameters, first.multiply_adds, first.output_shape) == (216 + 8, 2 * 8 * 120 * 27, (2, 8, 10, 12))
    assert first.limit == "arithmetic" and first.bound_milliseconds == pytest.approx(
        2 * first.multiply_adds / 50e9 * 1e3
    )
    assert first.milliseconds > 0 and first.share_of_bound is not None
    assert [layer.limit for layer in result.layers[1:]] == ["memory"] * 4


def test_text_json_and_csv(tmp_path) -> None:  # type: ignore[no-untyped-def]
    result = profile(convert(network()), torch.randn(1, 3, 8, 8), peak=PEAK, rounds=1)
    text = str(result)
    assert "conv 3x3 +bn +relu" in text and "multiply-adds" in text and "50 GFLOP/s" in text
    loaded = json.loads(result.to_json(tmp_path / "profile.json"))
    assert loaded == json.loads((tmp_path / "profile.json").read_text())
    assert loaded["layers"][0]["output_shape"] == [1, 8, 8, 8]
    rows = list(csv.DictReader(io.StringIO(result.to_csv(tmp_path / "profile.csv"))))
    assert rows[0]["output_shape"] == "1x8x8x8" and len(rows) == len(result.layers)


def test_without_a_measured_peak() -> None:
    result = profile(network(), torch.randn(1, 3, 8, 8), peak={"unavailable": "not measured"}, rounds=1)
    assert result.layers[0].bound_milliseconds is None and "no bounds: not measured" in str(result)


def test_other_networks() -> None:
    assert (
        len(profile(replaced := fnn.ConvBNAct2d(3, 4, 3).eval(), torch.randn(1, 3, 8, 8), peak=PEAK, rounds=1).layers)
        == 1
    )
    assert replaced.conv.weight.shape == (4, 3, 3, 3)
    for model in (randomise(Branches()), randomise(resnet())):
        result = profile(convert(model), torch.randn(1, 3, 32, 32), peak=PEAK, rounds=1)
        assert sum(layer.multiply_adds for layer in result.layers) > 0
    with pytest.raises(ValueError, match="rounds"):
        profile(network(), torch.randn(1, 3, 8, 8), rounds=0)
