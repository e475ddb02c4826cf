"""That the zoo has what it is to have, and that its check notices a wrong conversion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastconv
from fastconv.bench.networks.randomise import calibrate
from fastconv.bench.timing import Effort
from fastconv.bench.zoo import ZOO, MissingPackage, ZooNetwork, report
from fastconv.bench.zoo.check import Truth, pool
from fastconv.bench.zoo.runner import ZooRun, measure
from fastconv.cli.main import main
from fastconv.convert import prepared

# What issue and docs promise; a word of each is in some network's traits.
TRAITS = (
    "residual", "pre-activation", "dense", "inverted residual", "squeeze-excite", "shuffle", "inception", "U-Net",
    "SSD head", "YOLO head", "multi-scale upsampling", "grouped", "dilated", "asymmetric", "shared", "called twice",
    "two inputs", "three heads", "dict", "view", "torch.cat", "in place", "Conv2d subclass", "parametrization", "prune",
    "dropout", "cannot be captured", "hooks",
)  # fmt: skip


def test_registry() -> None:
    assert len(ZOO) >= 60
    assert sum(network.source != "fastconv" for network in ZOO.values()) >= 50
    described = "; ".join(network.traits for network in ZOO.values())
    assert [trait for trait in TRAITS if trait not in described] == []


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.b = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = torch.relu(self.bn(self.a(x)))
        return {"image": self.b(y), "pooled": y.mean((2, 3)), "index": y.flatten(1).argmax(1), "number": 3}


SMALL = ZooNetwork("small", "fastconv", "for the tests of the check", _Net, (16, 16), (16, 16))

WRONG: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "values": ("off by", lambda y: {**y, "image": y["image"] * (1 + 1e-5)}),
    "one value": ("off by", lambda y: {**y, "pooled": y["pooled"].index_fill(1, torch.tensor([7]), 0.0)}),
    "nan": ("off by", lambda y: {**y, "image": torch.where(y["image"] > 1, torch.nan, y["image"])}),
    "layout": ("strides", lambda y: {**y, "image": y["image"].contiguous(memory_format=torch.channels_last)}),
    "type": ("dtype", lambda y: {**y, "image": y["image"].double()}),
    "shape": ("shape", lambda y: {**y, "image": y["image"][:, :, :-1]}),
    "structure": ("structure", lambda y: list(y.values())),
    "number": ("expected 3", lambda y: {**y, "number": 4}),
    "index": ("values differ", lambda y: {**y, "index": y["index"] + 1}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_outputs_are_noticed(wrong: str) -> None:
    model = SMALL.build()
    truth = Truth(model, SMALL.example(1, SMALL.size, seed=1))
    assert not truth.judge(model).problems
    text, change = WRONG[wrong]
    problems = truth.judge(lambda x: change(model(x))).problems
    assert problems and text in problems[0]


def test_outputs_that_say_nothing_are_noticed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Hardtanh(100.0, 101.0))
    truth = Truth(model, SMALL.example(1, (8, 8), seed=1))
    assert "says nothing" in truth.judge(model).problems[0]


def test_pooled_errors_are_the_largest() -> None:
    model = SMALL.build()
    truths = [Truth(model, SMALL.example(1, SMALL.size, seed=seed)) for seed in range(3)]
    errors = [list(truth.torch_errors) for truth in truths]
    pool(truths)
    assert all(truth.torch_errors == [max(column) for column in zip(*errors, strict=True)] for truth in truths)


@pytest.mark.parametrize("name", ["resnet_basic", "mobilenet_v1", "multi_task"])
def test_a_wrong_fold_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = ZOO[name]
    if command := network.missing():
        pytest.skip(f"{network.source} is not installed: {command}")
    fold = prepared.fold_norms

    def without_means(weight: Tensor, bias: Any, norms: list[Any], groups: int = 0) -> tuple[Tensor, Tensor]:
        return fold(weight, bias, [replace(norm, mean=norm.mean * 1.001) for norm in norms], groups)

    model, args = network.build(small=True), network.example(1, network.small, seed=1)
    truth = Truth(model, args)
    monkeypatch.setattr(prepared, "fold_norms", without_means)
    assert "off by" in truth.judge(fastconv.convert(model)).problems[0]


def test_calibrated_networks_neither_die_nor_explode() -> None:
    layers: list[nn.Module] = []
    for _ in range(40):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    x = torch.randn(1, 3, 12, 12)
    model = calibrate(nn.Sequential(nn.Conv2d(3, 8, 1), *layers, nn.Conv2d(8, 4, 1)), (x,))
    with torch.no_grad():
        assert 0.1 < float(model(x).std()) < 10
        assert float((model(x) - model(x + 0.1 * torch.randn_like(x))).abs().max()) > 1e-3
        norms = [module for module in model if isinstance(module, nn.BatchNorm2d)]
        assert any(bool((norm.weight < 0).any()) for norm in norms)
        assert all(not bool((norm.running_var == 1).any()) for norm in norms)


def test_missing_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    network = ZOO["bit"]
    assert network.missing() == "pip install transformers"
    with pytest.raises(MissingPackage, match="bit needs transformers, which is not installed: pip install"):
        network.build()
    assert main(["bench", "--suite", "zoo", "--check"]) != 0
    assert "which is not installed" in capsys.readouterr().err


@pytest.fixture
def two_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = {"small": SMALL, "early_exit": ZOO["early_exit"]}
    monkeypatch.setattr("fastconv.bench.zoo.runner.ZOO", registry)


def test_suite(two_networks: None, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--suite", "zoo", "--check", "--quick", "--threads", "1", "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "small" in shown and "early_exit" in shown and "2 networks" in shown and "MISS" not in shown
    page = (tmp_path / "zoo.html").read_text()
    assert "early_exit" in page and "control flow" in page
    assert '"convert_speedup"' in (tmp_path / "zoo.json").read_text()


def test_suite_fails_on_a_miss(
    two_networks: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fold = prepared.fold_norms
    monkeypatch.setattr(prepared, "fold_norms", lambda w, b, norms, groups=0: fold(w * 1.001, b, norms, groups))
    assert main(["bench", "--suite", "zoo", "--check", "--quick", "--threads", "1"]) == 1
    assert "MISS: small: convert: output 0: off by" in capsys.readouterr().out


def test_report_of_a_row() -> None:
    row = measure(ZOO["early_exit"], Effort.quick(), small=True)
    assert row.left == 1 and row.reasons[0][0] == "forward" and row.fused == 3 and row.convert_speedup
    run = ZooRun("zoo", {"threads": 1, "backend": "cpu", "cache": "warm"}, {}, [row])
    assert report.reasons(run.rows)[0][2:] == (1, 1)
    assert "| early_exit | fastconv |" in report.markdown(run)
