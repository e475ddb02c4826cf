"""fastconv.nn.SyncBatchNorm: statistics of two processes' batches together, and the layer by itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from digits import made, replaced
from ranks import SHARES, SYNC, block, sample, steps
from torch import nn

import fastconv

pytestmark = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="torch without gloo")


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("share", SHARES)
def test_the_layer_on_unequal_batches(found: list[dict[str, Any]], share: str, channels_last: bool) -> None:
    x, dy = (t[: sum(SHARES[share])] for t in sample(channels_last))
    if share == "one_value_each":
        x, dy = x[:, :, :1, :1], dy[:, :, :1, :1]
    norm = nn.BatchNorm2d(6, eps=0.1).double()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, 6))
    leaf = x.double().requires_grad_()
    y = norm(leaf)
    y.backward(dy.double())
    reports = [rank[f"{share} {channels_last}"] for rank in found]
    for name, whole in {"y": y.detach(), "dx": leaf.grad}.items():
        assert whole is not None
        torch.testing.assert_close(
            torch.cat([report[name] for report in reports]).double(), whole, rtol=1e-3, atol=1e-3
        )
    for name, parameter in norm.named_parameters():  # each process keeps its own part of the sum
        total = sum(report[name].double() for report in reports)
        torch.testing.assert_close(total, parameter.grad, rtol=1e-3, atol=1e-2)
    for name, buffer in norm.named_buffers():
        for report in reports:
            torch.testing.assert_close(report[f"after {name}"].to(buffer.dtype), buffer, rtol=1e-4, atol=1e-5)


def test_what_is_refused(found: list[dict[str, Any]]) -> None:
    """torch's own layer takes no CPU tensor where processes train together: why ours is one of its own."""
    for rank in found:
        assert "GPU" in rank["torch's layer"] and "GPU" in rank["torch's parallel"]
        assert "once_differentiable" in rank["twice"]


def test_a_batch_that_is_refused_is_not_counted(found: list[dict[str, Any]]) -> None:
    """One value a channel over both processes: each of them stops, and its buffers are as they were."""
    for rank in found:
        assert "Expected more than 1 value per channel" in rank["one value"]
        assert all(torch.equal(value, nn.BatchNorm2d(6).state_dict()[name]) for name, value in rank["after it"].items())


# ---- in one process ------------------------------------------------------------------------------------------------


def test_before_and_after_replace() -> None:
    """Either order ends at the same layers; torch's own are left to torch, for GPUs."""
    before, after = fastconv.replace(SYNC(made("resnet"))), SYNC(replaced("resnet"))
    twice = SYNC(nn.SyncBatchNorm.convert_sync_batchnorm(made("resnet")))
    for model in (before, after, twice):
        kinds = {type(m) for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
        assert kinds == {fastconv.nn.SyncBatchNorm}
        assert list(model.state_dict()) == list(made("resnet").state_dict())
        assert steps(model, slice(None)).keys() == steps(made("resnet"), slice(None)).keys()
    torchs = fastconv.replace(nn.SyncBatchNorm.convert_sync_batchnorm(made("resnet")))
    assert type(torchs[1]) is nn.SyncBatchNorm  # type: ignore[index]


class Own(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_norms_that_are_not_converted() -> None:
    model: Any = SYNC(nn.Sequential(Own(3), nn.LazyBatchNorm2d(), nn.GroupNorm(1, 3), nn.BatchNorm1d(3)))
    assert [type(m) for m in model] == [Own, nn.LazyBatchNorm2d, nn.GroupNorm, fastconv.nn.SyncBatchNorm]
    with pytest.raises(ValueError, match="at least 2D"):
        model[3](torch.randn(3))


@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}], ids=str
)
def test_alone_it_is_a_batch_norm(options: dict[str, Any]) -> None:
    ours, theirs = fastconv.nn.SyncBatchNorm(4, **options), nn.BatchNorm2d(4, **options)
    assert repr(ours).startswith("SyncBatchNorm(4") and ours.state_dict().keys() == theirs.state_dict().keys()
    for training in (True, True, False):
        ours.train(training), theirs.train(training)
        for shape in ((3, 4, 5, 6), (2, 4, 1, 3)):
            x = torch.randn(shape)
            torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        ours.train()(torch.randn(1, 4, 1, 1))


def test_it_is_folded_in_inference() -> None:
    model = SYNC(block("relu")).train()
    model(torch.randn(8, 1, 8, 8) * 3)
    model.eval()
    x = torch.randn(2, 1, 8, 8)
    converted, twin = fastconv.convert(model), copy.deepcopy(model)
    assert not fastconv.explain(converted).left
    with torch.no_grad():
        hidden = twin[0].conv(x)
        norm = twin[0].bn
        expected = F.relu(F.batch_norm(hidden, norm.running_mean, norm.running_var, norm.weight, norm.bias))
        torch.testing.assert_close(twin[0](x), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(converted(x), model(x), rtol=1e-4, atol=1e-5)
