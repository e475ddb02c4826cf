"""conv2d's row "wgmma" (TMA im2col, warpgroup products), executed by the emulator, against float64.

Small integers are exact in either type and any order of summation: compared bit for bit. The tiles of 64, 128 and 256
filters have rings of eight, six and four stages, of 64 channels of one tap each.
"""

import itertools

import pytest
import torch
import torch.nn.functional as torch_f
from test_emulated_conv_mma import assert_exact, emulated, integers
from test_emulated_kernels import kernels  # noqa: F401

import fastconv
from fastconv import functional, introspection

pytestmark = pytest.mark.skipif(
    introspection.why_unavailable("cuda_emulated") is not None, reason="the emulated kernels are not built"
)

BFLOAT16, HALF = torch.bfloat16, torch.float16
# (N, C, H, W), K, (R, S), options of conv2d
SHAPES = {
    "one tile": ((2, 64, 8, 8), 64, (1, 1), {}),
    "wrapped": ((1, 192, 5, 6), 40, (3, 3), {"padding": 1}),  # 27 steps: three times round the ring of eight
    "wrapped at 128": ((1, 136, 5, 6), 128, (3, 3), {"padding": 1}),  # 27 steps, 8 channels in every third
    "stride 2": ((2, 72, 9, 11), 72, (3, 3), {"stride": 2, "padding": 1}),
    "stride 8": ((2, 8, 40, 37), 16, (3, 3), {"stride": (8, 7), "padding": 2}),
    "uneven": ((1, 16, 13, 10), 10, (5, 2), {"stride": (1, 3), "padding": (0, 1), "dilation": (2, 3)}),
    "dilated": ((1, 8, 20, 19), 34, (3, 3), {"dilation": 8, "padding": 8}),
    "padded": ((2, 16, 2, 3), 16, (3, 3), {"padding": 9}),  # more padding than image and filter
    "images": ((37, 8, 3, 3), 8, (3, 3), {"padding": 1}),  # tiles end amid rows and images
    "primes": ((3, 13, 7, 5), 31, (3, 3), {"padding": 1}),  # x and w packed; odd columns
    "pixel": ((1, 8, 1, 1), 2, (1, 1), {}),
    "batch": ((131, 24, 1, 1), 8, (1, 1), {}),  # one pixel an image
    "column": ((1, 8, 9, 4), 16, (7, 1), {"padding": (3, 0)}),
    "whole image": ((2, 40, 4, 5), 24, (4, 5), {}),
    "groups": ((1, 128, 6, 5), 48, (3, 3), {"padding": 1, "groups": 2}),
    "groups of ragged columns": ((1, 192, 5, 5), 18, (3, 3), {"padding": 1, "groups": 3}),
}  # fmt: skip


def operands(shape, dtype, channels_last=True):
    x_shape, filters, window, options = SHAPES[shape]
    x = integers(x_shape, dtype, channels_last)
    w = integers((filters, x_shape[1] // options.get("groups", 1), *window), dtype, channels_last, -1, 1)
    return x, w, torch_f.conv2d(x.double(), w.double(), **options), options


def check(shape, dtype, channels_last=True):
    x, w, expected, options = operands(shape, dtype, channels_last)
    assert_exact(emulated(functional.conv2d, x, w, **options, algo="wgmma"), expected)


@pytest.mark.parametrize("dtype", [HALF, BFLOAT16])
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("shape", SHAPES)
def test_exact_on_integers(shape, channels_last, dtype):
    check(shape, dtype, channels_last)


@pytest.mark.parametrize("channels", [8, 16, 56, 64, 72, 120, 128])
def test_tails_of_channels_and_filters(channels):
    x, w = integers((1, channels, 5, 5), HALF), integers((channels + 2, channels, 3, 3), HALF, low=-1, high=1)
    expected = torch_f.conv2d(x.double(), w.double(), padding=1)
    assert_exact(emulated(functional.conv2d, x, w, padding=1, algo="wgmma"), expected)


@pytest.mark.parametrize(
    ("image", "filters"), [((1, 8, 129, 129), 250), ((3, 40, 75, 77), 136)], ids=["wide tiles", "several tiles a block"]
)
def test_many_tiles(image, filters):
    """More than multiprocessors: the ring goes on from one tile to the next, fetched during the epilogue."""
    x, w = integers(image, BFLOAT16), integers((filters, image[1], 1, 1), BFLOAT16, low=-1, high=1)
    assert_exact(emulated(functional.conv2d, x, w, algo="wgmma"), torch_f.conv2d(x.double(), w.double()))


def test_wide_tiles_with_a_ring_that_wraps(monkeypatch):
    """18 steps, four times round the ring of four."""
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "2")
    x, w = integers((1, 8, 11, 24), HALF), integers((250, 8, 3, 6), HALF, low=-1, high=1)
    expected = torch_f.conv2d(x.double(), w.double(), padding=(1, 0))
    assert_exact(emulated(functional.conv2d, x, w, padding=(1, 0), algo="wgmma"), expected)


@pytest.mark.parametrize(
    ("schedule", "copies"), list(itertools.product(["lifo", "rand:1", "rand:2", "rand:3"], ["lazy", "eager", "rand:1"]))
)
def test_any_schedule(schedule, copies, monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    check("wrapped", BFLOAT16)
    check("groups", HALF)
    test_epilogue("prelu", "primes", True)
    test_residual_of_many_chunks("relu", 136)


@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("shape", ["primes", "stride 2", "groups", "images", "batch"])
@pytest.mark.parametrize("act", ["identity", "relu", "relu6", "prelu"])
def test_epilogue(act, shape, channels_last):
    """All but prelu leave by TMA, and fetch the residual by it, where y and the residual lie for it."""
    x, w, product, options = operands(shape, BFLOAT16, channels_last)
    filters = w.shape[0]
    bias, scale, shift = (integers((filters, n), BFLOAT16, False)[:, 0].contiguous() for n in (1, 2, 3))
    residual = integers(tuple(product.shape), BFLOAT16, channels_last) if act != "relu6" else None
    alpha = torch.full((filters,), 0.5, dtype=BFLOAT16) if act == "prelu" else None
    got = emulated(
        functional.conv2d, x, w, bias, **options, scale=scale, shift=shift, residual=residual, act=act,
        act_param=alpha, algo="wgmma",
    )  # fmt: skip
    across = (slice(None), None, None)
    linear = scale.double()[across] * (product + bias.double()[across]) + shift.double()[across]
    expected = linear if residual is None else linear + residual.double()
    if act != "identity":
        expected = torch.where(expected > 0, expected, expected * (0.5 if act == "prelu" else 0.0))
    assert_exact(got, expected.clamp(max=6) if act == "relu6" else expected)


@pytest.mark.parametrize("filters", [64, 72, 136, 256], ids=["one", "two", "ragged", "wide tiles"])
@pytest.mark.parametrize("act", ["identity", "relu", "relu6"])
def test_residual_of_many_chunks(act, filters):
    """More tiles than multiprocessors, and chunks of columns: buffers for the residual take turns from tile to tile."""
    image = (1, 8, 129, 131) if filters < 256 else (1, 8, 129, 129)
    x, w = integers(image, HALF), integers((filters, 8, 1, 1), HALF, low=-1, high=1)
    residual, bias = integers((1, filters, *image[2:]), HALF), integers((filters, 1), HALF, False)[:, 0]
    got = emulated(functional.conv2d, x, w, bias.contiguous(), residual=residual, act=act, algo="wgmma")
    expected = torch_f.conv2d(x.double(), w.double(), bias.double()) + residual.double()
    limits = {"relu": (0, None), "relu6": (0, 6)}
    assert_exact(got, expected.clamp(*limits[act]) if act in limits else expected)


def test_residual_of_wide_tiles(monkeypatch):
    """18 steps: too deep for consumers that take turns with narrow tiles."""
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "2")
    x, w = integers((1, 128, 12, 12), HALF), integers((250, 128, 3, 3), HALF, low=-1, high=1)
    residual = integers((1, 250, 12, 12), HALF)
    got = emulated(functional.conv2d, x, w, padding=1, residual=residual, act="relu", algo="wgmma")
    assert_exact(got, (torch_f.conv2d(x.double(), w.double(), padding=1) + residual.double()).relu())


def test_residual_keeps_nan():
    x, w = integers((1, 16, 6, 6), HALF), integers((72, 16, 3, 3), HALF, low=-1, high=1)
    residual = integers((1, 72, 6, 6), HALF)
    residual[0, 70, 5, 4], residual[0, 2, 0, 0] = float("nan"), float("inf")
    got = emulated(functional.conv2d, x, w, padding=1, residual=residual, act="relu", algo="wgmma")
    expected = (torch_f.conv2d(x.double(), w.double(), padding=1) + residual.double()).relu()
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("act", ["identity", "silu"])
def test_slices(act):
    """x, w, residual and the result are parts of larger tensors, whose rest stays: strides that are not dense."""
    x = integers((2, 32, 9, 16), HALF)[:, 8:24, :, 2:13]
    w = integers((24, 32, 3, 3), HALF, low=-1, high=1)[:, 16:]
    residual = integers((2, 40, 9, 11), HALF)[:, 8:32]
    got = emulated(functional.conv2d, x, w, padding=1, residual=residual, act=act, algo="wgmma")
    expected = torch_f.conv2d(x.double(), w.double(), padding=1) + residual.double()
    if act == "identity":
        assert_exact(got, expected)
    else:
        torch.testing.assert_close(got.double(), torch_f.silu(expected), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("padding", [(0, 3, 5, 0), (-1, 0, -1, -2), (1, -1, -2, 4)])
def test_uneven_padding_and_crops(kernels, padding):  # noqa: F811
    """(top, bottom, left, right); crops reach the kernels' own interface only."""
    x, w = integers((2, 24, 9, 10), HALF), integers((20, 24, 3, 3), HALF, low=-1, high=1)
    top, bottom, left, right = padding
    expected = torch_f.conv2d(torch_f.pad(x.double(), (left, right, top, bottom)), w.double())
    y = torch.empty_like(expected, dtype=HALF, memory_format=torch.channels_last)
    kernels.conv2d(x.numpy(), w.numpy(), y.numpy(), "float16", (1, 1, *padding, 1, 1, 1, 1, 1), algo="wgmma")
    assert_exact(y, expected)


def test_infinities_stay_in_their_window_and_filter():
    """Channel tails, padding, and neighbours in tiles are no part of the sum: 0 * inf would show."""
    x, w = torch.ones(2, 24, 5, 6, dtype=HALF), torch.ones(66, 24, 3, 3, dtype=HALF)
    x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
    x[1, 23, 4, 0], x[0, 0, 0, 5], w[65, 23, 2, 2], w[3, 0, 0, 0] = float("nan"), float("inf"), float("inf"), 2.0
    y = emulated(functional.conv2d, x, w, padding=1, algo="wgmma")
    expected = torch_f.conv2d(x.double(), w.double(), padding=1)
    # Where a tap with an infinite weight lies in the padding, torch leaves it out, too.
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=0, equal_nan=True)


def test_empty_batch():
    x, w = torch.zeros(0, 16, 5, 5, dtype=HALF), torch.zeros(8, 16, 3, 3, dtype=HALF)
    assert emulated(functional.conv2d, x, w, algo="wgmma").shape == (0, 8, 3, 3)


def refusal(x_shape, w_shape, dtype=HALF, **options) -> str:
    x, w = torch.zeros(x_shape, dtype=dtype), torch.zeros(w_shape, dtype=dtype)
    with pytest.raises(NotImplementedError) as error:
        emulated(functional.conv2d, x, w, **options, algo="wgmma")
    return str(error.value)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options", "reason"),
    [
        ((1, 8, 9, 9), (8, 8, 3, 3), {"stride": (1, 9)}, "a stride of 1x9 is above im2col's 8"),
        ((1, 8, 9, 9), (8, 8, 3, 3), {"padding": (0, 129)}, "begins at -129 along W, outside im2col's -128 to 127"),
        ((1, 8, 140, 9), (8, 8, 130, 1), {}, "begins -129 from the image's end along H, outside im2col's -128 to 127"),
        ((1, 8, 9, 9), (8, 8, 1, 1), {"padding": 128}, "begins 128 from the image's end along H"),
        (
            (1, 8, 9, 9),
            (8, 8, 1, 256),
            {"padding": (0, 128)},
            "the filter reaches 255 pixels along W, above im2col's 254",
        ),
        ((1, 96, 9, 9), (8, 48, 3, 3), {"groups": 2}, "groups of 48 channels, no multiple of 64"),
    ],
)
def test_reasons(x_shape, w_shape, options, reason):
    assert reason in refusal(x_shape, w_shape, **options)


@pytest.mark.parametrize(("shape", "padding"), [((1, 8, 0, 3), 2), ((1, 0, 3, 3), 1)])
def test_nothing_to_read(kernels, shape, padding):  # noqa: F811
    """A tensor map has no empty dimension."""
    x, w = (torch.zeros(s, dtype=HALF).numpy() for s in (shape, (4, shape[1], 3, 3)))
    y = torch.zeros(1, 4, shape[2] + 2 * padding - 2, 2 * padding + 1, dtype=HALF).numpy()
    with pytest.raises(RuntimeError, match="x has no channels or no pixels"):
        kernels.conv2d(x, w, y, "float16", (1, 1, *[padding] * 4, 1, 1, 1, 1, 1), algo="wgmma")


def test_limits_themselves_are_served():
    """One less than what test_reasons refuses."""
    for x_shape, w_shape, options in [
        ((1, 8, 3, 3), (8, 8, 3, 3), {"padding": (0, 128), "stride": (1, 8)}),
        ((1, 8, 130, 2), (8, 8, 129, 1), {}),
        ((1, 8, 3, 3), (8, 8, 1, 1), {"padding": 127, "stride": 8}),
        ((1, 8, 2, 3), (2, 8, 1, 255), {"padding": (0, 127)}),
    ]:
        x, w = integers(x_shape, HALF), integers(w_shape, HALF, low=-1, high=1)
        expected = torch_f.conv2d(x.double(), w.double(), **options)
        assert_exact(emulated(functional.conv2d, x, w, **options, algo="wgmma"), expected)


def test_other_types_and_gpus_are_refused(monkeypatch):
    shapes = (1, 8, 5, 5), (8, 8, 3, 3)
    assert "dtype is float32, not float16 or bfloat16" in refusal(*shapes, dtype=torch.float32)
    monkeypatch.setenv("FASTCONV_EMULATED_ARCH", "80")
    assert "the GPU is sm_80: wgmma is sm_90a's" in refusal(*shapes)
    monkeypatch.setenv("FASTCONV_EMULATED_ARCH", "0")
    assert "there is no CUDA device" in refusal(*shapes)


@pytest.mark.parametrize(
    ("problem", "row"),
    [
        ("mb32ic256ih14oc256kh3ph1", "wgmma"),
        ("mb32ic64ih56oc64kh3ph1", "wgmma"),
        ("mb1ic256ih14oc256kh3ph1", "mma"),  # too few tiles
        ("mb32ic32ih56oc64kh3ph1", "mma"),  # half of a step is zeros
        ("mb32ic64ih56oc24kh3ph1", "wgmma"),  # in clusters: else mma with a tile of 32 filters
    ],
)
def test_choice(problem, row):
    answer = fastconv.explain("conv2d", problem, backend="cuda_emulated", dtype="float16", channels_last=True)
    assert answer.chosen == row
