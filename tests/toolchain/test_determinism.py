"""The same bits every time: on one thread or two, alone or in a batch, forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import fastconv
from fastconv import functional, ops

BATCH = 20  # more than the few rows for which products have kernels of their own
DTYPES = [torch.float32, torch.bfloat16, torch.float64]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
formats = pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"]
)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _equal(a: Any, b: Any) -> bool:
    pairs = zip(*(torch.utils._pytree.tree_leaves(v) for v in (a, b)), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def _same_on_all_threads(call: Callable[[], Any]) -> Any:
    results = []
    for count in (1, 2, 1):
        torch.set_num_threads(count)
        results.append(call())
    assert all(_equal(results[0], other) for other in results[1:])
    return results[0]


def _same_alone(call: Callable[[Tensor], Any], x: Tensor) -> None:
    """The whole batch, and samples of it alone and in pairs, on any number of threads."""
    form = torch.preserve_format
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        form = torch.channels_last
    whole = _same_on_all_threads(lambda: call(x))
    for rows in ([0], [x.shape[0] - 1], [3, 1], list(range(9)), list(range(17))):
        part = x[rows].contiguous(memory_format=form) if form is torch.channels_last else x[rows]
        assert _equal(call(part), torch.utils._pytree.tree_map(lambda y, rows=rows: y[rows], whole)), rows


# channels, filters, image, filter, stride, padding, groups
CONVOLUTIONS = [
    (3, 8, 11, 3, 2, 1, 1),
    (16, 32, 7, 1, 1, 0, 1),
    (48, 32, 9, 3, 1, 1, 1),
    (32, 32, 9, 5, 2, 2, 32),
    (16, 32, 9, 3, 1, 1, 4),
    (700, 24, 1, 1, 1, 0, 1),
    (300, 16, 4, 3, 1, 1, 1),
]


def _image(channels: int, size: int, dtype: torch.dtype, memory_format: Any) -> Tensor:
    return torch.randn(BATCH, channels, size, size).to(dtype).contiguous(memory_format=memory_format)


@torch.no_grad()
@formats
@dtypes
@pytest.mark.parametrize("shape", CONVOLUTIONS, ids=str)
def test_convolution(shape: Any, dtype: torch.dtype, memory_format: Any) -> None:
    c, k, size, kernel, stride, padding, groups = shape
    x = _image(c, size, dtype, memory_format)
    w, b = torch.randn(k, c // groups, kernel, kernel).to(dtype), torch.randn(k).to(dtype)
    served = 0
    for algo in (None, *(row.name for row in fastconv.algorithms("conv2d"))):
        try:
            functional.conv2d(x[:1], w, b, stride, padding, 1, groups, algo=algo)
        except NotImplementedError:
            continue
        served += 1
        _same_alone(lambda x, algo=algo: functional.conv2d(x, w, b, stride, padding, 1, groups, algo=algo), x)
    assert served > 1


@torch.no_grad()
@dtypes
@pytest.mark.parametrize("size", [(5, 3), (64, 40), (1000, 70), (1280, 100), (2100, 33)], ids=str)
def test_linear(size: tuple[int, int], dtype: torch.dtype) -> None:
    inner, columns = size
    x, w = torch.randn(BATCH, inner).to(dtype), torch.randn(columns, inner).to(dtype)
    b = torch.randn(columns).to(dtype)
    for algo in (None, "tiled"):
        _same_alone(lambda x, algo=algo: functional.linear(x, w, b, algo=algo), x)
    # With B the other way round, which few rows read as it lies; and A turned, whose rows are no memory of their own.
    turned = w.t().contiguous()
    _same_alone(lambda x: functional.gemm(x, turned, b), x)
    _same_alone(lambda x: functional.gemm(x.t().contiguous(), turned, b, transpose_a=True), x)
    with torch.enable_grad():
        _same_alone(lambda x: functional.linear(x, w.clone().requires_grad_(), b).detach(), x)


OTHERS: dict[str, Callable[[Tensor], Any]] = {
    "max_pool2d": lambda x: functional.max_pool2d(x, 3, 2, 1, return_indices=True),
    "avg_pool2d": lambda x: functional.avg_pool2d(x, 3, 2, 1),
    "adaptive_avg_pool2d to one": lambda x: functional.adaptive_avg_pool2d(x, 1),
    "adaptive_avg_pool2d": lambda x: functional.adaptive_avg_pool2d(x, (3, 4)),
    "adaptive_max_pool2d": lambda x: functional.adaptive_max_pool2d(x, 2),
    "gelu": functional.gelu,
    "softmax": lambda x: functional.softmax(x, 1),
    "im2col": lambda x: functional.im2col(x, 3),
    "batch norm": lambda x: functional.batch_norm_act(
        x, torch.linspace(0, 1, 8, dtype=x.dtype), torch.linspace(1, 2, 8, dtype=x.dtype), act="relu"
    ),
    **{
        f"upsample_conv2d {algo}": lambda x, algo=algo: functional.upsample_conv2d(
            x, torch.linspace(-1, 1, 432).to(x.dtype).view(6, 8, 3, 3), padding=1, algo=algo
        )
        for algo in ("phase", "gather")
    },
    **{
        f"conv_transpose2d of {groups} groups": lambda x, groups=groups: functional.conv_transpose2d(
            x, torch.linspace(-1, 1, 72 * 8 // groups).to(x.dtype).view(8, -1, 3, 3), None, 2, 1, 1, groups
        )
        for groups in (1, 8)
    },
}


@torch.no_grad()
@formats
@dtypes
@pytest.mark.parametrize("name", OTHERS)
def test_other_layers(name: str, dtype: torch.dtype, memory_format: Any) -> None:
    _same_alone(OTHERS[name], _image(8, 10, dtype, memory_format))


@torch.no_grad()
@formats
@dtypes
@pytest.mark.parametrize("shape", CONVOLUTIONS, ids=str)
def test_gradients_of_convolution(shape: Any, dtype: torch.dtype, memory_format: Any) -> None:
    c, k, size, kernel, stride, padding, groups = shape
    x, w = _image(c, size, dtype, memory_format), torch.randn(k, c // groups, kernel, kernel).to(dtype)
    dy = torch.randn_like(functional.conv2d(x, w, None, stride, padding, 1, groups))
    geometry = ([stride] * 2, [padding] * 4, [1, 1], groups, "", "")
    _same_alone(lambda dy: ops.native.conv2d_input_grad(dy, w, [len(dy), *x.shape[1:]], *geometry), dy)
    _same_on_all_threads(lambda: ops.native.conv2d_weight_grad(dy, x, w.shape, *geometry))
    _same_on_all_threads(lambda: ops.native.channel_sum(dy, ""))


@formats
@dtypes
def test_a_training_step(dtype: torch.dtype, memory_format: Any) -> None:
    x = _image(8, 12, dtype, memory_format)
    block = fastconv.nn.ConvBNAct2d(8, 12, 3, padding=1, act="prelu").to(dtype)
    head = fastconv.nn.Linear(12, 5).to(dtype)

    def step() -> list[Tensor]:
        y = functional.adaptive_avg_pool2d(functional.max_pool2d(block(x), 3, 2, 1), 1)
        loss = functional.softmax(head(y.flatten(1)), 1).square().sum()
        return list(torch.autograd.grad(loss, [*block.parameters(), *head.parameters()]))

    _same_on_all_threads(step)
