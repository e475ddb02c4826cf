"""Blocks in one call: the same bits for any number of threads and in any batch, gradients by their parts, refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as torch_f
from torch import Tensor

from fastconv import functional, introspection, ops
from fastconv.functional import Stage


def _weights(channels: int, hidden: int, filters: int, kernel: int) -> tuple[Stage, Stage, Stage]:
    torch.manual_seed(0)
    return (
        Stage(torch.randn(hidden, channels, 1, 1) / channels**0.5, torch.randn(hidden), "relu6"),
        Stage(torch.randn(hidden, 1, kernel, kernel) / kernel, torch.randn(hidden), "relu6"),
        Stage(torch.randn(filters, hidden, 1, 1) / hidden**0.5, torch.randn(filters)),
    )


def _inverted(x: Tensor, algo: str | None = "depth_first", stride: int = 1) -> Tensor:
    expand, depthwise, project = _weights(x.shape[1], 200, x.shape[1], 3)
    residual = x if stride == 1 else None
    return functional.inverted_residual(x, expand, depthwise, project, stride, 1, residual=residual, algo=algo)


def _pair(x: Tensor, algo: str | None = "depth_first") -> Tensor:
    _, depthwise, project = _weights(1, x.shape[1], 40, 5)
    return functional.depthwise_pointwise(x, depthwise, project, 2, 2, algo=algo)


def _pooled(x: Tensor, algo: str | None = "depth_first") -> Tensor:
    torch.manual_seed(0)
    conv = Stage(torch.randn(33, x.shape[1], 3, 3), torch.randn(33), "relu")
    return functional.conv_max_pool(x, conv, 3, 2, 1, padding=1, algo=algo)


BLOCKS: dict[str, Callable[..., Tensor]] = {
    "inverted_residual": _inverted,
    "strided": lambda x, algo="depth_first": _inverted(x, algo, 2),
    "depthwise_pointwise": _pair,
    "conv_max_pool": _pooled,
}
# By rows and by channels, one band and several, images that are no multiple of anything.
SIZES = ((24, 7, 7), (24, 14, 14), (17, 41, 60), (160, 7, 9))


@pytest.fixture
def threads() -> Callable[[int], None]:
    before = torch.get_num_threads()
    yield torch.set_num_threads  # type: ignore[misc]
    torch.set_num_threads(before)


@pytest.mark.parametrize("isa", introspection.available_isas())
@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("name", BLOCKS)
def test_bits_depend_on_neither_threads_nor_batch(
    name: str, last: bool, isa: str, threads: Callable[[int], None]
) -> None:
    before = introspection.isa()
    introspection.select_isa(isa)
    try:
        for size in SIZES:
            x = torch.randn(5, *size)
            x = x.contiguous(memory_format=torch.channels_last) if last else x
            results = []
            for count in (1, 2, 3, 7):
                threads(count)
                results.append(BLOCKS[name](x))
            alone = torch.cat([BLOCKS[name](x[i : i + 1]) for i in range(5)])
            assert all(torch.equal(results[0], y) for y in (*results[1:], alone)), size
    finally:
        introspection.select_isa(before)


@pytest.mark.parametrize("name", BLOCKS)
def test_parts_give_the_same(name: str) -> None:
    for size in SIZES:
        x = torch.randn(2, *size)
        torch.testing.assert_close(BLOCKS[name](x), BLOCKS[name](x, "parts"), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(BLOCKS[name](x, None), BLOCKS[name](x, "parts"), rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_the_parts() -> None:
    x = torch.randn(2, 6, 9, 8, requires_grad=True)
    expand, depthwise, project = _weights(6, 18, 6, 3)
    leaves = [x, *(s.weight.requires_grad_() for s in (expand, depthwise, project))]
    ours = functional.inverted_residual(x, expand, depthwise, project, padding=1, residual=x)
    y = torch_f.relu6(torch_f.conv2d(x, expand.weight, expand.bias))
    y = torch_f.relu6(torch_f.conv2d(y, depthwise.weight, depthwise.bias, padding=1, groups=18))
    theirs = torch_f.conv2d(y, project.weight, project.bias) + x
    dy = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, leaves, dy), torch.autograd.grad(theirs, leaves, dy), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BLOCKS)
def test_an_algorithm_by_name_loses_no_gradient(name: str) -> None:
    x = torch.randn(2, 24, 7, 7, requires_grad=True)
    dy = torch.randn_like(BLOCKS[name](x, None))
    chosen, named = (torch.autograd.grad(BLOCKS[name](x, algo), x, dy)[0] for algo in (None, "parts"))
    assert torch.equal(chosen, named)
    with pytest.raises(NotImplementedError, match="expected algo to be parts or None where autograd records"):
        BLOCKS[name](x, "depth_first")
    with torch.no_grad():
        assert not BLOCKS[name](x, "depth_first").requires_grad


@pytest.mark.parametrize("name", BLOCKS)
def test_autocast_lowers_whatever_the_algorithm(name: str) -> None:
    x = torch.randn(2, 24, 7, 7)
    exact = BLOCKS[name](x)
    with torch.autocast("cpu", torch.bfloat16):
        made = {algo: BLOCKS[name](x, algo) for algo in (None, "parts", "depth_first")}
    for y in made.values():
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.05 * exact.abs().max().item())
    assert torch.equal(made[None], made["parts"])


def test_parts_take_an_image_without_a_batch() -> None:
    _, depthwise, project = _weights(1, 24, 40, 5)
    x = torch.randn(24, 7, 7)
    y = functional.depthwise_pointwise(x, depthwise, project, 2, 2, algo="parts")
    assert torch.equal(y, _pair(x[None], "parts")[0])


def test_the_raw_operator_says_that_it_has_no_derivative() -> None:
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    stages = (torch.randn(4, 1, 3, 3), None, [1, 1], [1] * 4, [1, 1], "relu", 0.0, None)
    last = (torch.randn(3, 4, 1, 1), None, None, "relu", 0.0, None, "", "", None, None)
    y = ops.native.depthwise_pointwise(x, *stages, *last)
    with pytest.raises(NotImplementedError, match="depthwise_pointwise runs the block's parts"):
        y.sum().backward()


def test_what_depth_first_does_not_serve_is_refused_with_reasons() -> None:
    x = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    stages = (Stage(torch.randn(4, 1, 3, 3).double()), Stage(torch.randn(3, 4, 1, 1).double()))
    with pytest.raises(
        NotImplementedError, match="depth_first: expected float32, float16 or bfloat16, but got float64"
    ):
        functional.depthwise_pointwise(x, *stages, padding=1, algo="depth_first")
    assert functional.depthwise_pointwise(x, *stages, padding=1).dtype == torch.float64
    with pytest.raises(RuntimeError, match="Given groups=4"):
        functional.depthwise_pointwise(x.float(), Stage(torch.randn(3, 1, 3, 3)), Stage(torch.randn(3, 3, 1, 1)))


def test_nan_passes_and_infinite_weights_do_not_crash() -> None:
    x = torch.randn(1, 5, 9, 9)
    x[0, 2, 4, 4] = float("nan")
    y = _inverted(x)
    assert y.isnan()[0, 0, 3:6, 3:6].all() and not y.isnan()[0, :, :3].any()


def test_a_call_that_succeeds_is_not_checked_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 24, 7, 7)
    expected = [block(x) for block in BLOCKS.values()]
    monkeypatch.setattr(functional.blocks, "_require", lambda *arguments, **stages: pytest.fail("checked beforehand"))
    assert all(torch.equal(block(x), y) for block, y in zip(BLOCKS.values(), expected, strict=True))


_CONV = Stage(torch.ones(4, 3, 1, 1))
_FLAT = Stage(torch.ones(4, 3))
REFUSED: dict[str, tuple[Callable[[], Tensor], type[Exception], str]] = {
    "no tensor": (
        lambda: functional.conv_max_pool([1.0], _CONV, 2),
        TypeError, r"conv_max_pool\(\): argument 'input' \(position 1\) must be Tensor, not list",
    ),
    "a list as x of a pair": (
        lambda: functional.depthwise_pointwise([1.0], _CONV, _CONV),
        TypeError, r"depthwise_pointwise\(\): argument 'input' \(position 1\) must be Tensor, not list",
    ),
    "a vector": (
        lambda: functional.depthwise_pointwise(torch.ones(3), _CONV, _CONV),
        ValueError, "depthwise_pointwise: expected x to have 3 or 4 dimensions, but got 1",
    ),
    "five dimensions": (
        lambda: functional.inverted_residual(torch.ones(1, 1, 3, 4, 4), _CONV, _CONV, _CONV),
        ValueError, "inverted_residual: expected x to have 3 or 4 dimensions, but got 5",
    ),
    "no stage": (
        lambda: functional.inverted_residual(torch.ones(1, 3, 4, 4), _CONV, torch.ones(3, 1, 1, 1), _CONV),
        TypeError, "inverted_residual: expected depthwise to be a fastconv.functional.Stage, but got Tensor",
    ),
    "a matrix as weight": (
        lambda: functional.inverted_residual(torch.ones(1, 3, 4, 4), _CONV, _FLAT, _CONV),
        ValueError, "inverted_residual: expected the weight of depthwise to have 4 dimensions, but got 2 dimensions",
    ),
    "a matrix as weight of a layer": (
        lambda: functional.depthwise_pointwise(torch.ones(3, 4, 4), _CONV, _FLAT),
        ValueError, "depthwise_pointwise: expected the weight of pointwise to have 4 dimensions, but got 2 dimensions",
    ),
    "no weight": (
        lambda: functional.conv_max_pool(torch.ones(1, 3, 4, 4), Stage(None), 2),  # type: ignore[arg-type]
        ValueError, "conv_max_pool: expected the weight of conv to have 4 dimensions, but got None",
    ),
    "a stride of words": (
        lambda: functional.conv_max_pool(torch.ones(1, 3, 4, 4), _FLAT, 2, stride="two"),  # type: ignore[arg-type]
        ValueError, "conv_max_pool: expected the weight of conv to have 4 dimensions, but got 2 dimensions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("grad", [False, True])
def test_what_no_block_can_be_asked(name: str, grad: bool) -> None:
    call, kind, text = REFUSED[name]
    with torch.set_grad_enabled(grad), pytest.raises(kind, match=text):
        call()
