"""conv2d_weight_grad's row "wgmma" (TMA im2col, warpgroup products), executed by the emulator, against float64.

Small integers are exact in either type and any order of summation: compared bit for bit. Tiles are 128 filters x 64,
128 or 256 columns (blocks of 64 channels of one tap), or 128 columns x 64 filters; steps are 64 output pixels, of which
rings hold eight, six and four. The number of multiprocessors says how many parts the pixels are split into.
"""

import itertools

import pytest
import torch
import torch.nn.functional as torch_f
from test_emulated_conv_mma import assert_exact, integers
from test_emulated_kernels import kernels  # noqa: F401

import fastconv
from fastconv import introspection

pytestmark = pytest.mark.skipif(
    introspection.why_unavailable("cuda_emulated") is not None, reason="the emulated kernels are not built"
)

BFLOAT16, HALF = torch.bfloat16, torch.float16
# (N, C, H, W), K, (R, S), options of conv2d, multiprocessors
SHAPES = {
    "one step": ((1, 64, 8, 8), 64, (1, 1), {}, 132),
    "wrapped": ((2, 64, 29, 27), 80, (1, 1), {}, 1),  # 25 steps: three times round the ring of eight
    "wrapped columns": ((2, 64, 29, 27), 24, (1, 2), {"padding": (0, 1)}, 1),  # 128 columns x 64 filters
    "wrapped at 128": ((1, 104, 34, 35), 136, (1, 1), {}, 1),  # 19 steps for each of two tiles: parts go on in the ring
    "wide": ((1, 72, 26, 30), 136, (2, 2), {}, 2),  # 256 columns: blocks of 64 and of 8 channels
    "parts": ((5, 16, 31, 33), 16, (3, 3), {"padding": 1}, 40),  # 80 steps in uneven parts
    "stride 2": ((2, 72, 9, 11), 72, (3, 3), {"stride": 2, "padding": 1}, 132),
    "stride 8": ((2, 8, 40, 37), 16, (3, 3), {"stride": (8, 7), "padding": 2}, 132),
    "uneven": ((1, 16, 13, 10), 10, (5, 2), {"stride": (1, 3), "padding": (0, 1), "dilation": (2, 3)}, 132),
    "dilated": ((1, 8, 20, 19), 34, (3, 3), {"dilation": 8, "padding": 8}, 2),
    "padded": ((2, 16, 2, 3), 16, (3, 3), {"padding": 9}, 132),  # more padding than image and filter
    "images": ((37, 8, 3, 3), 8, (3, 3), {"padding": 1}, 2),  # steps end amid rows and images
    "primes": ((3, 13, 7, 5), 31, (3, 3), {"padding": 1}, 132),  # dy and x packed
    "pixel": ((1, 8, 1, 1), 2, (1, 1), {}, 132),
    "batch": ((131, 24, 1, 1), 8, (1, 1), {}, 132),  # one pixel an image
    "column": ((1, 8, 9, 4), 16, (7, 1), {"padding": (3, 0)}, 132),
    "whole image": ((2, 40, 4, 5), 24, (4, 5), {}, 2),
    "groups": ((1, 48, 6, 5), 24, (3, 3), {"padding": 1, "groups": 3}, 132),  # blocks end in the neighbour's channels
    "packed groups": ((1, 12, 9, 8), 20, (3, 3), {"padding": 1, "groups": 4}, 132),
    "groups of many filters": ((2, 136, 5, 6), 272, (1, 2), {"groups": 2}, 1),
}  # fmt: skip


def geometry(options, algo="wgmma"):
    def pair(name, default):
        value = options.get(name, default)
        return [value] * 2 if isinstance(value, int) else list(value)

    sides = [side for side in pair("padding", 0) for _ in range(2)]
    return pair("stride", 1), sides, pair("dilation", 1), options.get("groups", 1), algo, "cuda_emulated"


def weight_grad(dy, x, w_shape, options):
    return torch.ops.fastconv.conv2d_weight_grad(dy, x, list(w_shape), *geometry(options))


def truth(dy, x, w_shape, options):
    w = torch.zeros(w_shape, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(torch_f.conv2d(x.double(), w, **options), w, dy.double())[0]


def operands(shape, dtype, channels_last=True):
    x_shape, filters, window, options, _ = SHAPES[shape]
    w_shape = (filters, x_shape[1] // options.get("groups", 1), *window)
    x = integers(x_shape, dtype, channels_last)
    y_shape = torch_f.conv2d(torch.zeros(x_shape), torch.zeros(w_shape), **options).shape
    return integers(tuple(y_shape), dtype, channels_last, -1, 1), x, w_shape, options


def check(shape, dtype, channels_last=True):
    dy, x, w_shape, options = operands(shape, dtype, channels_last)
    assert_exact(weight_grad(dy, x, w_shape, options), truth(dy, x, w_shape, options))


def of(shape, monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", str(SHAPES[shape][4]))


@pytest.mark.parametrize("dtype", [HALF, BFLOAT16])
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("shape", SHAPES)
def test_exact_on_integers(shape, channels_last, dtype, monkeypatch):
    of(shape, monkeypatch)
    check(shape, dtype, channels_last)


@pytest.mark.parametrize("channels", [8, 56, 64, 72, 120, 128, 136, 200])
@pytest.mark.parametrize("filters", [24, 64, 72, 136])
def test_tails_of_channels_and_filters(filters, channels):
    x, dy = integers((1, channels, 5, 5), HALF), integers((1, filters, 4, 4), HALF, low=-1, high=1)
    w_shape = (filters, channels, 2, 2)
    assert_exact(weight_grad(dy, x, w_shape, {}), truth(dy, x, w_shape, {}))


@pytest.mark.parametrize(
    ("schedule", "copies"), list(itertools.product(["lifo", "rand:1", "rand:2", "rand:3"], ["lazy", "eager", "rand:1"]))
)
def test_any_schedule(schedule, copies, monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    for shape in ("wrapped at 128", "wrapped columns", "groups"):
        of(shape, monkeypatch)
        check(shape, BFLOAT16)


@pytest.mark.parametrize("multiprocessors", [1, 2, 7, 132])
def test_parts_are_added_in_their_order(multiprocessors, monkeypatch):
    """Random numbers, whose sums depend on the order: the same bits each time, and close to float64's."""
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", str(multiprocessors))
    generator = torch.Generator().manual_seed(1)
    x, dy = (torch.randn(3, n, 21, 22, generator=generator).to(HALF) for n in (40, 72))
    w_shape, options = (72, 40, 3, 3), {"padding": 1}
    got = weight_grad(dy, x, w_shape, options)
    for schedule in ("lifo", "rand:1"):
        monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
        assert torch.equal(got, weight_grad(dy, x, w_shape, options))
    torch.testing.assert_close(got.double(), truth(dy, x, w_shape, options), rtol=2e-3, atol=2e-2)


def test_slices_and_broadcast():
    """dy and x are parts of larger tensors; a dy that is one value for all pixels has strides of 0."""
    x = integers((2, 32, 9, 16), HALF)[:, 8:24, :, 2:13]
    options, w_shape = {"padding": 1}, (24, 16, 3, 3)
    for dy in (integers((2, 40, 9, 11), HALF)[:, 8:32], torch.ones(1, 1, 1, 1, dtype=HALF).expand(2, 24, 9, 11)):
        assert_exact(weight_grad(dy, x, w_shape, options), truth(dy, x, w_shape, options))


@pytest.mark.parametrize("padding", [(0, 3, 5, 0), (-1, 0, -1, -2), (1, -1, -2, 4)])
def test_uneven_padding_crops_and_any_strides(kernels, padding):  # noqa: F811
    """(top, bottom, left, right); crops, and a dw that is not dense, reach the kernels' own interface only."""
    x = integers((2, 24, 9, 10), HALF)
    top, bottom, left, right = padding
    padded = torch_f.pad(x.double(), (left, right, top, bottom))
    dy = integers((2, 20, padded.shape[2] - 2, padded.shape[3] - 2), HALF, low=-1, high=1)
    whole = torch.full((3, 24, 3, 40), -7.0, dtype=HALF)
    dw = whole.permute(3, 1, 2, 0)[::2]  # (20, 24, 3, 3)
    kernels.conv2d_weight_grad(
        dy.numpy(), x.numpy(), dw.numpy(), "float16", (1, 1, *padding, 1, 1, 1, 1, 1), algo="wgmma"
    )
    assert_exact(dw, truth(dy, padded, (20, 24, 3, 3), {}))
    assert (whole.permute(3, 1, 2, 0)[1::2] == -7).all()


def test_infinities_stay_in_their_filter_and_column():
    """Neighbours in tiles, channel tails and the pixels after the last are no part of a sum: 0 * inf would show."""
    x, dy = torch.ones(2, 24, 5, 6, dtype=HALF), torch.ones(2, 66, 3, 4, dtype=HALF)
    x, dy = (t.contiguous(memory_format=torch.channels_last) for t in (x, dy))
    x[1, 23, 4, 0], x[0, 3, 0, 5], dy[1, 65, 2, 3] = float("nan"), float("inf"), float("inf")
    dw = weight_grad(dy, x, (66, 24, 3, 3), {})
    windows = x.double().unfold(2, 3, 1).unfold(3, 3, 1)  # (N, C, P, Q, R, S)
    expected = torch.einsum("nkpq,ncpqrs->kcrs", dy.double(), windows)
    torch.testing.assert_close(dw.double(), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(0, 16, 5, 5), (1, 0, 5, 5)])
def test_nothing_to_read(kernels, shape):  # noqa: F811
    """A tensor map has no empty dimension."""
    x, dy = torch.zeros(shape, dtype=HALF).numpy(), torch.zeros(shape[0], 8, 3, 3, dtype=HALF).numpy()
    dw = torch.zeros(8, shape[1], 3, 3, dtype=HALF).numpy()
    with pytest.raises(RuntimeError, match="dy has no pixels" if shape[0] == 0 else "x has no channels or no pixels"):
        kernels.conv2d_weight_grad(dy, x, dw, "float16", (1, 1, *[0] * 4, 1, 1, 1, 1, 1), algo="wgmma")


def refusal(x_shape, w_shape, dtype=HALF, **options) -> str:
    x, w = torch.zeros(x_shape, dtype=dtype), torch.zeros(w_shape, dtype=dtype)
    dy = torch.zeros(torch_f.conv2d(x.double(), w.double(), **options).shape, dtype=dtype)
    with pytest.raises(RuntimeError) as error:
        weight_grad(dy, x, w_shape, options)
    return str(error.value)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options", "reason"),
    [
        ((1, 8, 9, 9), (8, 8, 3, 3), {"stride": (1, 9)}, "a stride of 1x9 is above im2col's 8"),
        ((1, 8, 9, 9), (8, 8, 3, 3), {"padding": (0, 129)}, "begins at -129 along W, outside im2col's -128 to 127"),
        ((1, 8, 9, 300), (8, 8, 1, 256), {}, "the filter reaches 255 pixels along W, above im2col's 254"),
    ],
)
def test_reasons(x_shape, w_shape, options, reason):
    assert reason in refusal(x_shape, w_shape, **options)


def test_other_types_and_gpus_are_refused(monkeypatch):
    shapes = (1, 8, 5, 5), (8, 8, 3, 3)
    assert "dtype is float32: wgmma takes tf32 operands with pixels contiguous" in refusal(*shapes, dtype=torch.float32)
    assert "dtype is float64, not float16 or bfloat16" in refusal(*shapes, dtype=torch.float64)
    monkeypatch.setenv("FASTCONV_EMULATED_ARCH", "80")
    assert "the GPU is sm_80: wgmma is sm_90a's" in refusal(*shapes)


@pytest.mark.parametrize(
    ("problem", "row"),
    [
        ("mb32ic256ih14oc256kh3ph1", "wgmma"),
        ("mb32ic64ih56oc64kh3ph1", "wgmma"),
        ("mb32ic64ih56oc256kh1", "wgmma"),
        ("mb32ic64ih56oc24kh3ph1", "wgmma"),  # most of a tile is nothing, but of either row's
        ("mb32ic32ih56oc64kh3ph1", "mma"),  # half of a block is zeros
    ],
)
def test_choice(problem, row):
    answer = fastconv.explain(
        "conv2d_weight_grad", problem, backend="cuda_emulated", dtype="float16", channels_last=True
    )
    assert answer.chosen == row
