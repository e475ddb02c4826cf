"""The training suite: what its rows hold, and that wrong gradients are told and not timed."""

import pytest
import torch
from torch import nn

import fastconv
from fastconv.bench import runner, suites, timing, training
from fastconv.bench.networks import Network

QUICK = runner.Settings(effort=timing.Effort(seconds=0.0, min_rounds=2, max_rounds=2), layouts=("nhwc",))


def tiny() -> nn.Module:
    conv, last = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Linear(8, 4)
    return nn.Sequential(
        conv, nn.BatchNorm2d(8), nn.ReLU6(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), last
    )


TINY = Network("tiny", "Tiny", tiny, image_size=12)


def test_rows_of_a_training_step() -> None:
    rows = training.measure_training(TINY, 2, QUICK)
    assert [(row.direction, row.backend, row.algorithm) for row in rows] == [
        ("forward", "torch", "eager"), ("forward", "cpu", "replace"),
        ("forward + backward", "torch", "eager"), ("forward + backward", "cpu", "replace"),
    ]  # fmt: skip
    for theirs, ours in (rows[:2], rows[2:]):
        assert theirs.correct and ours.correct and ours.group == theirs.group == f"{ours.direction}, channels_last"
        assert ours.speedup == pytest.approx(theirs.median_ms / ours.median_ms)
    assert rows[3].gflops == pytest.approx(3 * rows[1].gflops * rows[1].median_ms / rows[3].median_ms)


def test_wrong_gradients_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    right = fastconv.replace

    def replace(model: nn.Module) -> nn.Module:
        model[6].weight.register_hook(lambda grad: grad * 1.05)
        return right(model)

    monkeypatch.setattr(training.fastconv, "replace", replace)
    rows = training.measure_training(TINY, 2, QUICK)
    for row in rows:
        assert row.correct == (row.backend == "torch")
        assert (row.median_ms is None) == row.is_ours
        assert ("gradients off by" in row.note) == row.is_ours


def test_the_suite_takes_its_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(suites, "measure_training", lambda network, batch, _: seen.append((network.name, batch)) or [])
    for quick in (False, True):
        suites.run_suite("training", QUICK, quick, lambda *_: None)
    assert seen == [("resnet18", 8), ("mobilenet_v2", 8), ("mobilenet_v2", 1)]
    assert torch.is_grad_enabled()
