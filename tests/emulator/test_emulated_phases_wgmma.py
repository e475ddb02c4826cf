"""Phases on Hopper's pipeline, executed by the emulator, against float64: conv2d_input_grad's row "wgmma", which serves
conv_transpose2d, upsample_conv2d's "phase_wgmma", and the vectors in which rows leave that TMA cannot store.

Small integers, compared bit for bit. Two multiprocessors, so that a block goes from phase to phase with its ring.
"""

import itertools

import pytest
import torch
import torch.nn.functional as torch_f
from emulator_client import Epilogue
from test_emulated_conv_mma import assert_exact, emulated, integers
from test_emulated_kernels import kernels  # noqa: F401

import fastconv
from fastconv import functional, introspection

pytestmark = pytest.mark.skipif(
    introspection.why_unavailable("cuda_emulated") is not None, reason="the emulated kernels are not built"
)

BFLOAT16, HALF = torch.bfloat16, torch.float16
# Of the forward convolution: (N, C, H, W), K, (R, S), options. C are the columns here, and K is summed.
SHAPES = {
    "one tile": ((2, 64, 8, 8), 64, (1, 1), {}),
    "wrapped": ((1, 40, 5, 6), 192, (3, 3), {"padding": 1}),  # 27 steps: three times round the ring of eight
    "stride 2": ((2, 72, 9, 11), 72, (3, 3), {"stride": 2, "padding": 1}),  # four boxes of pixels
    "even stride 2": ((1, 16, 12, 10), 136, (3, 3), {"stride": 2, "padding": 1}),  # one box
    "stride 4": ((1, 8, 18, 17), 8, (7, 7), {"stride": 4, "padding": 3}),  # 16 phases
    "uneven": ((1, 10, 13, 10), 16, (5, 2), {"stride": (1, 3), "padding": (0, 1), "dilation": (2, 2)}),
    "no taps": ((1, 24, 7, 6), 40, (1, 1), {"stride": 2}),  # in three of four phases
    "no taps either": ((1, 8, 9, 12), 8, (3, 3), {"stride": 2, "dilation": 2, "padding": 2}),
    "dilated": ((1, 34, 20, 19), 8, (3, 3), {"stride": 2, "dilation": 5, "padding": 6}),
    "padded": ((2, 16, 2, 3), 16, (3, 3), {"padding": 9}),
    "images": ((37, 8, 3, 3), 8, (3, 3), {"padding": 1, "stride": 2}),
    "fewer rows than phases": ((3, 8, 1, 2), 8, (3, 3), {"stride": 3, "padding": 1}),
    "primes": ((3, 31, 7, 5), 13, (3, 3), {"padding": 1, "stride": 2}),  # dy and w packed; odd columns
    "pixel": ((1, 2, 1, 1), 8, (1, 1), {}),
    "batch": ((131, 8, 1, 1), 24, (1, 1), {}),
    "whole image": ((2, 24, 4, 5), 40, (4, 5), {}),
    "groups": ((1, 48, 6, 5), 128, (3, 3), {"padding": 1, "groups": 2, "stride": 2}),
    "groups of ragged columns": ((1, 18, 5, 5), 192, (3, 3), {"padding": 1, "groups": 3}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def two_multiprocessors(monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "2")


def input_grad(dy, w, x_shape, options, algo="wgmma"):
    padding = options.get("padding", 0)
    sides = [p for p in ((padding, padding) if isinstance(padding, int) else padding) for _ in range(2)]
    pair = [options.get(name, 1) for name in ("stride", "dilation")]
    stride, dilation = ([value] * 2 if isinstance(value, int) else list(value) for value in pair)
    geometry = (stride, sides, dilation, options.get("groups", 1))
    return torch.ops.fastconv.conv2d_input_grad(dy, w, list(x_shape), *geometry, algo, "cuda_emulated")


def expected_grad(dy, w, x_shape, options):
    x = torch.zeros(x_shape, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(torch_f.conv2d(x, w.double(), **options), x, dy.double())[0]


def operands(shape, dtype, channels_last=True):
    x_shape, filters, window, options = SHAPES[shape]
    w_shape = (filters, x_shape[1] // options.get("groups", 1), *window)
    w = integers(w_shape, dtype, channels_last, -1, 1)
    y = torch_f.conv2d(torch.zeros(x_shape), torch.zeros(w_shape), **options)
    return integers(tuple(y.shape), dtype, channels_last), w, x_shape, options


def check(shape, dtype, channels_last=True):
    arguments = operands(shape, dtype, channels_last)
    assert_exact(input_grad(*arguments), expected_grad(*arguments))


@pytest.mark.parametrize("dtype", [HALF, BFLOAT16])
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("shape", SHAPES)
def test_input_grad(shape, channels_last, dtype):
    check(shape, dtype, channels_last)


@pytest.mark.parametrize("columns", [8, 56, 72, 120, 128])
@pytest.mark.parametrize("channels", [8, 64, 72])
def test_tails(channels, columns):
    shape, options = (1, columns, 6, 5), {"stride": 2, "padding": 1}
    dy, w = integers((1, channels, 3, 3), HALF), integers((channels, columns, 3, 3), HALF, low=-1, high=1)
    assert_exact(input_grad(dy, w, shape, options), expected_grad(dy, w, shape, options))


@pytest.mark.parametrize(("columns", "image"), [(136, (40, 13)), (250, (129, 9)), (256, (15, 40))])
def test_wide_tiles(columns, image):
    """With 12 steps in the longest phase, three times round the ring of four; 128 columns have six stages."""
    shape, options = (1, columns, *image), {"stride": 2, "padding": 1}
    dy = integers((1, 192, *((extent - 1) // 2 + 1 for extent in image)), BFLOAT16)
    w = integers((192, columns, 3, 3), BFLOAT16, low=-1, high=1)
    assert_exact(input_grad(dy, w, shape, options), expected_grad(dy, w, shape, options))


TRANSPOSED = {
    "unit": ((1, 64, 4, 5), (64, 24, 3, 3), {"padding": 1}),
    "twice": ((2, 72, 5, 4), (72, 16, 2, 2), {"stride": 2}),
    "output padding": ((1, 24, 5, 4), (24, 16, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    "few taps": ((1, 8, 3, 4), (8, 10, 1, 1), {"stride": 3, "output_padding": 2}),
    "groups": ((1, 128, 4, 3), (128, 9, 4, 4), {"stride": 2, "padding": 1, "groups": 2}),
}


@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("shape", TRANSPOSED)
def test_conv_transpose2d(shape, channels_last):
    """Phases without taps hold the bias."""
    x_shape, w_shape, options = TRANSPOSED[shape]
    x, w = integers(x_shape, HALF, channels_last), integers(w_shape, HALF, channels_last, -1, 1)
    bias = integers((w_shape[1] * options.get("groups", 1), 1), HALF, False)[:, 0].contiguous()
    expected = torch_f.conv_transpose2d(x.double(), w.double(), bias.double(), **options)
    got = emulated(functional.conv_transpose2d, x, w, bias, **options, algo="wgmma")
    assert_exact(got, expected)


UPSAMPLED = {
    "twice": ((1, 72, 9, 5), (24, 72, 3, 3), 2, {"padding": 1}),
    "three": ((1, 5, 3, 4), (9, 5, 3, 3), 3, {"padding": 1}),
    "uneven": ((2, 8, 3, 4), (8, 8, 5, 5), (2, 3), {"padding": 2}),
    "stride": ((1, 16, 4, 5), (20, 16, 3, 3), 2, {"padding": 1, "stride": 2}),
    "stride 3": ((1, 16, 11, 7), (24, 16, 3, 3), 2, {"padding": 1, "stride": 3}),
    "four": ((1, 8, 5, 3), (8, 8, 3, 3), 4, {"padding": 1}),  # 16 phases
    "dilated": ((1, 8, 4, 4), (8, 8, 3, 3), 2, {"padding": 2, "dilation": 2}),
    "groups": ((1, 128, 3, 4), (32, 64, 3, 3), 2, {"padding": 1, "groups": 2}),
}


def enlarge(x, factor):
    rows, columns = (factor, factor) if isinstance(factor, int) else factor
    return x.double().repeat_interleave(rows, 2).repeat_interleave(columns, 3)


@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("shape", UPSAMPLED)
def test_upsample_conv2d(shape, channels_last):
    x_shape, w_shape, factor, options = UPSAMPLED[shape]
    x, w = integers(x_shape, HALF, channels_last), integers(w_shape, HALF, channels_last, -1, 1)
    got = emulated(functional.upsample_conv2d, x, w, None, factor, **options, algo="phase_wgmma")
    assert_exact(got, torch_f.conv2d(enlarge(x, factor), w.double(), **options))


@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("shape", ["twice", "three", "groups"])
@pytest.mark.parametrize("act", ["identity", "relu", "relu6", "prelu"])
def test_epilogue(act, shape, channels_last):
    """With a residual, which takes the general epilogue, or without (relu6)."""
    x_shape, w_shape, factor, options = UPSAMPLED[shape]
    x, w = integers(x_shape, BFLOAT16, channels_last), integers(w_shape, BFLOAT16, channels_last, -1, 1)
    product, filters = torch_f.conv2d(enlarge(x, factor), w.double(), **options), w_shape[0]
    bias, scale, shift = (integers((filters, n), BFLOAT16, False)[:, 0].contiguous() for n in (1, 2, 3))
    residual = integers(tuple(product.shape), BFLOAT16, channels_last) if act != "relu6" else None
    alpha = torch.full((filters,), 0.5, dtype=BFLOAT16) if act == "prelu" else None
    got = emulated(
        functional.upsample_conv2d, x, w, bias, factor, **options, scale=scale, shift=shift, residual=residual,
        act=act, act_param=alpha, algo="phase_wgmma",
    )  # fmt: skip
    across = (slice(None), None, None)
    linear = scale.double()[across] * (product + bias.double()[across]) + shift.double()[across]
    expected = linear if residual is None else linear + residual.double()
    if act != "identity":
        expected = torch.where(expected > 0, expected, expected * (0.5 if act == "prelu" else 0.0))
    assert_exact(got, expected.clamp(max=6) if act == "relu6" else expected)


@pytest.mark.parametrize(
    ("schedule", "copies"), list(itertools.product(["lifo", "rand:1", "rand:2"], ["lazy", "eager", "rand:1"]))
)
def test_any_schedule(schedule, copies, monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    check("wrapped", BFLOAT16)
    check("stride 2", HALF)
    check("no taps", HALF)
    test_upsample_conv2d("twice", True)
    test_epilogue("prelu", "three", True)


def test_infinities_stay_in_their_taps():
    """What a phase does not read is no part of it: neither channels beyond the last nor pixels that no tap reaches."""
    dy, w = torch.ones(2, 24, 4, 3, dtype=HALF), torch.ones(24, 72, 1, 1, dtype=HALF)
    dy, w = (t.contiguous(memory_format=torch.channels_last) for t in (dy, w))
    dy[1, 23, 3, 0], dy[0, 0, 0, 2], w[3, 71, 0, 0] = float("nan"), float("inf"), float("inf")
    options = {"stride": 2}
    got = input_grad(dy, w, (2, 72, 8, 6), options)
    torch.testing.assert_close(
        got.double(), expected_grad(dy, w, (2, 72, 8, 6), options), rtol=0, atol=0, equal_nan=True
    )
    assert got[:, :, 1::2].abs().max() == 0


@pytest.mark.parametrize("act", ["identity", "relu"])
@pytest.mark.parametrize("filters", [8, 72, 136])
def test_forward_into_padded_rows(kernels, filters, act):  # noqa: F811
    """Rows of y further apart than its pixels: no matrix for TMA; what lies between them stays."""
    x, w = integers((2, 24, 9, 10), HALF), integers((filters, 24, 3, 3), HALF, low=-1, high=1)
    whole = torch.full((2, 11, 13, filters + 8), 7.0, dtype=HALF)
    y = whole[:, 1:10, 2:12, :filters].permute(0, 3, 1, 2)
    geometry = (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
    kernels.conv2d(x.numpy(), w.numpy(), y.numpy(), "float16", geometry, Epilogue(act=act), "wgmma")
    expected = torch_f.conv2d(x.double(), w.double(), padding=1)
    assert_exact(y, expected.relu() if act == "relu" else expected)
    untouched = torch.ones_like(whole, dtype=torch.bool)
    untouched[:, 1:10, 2:12, :filters] = False
    assert (whole[untouched] == 7.0).all()


def refusal(x_shape, w_shape, dtype=HALF, **options) -> str:
    with pytest.raises((NotImplementedError, RuntimeError)) as error:
        y = torch_f.conv2d(torch.zeros(x_shape), torch.zeros(w_shape), **options)
        input_grad(torch.zeros(y.shape, dtype=dtype), torch.zeros(w_shape, dtype=dtype), x_shape, options)
    return str(error.value)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options", "reason"),
    [
        ((1, 8, 9, 9), (8, 8, 3, 3), {"stride": (4, 5)}, "4x5 phases are more than 16"),
        ((1, 8, 9, 9), (8, 8, 3, 3), {"stride": (1, 9)}, "stride 1x9 makes more than 8 phases an axis"),
        ((1, 8, 9, 9), (8, 8, 1, 1), {"padding": (0, 128)}, "begins at 128 along W, outside im2col's -128 to 127"),
        ((1, 8, 140, 9), (8, 8, 130, 1), {}, "begins at -129 along H, outside im2col's -128 to 127"),
        (
            (1, 8, 9, 9),
            (8, 8, 1, 256),
            {"padding": (0, 128)},
            "the filter reaches 255 pixels along W, above im2col's 254",
        ),
        ((1, 16, 9, 9), (96, 8, 3, 3), {"groups": 2}, "groups of 48 channels, no multiple of 64"),
    ],
)
def test_reasons(x_shape, w_shape, options, reason):
    assert reason in refusal(x_shape, w_shape, **options)


@pytest.mark.parametrize("row", ["mma", "wgmma"])
def test_filters_of_too_many_tiles(row):
    problem = {"C": 2**20, "K": 2**20, "groups": 1, "H": 2, "W": 2, "R": 2, "S": 2, "N": 1, "dtype": "float16"}
    rows = introspection.explain("conv2d_input_grad", backend="cuda_emulated", **problem).candidates
    reasons = next(candidate.reasons for candidate in rows if candidate.name == row)
    assert reasons == ("4294967296 tiles of filters are above 2^31 - 1",)


def test_limits_themselves_are_served():
    for x_shape, w_shape, options in [
        ((1, 8, 9, 9), (8, 8, 3, 3), {"stride": (4, 4)}),
        ((1, 8, 3, 3), (8, 8, 1, 1), {"padding": (0, 127)}),
        ((1, 8, 139, 2), (8, 8, 129, 1), {}),
        ((1, 8, 2, 3), (8, 2, 1, 255), {"padding": (0, 127)}),
    ]:
        x_shape = (x_shape[0], w_shape[1], *x_shape[2:])
        y = torch_f.conv2d(torch.zeros(x_shape), torch.zeros(w_shape), **options)
        dy, w = integers(tuple(y.shape), HALF), integers(w_shape, HALF, low=-1, high=1)
        assert_exact(input_grad(dy, w, x_shape, options), expected_grad(dy, w, x_shape, options))


def test_more_taps_than_a_grid_is_high():
    """All 65,792 are packed, more than gridDim.y goes up to; the two pixels read a 64th of them each."""
    x, w = integers((1, 8, 2, 2), HALF), integers((8, 8, 256, 257), HALF, False, -1, 1)
    options = {"stride": 8, "padding": (131, 132)}
    got = emulated(functional.conv_transpose2d, x, w, None, **options, algo="wgmma")
    assert_exact(got, torch_f.conv_transpose2d(x.double(), w.double(), **options))


def test_other_types_and_gpus_are_refused(monkeypatch):
    shapes = (1, 8, 5, 5), (8, 8, 3, 3)
    assert "dtype is float32, not float16 or bfloat16" in refusal(*shapes, dtype=torch.float32)
    monkeypatch.setenv("FASTCONV_EMULATED_ARCH", "80")
    assert "the GPU is sm_80: wgmma is sm_90a's" in refusal(*shapes)


@pytest.mark.parametrize(
    ("op", "problem", "row"),
    [
        ("conv2d_input_grad", "mb32ic256ih14oc256kh3ph1", "wgmma"),
        ("conv2d_input_grad", "mb32ic128ih56oc128kh3sh2ph1", "wgmma"),
        ("conv2d_input_grad", "mb1ic512ih7oc512kh3ph1", "mma"),  # so few tiles that the reduction is split
        ("conv2d_input_grad", "mb32ic24ih56oc64kh3ph1", "mma"),  # most of a tile is nothing
    ],
)
def test_choice(op, problem, row, monkeypatch):
    monkeypatch.delenv("FASTCONV_EMULATED_MULTIPROCESSORS")
    answer = fastconv.explain(op, problem, backend="cuda_emulated", dtype="float16", channels_last=True)
    assert answer.chosen == row
