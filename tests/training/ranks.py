"""What two processes do together over gloo; run once, judged by test_distributed.py and test_sync_batch_norm.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from digits import digits, made, replaced
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import fastconv

WORLD = 2
SYNC = fastconv.nn.SyncBatchNorm.convert_sync_batchnorm


def block(act: str = "prelu") -> nn.Module:
    torch.manual_seed(0)
    blocks = (fastconv.nn.ConvBNAct2d(1, 8, 3, act=act), fastconv.nn.UpsampleConv2d(8, 8, 3, act="relu"))
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


# What DistributedDataParallel gets, its options, and the network that one process trains on the whole batch.
Case = tuple[Callable[[], nn.Module], dict[str, Any], Callable[[], nn.Module]]
CASES: dict[str, Case] = {
    "no_norm": (lambda: replaced("cifar_style"), {}, lambda: replaced("cifar_style")),
    "views": (lambda: replaced("cifar_style"), {"gradient_as_bucket_view": True}, lambda: replaced("cifar_style")),
    "static": (lambda: replaced("cifar_style"), {"static_graph": True}, lambda: replaced("cifar_style")),
    "sync_before": (lambda: fastconv.replace(SYNC(made("resnet"))), {}, lambda: made("resnet")),
    "sync_after": (lambda: SYNC(replaced("mobilenet")), {}, lambda: replaced("mobilenet")),
    "sync_blocks": (lambda: SYNC(block()), {}, block),
    "cumulative": (lambda: SYNC(_cumulative()), {}, lambda: _cumulative()),
}


def _cumulative() -> nn.Module:
    model = block("silu")
    model[0].bn.momentum = None  # type: ignore[index]
    model[0].bn.affine, model[0].bn.weight, model[0].bn.bias = False, None, None  # type: ignore[index]
    return model


def steps(model: nn.Module, part: slice) -> dict[str, Tensor]:
    """Two steps on this process's part of the batches; the gradients of the first, and everything after the last."""
    x, y, *_ = digits()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    found: dict[str, Tensor] = {}
    for start in (0, 32):
        optimizer.zero_grad()
        F.cross_entropy(model(x[start : start + 32][part]), y[start : start + 32][part]).backward()
        if not found:
            found = {
                f"grad {name}": p.grad.clone() for name, p in plain(model).named_parameters() if p.grad is not None
            }
        optimizer.step()
    return {**found, **{name: value.detach().clone() for name, value in plain(model).state_dict().items()}}


def plain(model: Any) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model


# Samples of each process, for the layer alone.
SHARES = {"unequal": (9, 4), "one_is_empty": (6, 0), "one_value_each": (1, 1)}


def sample(channels_last: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, dy = (torch.randn(13, 6, 3, 4, generator=generator) for _ in range(2))
    x = x * 2 + 20
    return (x.contiguous(memory_format=torch.channels_last), dy) if channels_last else (x, dy)


def layer(rank: int, share: str, channels_last: bool) -> dict[str, Tensor]:
    """Forward and backward through the layer on samples that are shared out as `share` says."""
    x, dy = sample(channels_last)
    if share == "one_value_each":
        x, dy = x[:, :, :1, :1], dy[:, :, :1, :1]
    sizes = SHARES[share]
    part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    norm = fastconv.nn.SyncBatchNorm(6, eps=0.1)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, 6))
    leaf = x[part].clone(memory_format=torch.preserve_format).requires_grad_()
    y = norm(leaf)
    y.backward(dy[part])
    assert leaf.grad is not None
    grads = {name: p.grad for name, p in norm.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "dx": leaf.grad, **grads, **{f"after {k}": v for k, v in norm.named_buffers()}}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = dist.FileStore(str(Path(folder) / "store"), WORLD)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    found: dict[str, Any] = {}
    half = slice(16 * rank, 16 * rank + 16)
    for name, (build, options, _) in CASES.items():
        found[name] = steps(DistributedDataParallel(build(), **options), half)
    for share in SHARES:
        for channels_last in (False, True):
            found[f"{share} {channels_last}"] = layer(rank, share, channels_last)
    found["torch"], found["ours"] = (steps(DistributedDataParallel(make("resnet")), half) for make in (made, replaced))
    for name, refused in {
        "torch's layer": lambda: nn.SyncBatchNorm(6)(torch.randn(2, 6, 3, 3)),
        "torch's parallel": lambda: DistributedDataParallel(fastconv.replace(nn.Sequential(nn.SyncBatchNorm(6)))),
    }.items():
        try:
            refused()
        except ValueError as error:
            found[name] = str(error)
    model = fastconv.nn.SyncBatchNorm(6)
    x = torch.randn(2, 6, 3, 3, requires_grad=True)
    (dx,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    try:
        dx.sum().backward()
    except RuntimeError as error:
        found["twice"] = str(error)
    norm = fastconv.nn.SyncBatchNorm(6)
    try:
        norm(torch.randn(1 - rank, 6, 1, 1))
    except ValueError as error:
        found["one value"], found["after it"] = str(error), dict(norm.state_dict())
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()
