"""conv2d by Winograd's algorithm on the CPU: shapes, epilogues, layouts, the same bits alone and in a batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as torch_f
from torch import Tensor

import fastconv
from fastconv import functional
from fastconv.functional import choice
from fastconv.functional.arguments import ACTIVATIONS
from fastconv.ops import native

ROWS = ("winograd_2x2", "winograd_4x4")
# Of the largest sum of absolute products: F(4x4) weighs its sums by up to 64.
ERROR = {"winograd_2x2": 2e-6, "winograd_4x4": 8e-6}


@pytest.fixture(params=fastconv.introspection.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    fastconv.introspection.select_isa(request.param)
    yield request.param
    fastconv.introspection.select_isa("")


def operands(n: int, c: int, h: int, w: int, k: int, groups: int = 1) -> tuple[Tensor, Tensor]:
    torch.manual_seed(c * h + k)
    return torch.randn(n, c, h, w), torch.randn(k, c // groups, 3, 3) / (9 * c // groups) ** 0.5


def check(x: Tensor, w: Tensor, algo: str, padding: tuple[int, int, int, int], groups: int = 1) -> None:
    top, bottom, left, right = padding
    sides = (left, right, top, bottom)

    def expected(x: Tensor, w: Tensor) -> Tensor:
        return torch_f.conv2d(torch_f.pad(x.double(), sides), w.double(), groups=groups)

    y = functional.conv2d(x, w, padding=padding, groups=groups, algo=algo)
    truth, size = expected(x, w), expected(x.abs(), w.abs()).max()
    assert y.shape == truth.shape
    assert (y - truth).abs().max() <= ERROR[algo] * size


@pytest.mark.parametrize("algo", ROWS)
@pytest.mark.parametrize("channels_last", (False, True))
def test_extents(isa: str, algo: str, channels_last: bool) -> None:
    """Images smaller than a tile and one more than whole tiles, any channels, groups and padding."""
    cases = (
        (1, 1, 3, 3, 1, 1, (0, 0, 0, 0)),
        (1, 3, 1, 1, 5, 1, (1, 1, 1, 1)),
        (2, 16, 4, 9, 33, 1, (1, 1, 1, 1)),
        (1, 17, 13, 6, 16, 1, (0, 3, 5, 2)),
        (3, 24, 5, 5, 36, 3, (1, 0, 0, 1)),
        (1, 4, 6, 31, 8, 4, (5, 5, 5, 5)),
        (1, 300, 6, 6, 40, 1, (1, 1, 1, 1)),
        (5, 32, 7, 7, 64, 2, (1, 1, 1, 1)),
        (1, 8, 40, 37, 8, 1, (2, 2, 2, 2)),
    )
    for n, c, h, w, k, groups, padding in cases:
        x, weight = operands(n, c, h, w, k, groups)
        if channels_last:
            x = x.to(memory_format=torch.channels_last)
        check(x, weight, algo, padding, groups)


@pytest.mark.parametrize("algo", ROWS)
def test_epilogues(isa: str, algo: str) -> None:
    """Every activation, with bias, scale, shift and residual, as the implicit GEMM computes them."""
    x, w = operands(2, 20, 11, 9, 36)
    bias, scale, shift, residual = torch.randn(36), torch.rand(36) + 0.5, torch.randn(36), torch.randn(2, 36, 11, 9)
    formats = (torch.contiguous_format, torch.channels_last)
    for act, (image, added) in itertools.product(ACTIVATIONS, itertools.product(formats, formats)):
        for alpha in (torch.rand(1), torch.rand(36), torch.rand(36, 11, 9)) if act == "prelu" else (None,):
            parts = {
                "bias": bias, "scale": scale, "shift": shift, "residual": residual.contiguous(memory_format=added),
                "act": act, "act_param": alpha, "padding": 1,
            }  # fmt: skip
            here = x.contiguous(memory_format=image)
            want = functional.conv2d(here, w, algo="implicit_gemm", **parts)
            torch.testing.assert_close(functional.conv2d(here, w, algo=algo, **parts), want, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("algo", ROWS)
def test_views(isa: str, algo: str) -> None:
    """Inputs with gaps, reversed axes of memory and shared elements."""
    x, w = operands(2, 16, 12, 10, 24)
    wide = torch.randn(2, 40, 12, 30)
    views = (
        wide[:, 4:20, :, 3:13],
        wide.to(memory_format=torch.channels_last)[:, 24:, 1:, ::2],
        x.transpose(2, 3),
        x[:1].expand(2, -1, -1, -1),
        x[:, :1].expand(-1, 16, -1, -1),
    )
    for view in views:
        check(view, w, algo, (1, 1, 1, 1))
    check(x, torch.randn(24, 3, 3, 16).permute(0, 3, 2, 1), algo, (1, 1, 1, 1))


@pytest.mark.parametrize("algo", ROWS)
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_precision(isa: str, algo: str, dtype: torch.dtype) -> None:
    x, w = (t.to(dtype) for t in operands(1, 40, 10, 10, 33))
    residual = torch.randn(1, 33, 10, 10, dtype=dtype)
    y = functional.conv2d(x, w, padding=1, residual=residual, algo=algo)
    truth = torch_f.conv2d(x.double(), w.double(), padding=1) + residual
    assert (y - truth).abs().max() <= torch.finfo(dtype).eps * truth.abs().max()


@pytest.mark.parametrize("algo", ROWS)
def test_same_bits_in_a_batch_and_on_threads(isa: str, algo: str) -> None:
    """Tiles of different images share blocks, and blocks depend on the threads; bits depend on neither."""
    threads = torch.get_num_threads()
    for c, h, k, groups in ((48, 9, 80, 1), (272, 14, 320, 1), (32, 30, 32, 2)):
        x, w = operands(5, c, h, h, k, groups)
        for image in (x, x.to(memory_format=torch.channels_last)):
            whole = functional.conv2d(image, w, padding=1, groups=groups, algo=algo)
            parts = [functional.conv2d(one, w, padding=1, groups=groups, algo=algo) for one in image.split(1)]
            assert torch.equal(whole, torch.cat(parts))
            try:
                for count in (1, 2, 3):
                    torch.set_num_threads(count)
                    assert torch.equal(functional.conv2d(image, w, padding=1, groups=groups, algo=algo), whole)
            finally:
                torch.set_num_threads(threads)


def test_integers_are_exact_with_small_tiles(isa: str) -> None:
    x, w = torch.randint(-4, 5, (2, 20, 11, 13)).float(), 4.0 * torch.randint(-3, 4, (18, 20, 3, 3))
    y = functional.conv2d(x, w, padding=1, algo="winograd_2x2")
    assert torch.equal(y, torch_f.conv2d(x.double(), w.double(), padding=1).float())


def test_nothing_to_do_and_refusals() -> None:
    x, w = operands(1, 8, 9, 9, 8)
    assert functional.conv2d(x[:0], w, padding=1, algo="winograd_4x4").shape == (0, 8, 9, 9)
    for arguments, reason in (
        ({"weight": torch.randn(8, 8, 5, 3)}, "expected a 3x3 filter, but got"),
        ({"stride": 2}, "expected stride 1, but got"),
        ({"dilation": 2}, "expected dilation 1, but got"),
        ({"input": x.double(), "weight": w.double()}, "the tensors are float64"),
    ):
        given = {"weight": w, **arguments}
        with pytest.raises(NotImplementedError, match=reason):
            functional.conv2d(given.pop("input", x), given.pop("weight"), algo="winograd_4x4", **given)


def test_nan_reaches_its_own_tiles_and_no_others() -> None:
    """F(2x2) has it where its windows are, F(4x4) all over a tile."""
    x, w = torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 3, 3)
    x[0, 0, 5, 5] = float("nan")
    for algo, first, last in (("winograd_2x2", 4, 6), ("winograd_4x4", 4, 7), ("implicit_gemm", 4, 6)):
        wrong = torch.isnan(functional.conv2d(x, w, padding=1, algo=algo))[0, 0]
        assert wrong[first : last + 1, first : last + 1].all()
        assert wrong.sum() == (last - first + 1) ** 2


def test_packed_weights_belong_to_an_algorithm() -> None:
    x, w = operands(1, 16, 20, 20, 16)
    packs = {algo: native.pack_conv2d_weight(w, 1, algo) for algo in ("", *ROWS)}

    def call(algo: str, packed: Tensor) -> Tensor:
        geometry = ((1, 1), (1, 1, 1, 1), (1, 1), 1)
        return native.conv2d(x, w, None, *geometry, None, None, None, "identity", 0.0, None, algo, "", packed)

    for algo in ROWS:
        # Unasked, what was packed decides.
        assert torch.equal(call("", packs[algo]), functional.conv2d(x, w, padding=1, algo=algo))
        assert torch.equal(call("winograd", packs[algo]), functional.conv2d(x, w, padding=1, algo=algo))
        for other in {"", *ROWS} - {algo}:
            with pytest.raises(RuntimeError, match="packed weights are not transformed for it"):
                call(algo, packs[other])
        with pytest.raises(RuntimeError, match="transformed for Winograd"):
            call("implicit_gemm", packs[algo])
    assert torch.equal(call("", packs[""]), functional.conv2d(x, w, padding=1, algo="implicit_gemm"))
    for algo, weight in (("winograd_4x4", torch.randn(4, 4, 5, 5)), ("winograd_4x4", w.double()), ("direct", w)):
        with pytest.raises((ValueError, RuntimeError), match="pack_conv2d_weight: expected"):
            native.pack_conv2d_weight(weight, 1, algo)


@pytest.mark.parametrize("channels_last", (False, True))
def test_input_gradients(isa: str, channels_last: bool) -> None:
    for n, c, h, w, k, padding in (
        (2, 33, 12, 11, 20, (1, 1, 1, 1)),
        (1, 16, 5, 9, 48, (0, 0, 0, 0)),
        (1, 5, 7, 6, 3, (4, 0, 1, 3)),
        (3, 20, 4, 4, 16, (2, 2, 2, 2)),
    ):
        x, weight = operands(n, c, h, w, k)
        top, bottom, left, right = padding
        dy = torch.randn(n, k, h + top + bottom - 2, w + left + right - 2)
        if channels_last:
            dy = dy.to(memory_format=torch.channels_last)
        geometry = (list(x.shape), (1, 1), padding, (1, 1), 1)
        x = x.double().requires_grad_()
        y = torch_f.conv2d(torch_f.pad(x, (left, right, top, bottom)), weight.double())
        (truth,) = torch.autograd.grad(y, x, dy.double())
        dx = native.conv2d_input_grad(dy, weight, *geometry, "winograd", "")
        assert (dx - truth).abs().max() <= ERROR["winograd_4x4"] * dy.abs().max() * weight.abs().sum((0, 2, 3)).max()
        parts = [
            native.conv2d_input_grad(one, weight, [1, *x.shape[1:]], *geometry[1:], "winograd", "")
            for one in dy.split(1)
        ]
        assert torch.equal(torch.cat(parts), dx)


def test_the_switch_in_training() -> None:
    w = operands(1, 32, 8, 8, 32)[1].requires_grad_()
    gradients = []
    for allowed in (True, False):
        torch.manual_seed(0)
        x = torch.randn(1, 32, 52, 52, requires_grad=True)
        with fastconv.allow_winograd(allowed):
            y = functional.conv2d(x, w, padding=1)
            (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
        gradients.append((y.detach(), dx))
    for one, other in zip(*gradients, strict=True):
        assert not torch.equal(one, other)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


# ---- The switch ------------------------------------------------------------------------------------------------------


def test_the_switch_in_functional_nn_and_convert() -> None:
    x, w = operands(1, 64, 28, 28, 64)
    assert choice.conv2d(x, w, (1, 1), (1, 1, 1, 1), (1, 1), 1) in ROWS
    layer = torch.nn.Conv2d(64, 64, 3, padding=1, bias=False).eval()
    with torch.no_grad():
        layer.weight.copy_(w)
    network = torch.nn.Sequential(layer, torch.nn.ReLU())
    replaced, converted = fastconv.replace(layer), fastconv.convert(network)
    with torch.no_grad():
        direct = functional.conv2d(x, w, padding=1, algo="implicit_gemm")
        chosen = functional.conv2d(x, w, padding=1)
        assert not torch.equal(chosen, direct)  # rounded differently: another algorithm
        for allowed in (True, False, True):
            want = chosen if allowed else direct
            with fastconv.allow_winograd(allowed):
                assert torch.equal(functional.conv2d(x, w, padding=1), want)
                assert torch.equal(replaced(x), want)
                assert torch.equal(converted(x), want.relu())
        fastconv.allow_winograd(False)
        try:
            assert torch.equal(functional.conv2d(x, w, padding=1), direct)
            assert fastconv.explain("conv2d", "mb1ic64ih28oc64kh3ph1").chosen == "implicit_gemm"
        finally:
            fastconv.allow_winograd(True)
    with pytest.raises(TypeError, match="argument 'allowed' must be bool"):
        fastconv.allow_winograd(0)  # type: ignore[arg-type]


def test_changed_weights_are_transformed_again() -> None:
    x, w = operands(1, 64, 28, 28, 64)
    for _ in range(3):
        check(x, w, "winograd_4x4", (1, 1, 1, 1))
        w.mul_(-1.5)
