"""Winograd's minimal filtering, executed by the emulator: values, borders, chunks, and how far off its sums are."""

import pytest
import torch
import torch.nn.functional as torch_f

import fastconv
from fastconv import functional, introspection

pytestmark = pytest.mark.skipif(
    introspection.why_unavailable("cuda_emulated") is not None, reason="the emulated kernels are not built"
)

LAYOUTS = [torch.contiguous_format, torch.channels_last]
ROWS = ["winograd_2x2", "winograd_4x4", "winograd"]
# (N, C, H, W), K, padding (top, bottom, left, right), groups
SHAPES = {
    "one": ((1, 1, 3, 3), 1, (0, 0, 0, 0), 1),
    "one tile": ((1, 3, 6, 6), 5, (0, 0, 0, 0), 1),
    "same": ((2, 5, 9, 11), 7, (1, 1, 1, 1), 1),
    "primes": ((1, 7, 13, 17), 11, (2, 2, 2, 2), 1),
    "asymmetric": ((1, 4, 8, 7), 6, (0, 2, 3, 1), 1),
    "padded": ((1, 3, 2, 1), 4, (5, 4, 6, 7), 1),  # more padding than filter, tiles that see nothing
    "groups": ((2, 6, 7, 8), 9, (1, 1, 1, 1), 3),
    "depthwise": ((1, 5, 6, 9), 10, (1, 1, 1, 1), 5),
    "chunks": ((3, 16, 17, 15), 130, (1, 1, 1, 1), 1),  # of tiles and of filters, in the emulator's small workspace
}  # fmt: skip


def integers(shape, low=-2, high=2):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(low, high + 1, shape, generator=generator).float()


def conv2d(x, w, algo, padding=(0, 0, 0, 0), groups=1, **epilogue):
    top, bottom, left, right = padding
    if top != bottom or left != right:
        arguments = (None, [1, 1], [top, bottom, left, right], [1, 1], groups, None, None, None, "identity", 0.0, None)
        return torch.ops.fastconv.conv2d(x, w, *arguments, algo, "cuda_emulated", None)
    with fastconv.backend("cuda_emulated"):
        return functional.conv2d(x, w, padding=(top, left), groups=groups, algo=algo, **epilogue)


def expected(x, w, padding=(0, 0, 0, 0), groups=1):
    top, bottom, left, right = padding
    return torch_f.conv2d(torch_f.pad(x.double(), (left, right, top, bottom)), w.double(), groups=groups)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("algo", ROWS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_integers(shape, algo, layout):
    """F(2x2) is exact: its factors are powers of two. F(4x4) has thirds and fifteenths in the filter."""
    x_shape, filters, padding, groups = shape
    x = integers(x_shape).contiguous(memory_format=layout)
    w = integers((filters, x_shape[1] // groups, 3, 3))
    y, truth = conv2d(x, w, algo, padding, groups), expected(x, w, padding, groups)
    bound = 0.0 if algo == "winograd_2x2" else 2e-6 * float(expected(x.abs(), w.abs(), padding, groups).max())
    torch.testing.assert_close(y.double(), truth, rtol=0, atol=bound, check_stride=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("algo", ROWS[:2])
def test_narrow_types_are_rounded_once(algo, dtype):
    """Everything between x and y is float32."""
    x, w = integers((1, 8, 9, 10)).to(dtype), integers((12, 8, 3, 3)).to(dtype)
    truth = expected(x, w, (1, 1, 1, 1))
    assert 8 < truth.abs().max() < 128  # integers that both types hold: rounding to them takes float32's error away
    y = conv2d(x, w, algo, (1, 1, 1, 1)).double()
    torch.testing.assert_close(y, truth, rtol=0, atol=1e-4, check_stride=False)
    assert torch.equal(y[truth != 0], truth[truth != 0])


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("act", ["relu6", "hardswish"])
def test_epilogue(act, layout):
    x = (integers((2, 6, 7, 9)) / 4).contiguous(memory_format=layout)
    w, residual = integers((10, 6, 3, 3)) / 4, integers((2, 10, 7, 9))
    bias, scale, shift = (integers((10,), i, i + 2) / 2 for i in range(3))
    y = expected(x, w, (1, 1, 1, 1)) + bias[:, None, None]
    y = getattr(torch_f, act)(y * scale[:, None, None] + shift[:, None, None] + residual)
    parts = {"bias": bias, "scale": scale, "shift": shift, "residual": residual, "act": act}
    actual = conv2d(x, w, "winograd_4x4", (1, 1, 1, 1), **parts)
    torch.testing.assert_close(actual, y.float(), rtol=1e-5, atol=1e-5, check_stride=False)


@pytest.mark.parametrize("schedule", ["lifo", "rand:1", "rand:2", "rand:3"])
def test_results_do_not_depend_on_the_schedule(schedule, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn((1, 9, 11, 10), generator=generator), torch.randn((13, 9, 3, 3), generator=generator)
    results = []
    for name in ("fifo", schedule):
        monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", name)
        results.append(conv2d(x, w, "winograd_4x4", (1, 1, 1, 1)))
    assert torch.equal(*results)


def test_nan_reaches_its_tiles_only():
    """Further than its own windows, as docs/numerics.md says, but never beyond a tile."""
    x = torch.ones(1, 1, 16, 16)
    x[0, 0, 9, 9] = float("nan")
    nan = torch.isnan(conv2d(x, torch.ones(1, 1, 3, 3), "winograd_4x4", (1, 1, 1, 1)))[0, 0]
    assert nan[8:11, 8:11].all()
    assert not nan[:8].any() and not nan[:, :8].any() and not nan[12:].any() and not nan[:, 12:].any()


def test_reasons_against():
    x = torch.ones(1, 2, 9, 9)
    with pytest.raises(NotImplementedError, match="needs a 3x3 filter, but it is 5x3"):
        conv2d(x, torch.ones(2, 2, 5, 3), "winograd")
    with pytest.raises(NotImplementedError, match="sums in float32, and the tensors are float64"):
        conv2d(x.double(), torch.ones(2, 2, 3, 3).double(), "winograd_2x2")
    with fastconv.backend("cuda_emulated"), pytest.raises(NotImplementedError, match="needs stride 1, but it is 2x2"):
        functional.conv2d(x, torch.ones(2, 2, 3, 3), stride=2, algo="winograd_4x4")
