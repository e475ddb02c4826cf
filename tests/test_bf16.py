"""Products of bfloat16 on the CPU (AMX, VDPBF16PS): exact sums, epilogues, layouts, and what convert makes of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastconv
from fastconv import functional, introspection
from fastconv.convert import narrow
from fastconv.functional.arguments import ACTIVATIONS

BF16 = torch.bfloat16


def _reasons(algo: str) -> tuple[str, ...]:
    found = introspection.explain("gemm", M=8, N=8, K=8, dtype="bfloat16")
    return next(row.reasons for row in found.candidates if row.name == algo)


ALGORITHMS = [name for name in narrow.MULTIPLYING if not _reasons(name)]
pytestmark = pytest.mark.skipif(not ALGORITHMS, reason="this CPU has no instruction for it")


def integers(*shape: int, seed: int = 0, most: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-most, most + 1, shape, generator=generator).to(BF16)


def expected_conv(x: Tensor, w: Tensor, bias: Tensor | None = None, **geometry: object) -> Tensor:
    return F.conv2d(x.double(), w.double(), None if bias is None else bias.double(), **geometry)  # type: ignore[arg-type]


# channels, filters, side, filter side, stride, padding, dilation, groups
CASES = [
    *((c, k, 7, 3, 1, 1, 1, 1) for c, k in itertools.product((1, 3, 5, 17, 33, 64), (1, 7, 16, 33))),
    *((c, 40, 9, 1, s, 0, 1, 1) for c, s in itertools.product((3, 16, 34, 48, 144), (1, 2))),
    *((3, 24, 19, r, 2, p, 1, 1) for r, p in ((7, 3), (5, 0), (3, 1))),
    *((20, 19, 13, 3, s, p, d, 1) for s, p, d in ((1, 0, 2), (2, 2, 2), (3, 1, 1), (3, 5, 3), (1, 4, 1))),
    (32, 24, 8, 3, 1, 1, 1, 2), (64, 64, 5, 3, 2, 1, 1, 4), (12, 12, 6, 3, 1, 1, 1, 12), (24, 48, 4, 1, 1, 0, 1, 3),
    (16, 16, 1, 3, 1, 1, 1, 1), (64, 96, 40, 3, 1, 1, 1, 1), (512, 32, 3, 3, 1, 1, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("channels_last", [True, False])
def test_integers_are_exact(algo: str, channels_last: bool) -> None:
    for c, k, side, r, stride, padding, dilation, groups in CASES:
        x, w, bias = integers(3, c, side, side), integers(k, c // groups, r, r, seed=1, most=2), integers(k, seed=2)
        if channels_last:
            x, w = x.contiguous(memory_format=torch.channels_last), w.contiguous(memory_format=torch.channels_last)
        geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        y = functional.conv2d(x, w, bias, **geometry, algo=algo)
        assert torch.equal(y, expected_conv(x, w, bias, **geometry).to(BF16)), (c, k, side, r, geometry)


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize(("channels", "side"), [(256, 14), (512, 7)])
def test_deep_filters_over_one_small_image_are_exact(algo: str, channels: int, side: int) -> None:
    x, w = integers(1, channels, side, side), integers(112, channels, 3, 3, seed=1, most=2)
    assert torch.equal(functional.conv2d(x, w, padding=1, algo=algo), expected_conv(x, w, padding=1).to(BF16))


# channels, filters, side, filter side, scale, stride, padding, groups
UPSAMPLED = [
    *((c, 40, 7, 3, s, 1, 1, 1) for c, s in itertools.product((1, 3, 33, 64), (1, 2, (3, 1), (1, 4)))),
    *((16, 24, 6, 1, 2, s, p, 1) for s, p in ((1, 0), (2, 0), (3, 1))),
    (20, 19, 9, 5, 3, 2, 4, 1), (64, 48, 20, 3, 2, 1, 1, 1), (32, 32, 5, 4, (2, 3), 1, 2, 2),
]  # fmt: skip


@pytest.mark.parametrize("algo", [*ALGORITHMS, None])
@pytest.mark.parametrize("channels_last", [True, False])
def test_upsampled_integers_are_exact(algo: str | None, channels_last: bool) -> None:
    for c, k, side, r, scale, stride, padding, groups in UPSAMPLED:
        x, w, bias = integers(2, c, side, side + 1), integers(k, c // groups, r, r, seed=1, most=2), integers(k, seed=2)
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        geometry = {"stride": stride, "padding": padding, "groups": groups}
        y = functional.upsample_conv2d(x, w, bias, scale, **geometry, algo=algo)
        factors = scale if isinstance(scale, tuple) else (scale, scale)
        large = x.repeat_interleave(factors[0], 2).repeat_interleave(factors[1], 3)
        assert torch.equal(y, expected_conv(large, w, bias, **geometry).to(BF16)), (c, k, side, r, scale, geometry)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_views_are_read_and_written_in_place(algo: str) -> None:
    wide = integers(2, 96, 11, 13).contiguous(memory_format=torch.channels_last)
    for x in (wide[:, 32:64], wide[:, 1:33], wide[:, ::3], wide[:, :32, ::2, 1:], wide[:, :32].transpose(2, 3)):
        for r in (1, 3):
            w = integers(24, x.shape[1], r, r, seed=1, most=1)
            assert torch.equal(functional.conv2d(x, w, algo=algo), expected_conv(x, w).to(BF16))


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations_behind_scale_and_residual(algo: str, act: str) -> None:
    x, w = torch.randn(2, 24, 6, 7).to(BF16), (torch.randn(37, 24, 3, 3) / 15).to(BF16)
    scale, shift, residual = torch.rand(37) + 0.5, torch.randn(37), torch.randn(2, 37, 6, 7).to(BF16)
    param = {"leaky_relu": 0.1, "elu": 0.7, "prelu": torch.rand(37).to(BF16)}.get(act)
    for last in (True, False):
        inputs = [t.contiguous(memory_format=torch.channels_last) if last else t for t in (x, w, residual)]
        wide = param.float() if isinstance(param, Tensor) else param
        arguments = {"padding": 1, "scale": scale.to(BF16), "shift": shift.to(BF16), "act": act}
        y = functional.conv2d(*inputs[:2], residual=inputs[2], act_param=param, algo=algo, **arguments)
        arguments |= {"scale": scale.to(BF16).float(), "shift": shift.to(BF16).float()}
        same = functional.conv2d(
            *(t.float() for t in inputs[:2]), residual=residual.float(), act_param=wide, **arguments
        )
        assert (y.float() - same).abs().sub(same.abs() * 2**-8).max() <= 2e-5


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_gemm_is_exact(algo: str) -> None:
    for m, n, k, batch in (
        (1, 1, 1, 0),
        (1, 40, 64, 0),
        (5, 17, 33, 0),
        (50, 64, 96, 0),
        (33, 31, 130, 3),
        (16, 9, 2, 2),
    ):
        lead = (batch,) if batch else ()
        for ta, tb in itertools.product((False, True), repeat=2):
            a = integers(*lead, *((k, m) if ta else (m, k)))
            b = integers(*lead, *((n, k) if tb else (k, n)), seed=1)
            bias, residual = integers(n, seed=2), integers(*lead, m, n, seed=3)
            y = functional.gemm(a, b, bias, transpose_a=ta, transpose_b=tb, residual=residual, act="relu", algo=algo)
            product = (a.mT if ta else a).double() @ (b.mT if tb else b).double()
            assert torch.equal(y, (product + bias.double() + residual.double()).relu().to(BF16)), (m, n, k, ta, tb)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_same_bits_alone_in_a_batch_packed_and_on_any_threads(algo: str) -> None:
    for c, k, side, r, stride in ((64, 64, 14, 3, 1), (256, 96, 7, 1, 1), (3, 32, 32, 7, 2), (128, 256, 7, 3, 2)):
        x = torch.randn(3, c, side, side).to(BF16).contiguous(memory_format=torch.channels_last)
        w = (torch.randn(k, c, r, r) / 10).to(BF16)
        run = lambda x, w=w, r=r, stride=stride: functional.conv2d(  # noqa: E731
            x, w, stride=stride, padding=r // 2, algo=algo
        )
        together = run(x)
        assert torch.equal(together, torch.cat([run(x[i : i + 1]) for i in range(3)]))
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            assert torch.equal(together, run(x))
        finally:
            torch.set_num_threads(threads)
        unwatched = w.clone()
        with torch.inference_mode():
            assert torch.equal(together, run(x, unwatched.clone()))  # an inference tensor is packed call by call


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_nan_stays_in_its_windows_and_denormals_are_zero(algo: str) -> None:
    x, w = integers(1, 5, 9, 9), integers(7, 5, 3, 3, seed=1)
    x[0, 2, 4, 4] = float("nan")
    y = functional.conv2d(x, w, padding=1, algo=algo)
    assert torch.equal(y.isnan(), expected_conv(x, w, padding=1).isnan())
    tiny = torch.full((1, 32, 4, 4), 1e-39).to(BF16)
    assert tiny.abs().max() > 0
    assert not functional.conv2d(tiny, torch.ones(4, 32, 1, 1, dtype=BF16), algo=algo).any()


@pytest.fixture
def each_isa() -> Iterator[None]:
    before = introspection.isa()
    yield
    introspection.select_isa(before)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.ReLU6(),
        nn.Conv2d(16, 40, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 10),
    )  # fmt: skip
    return nn.Sequential(*layers).eval()


@pytest.mark.usefixtures("each_isa")
def test_convert_multiplies_bfloat16_only_where_instructions_do() -> None:
    model, x = network(), torch.randn(2, 3, 20, 20)
    with torch.no_grad():
        truth = model(x)
        for isa in introspection.available_isas():
            introspection.select_isa(isa)
            converted = fastconv.convert(model, x, dtype=BF16)
            y, text = converted(x), str(fastconv.explain(converted))
            wanted = narrow.multiplies_bfloat16()
            assert y.dtype is (BF16 if wanted else torch.float32)
            assert ("float32 is computed in" in text) is not wanted
            assert any(name in text for name in narrow.MULTIPLYING) or not wanted
            assert (y.float() - truth).abs().max() <= (0.02 if wanted else 1e-5)


def test_the_choice_is_amx_where_there_is_amx() -> None:
    if "amx" not in ALGORITHMS:
        pytest.skip("this CPU has no AMX")
    problem = {"C": 64, "K": 64, "H": 14, "W": 14, "R": 3, "S": 3, "pad_top": 1, "pad_left": 1, "channels_last": True}
    assert introspection.explain("conv2d", dtype="bfloat16", **problem).chosen == "amx"
    assert introspection.explain("conv2d", dtype="float32", **problem).chosen != "amx"
    with pytest.raises(NotImplementedError, match="expected bfloat16, but got float32"):
        functional.conv2d(torch.randn(1, 4, 4, 4), torch.randn(4, 4, 1, 1), algo="amx")
