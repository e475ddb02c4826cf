"""Convolutions on tensor cores, executed by the emulator, against float64.

Small integers: exact in every type and order of summation, tf32 included, so compared bit for bit. Shapes wrap the ring
of stages, end inside a chunk, a tile, a group and an image, and pack operands that do not lie in whole chunks.
"""

import itertools

import pytest
import torch
import torch.nn.functional as torch_f
from chosen_tile import chosen_tile

import fastconv
from fastconv import functional, introspection

pytestmark = pytest.mark.skipif(
    introspection.why_unavailable("cuda_emulated") is not None, reason="the emulated kernels are not built"
)

BFLOAT16, HALF, FLOAT = torch.bfloat16, torch.float16, torch.float32
ROWS = [("mma", HALF), ("mma", BFLOAT16), ("mma_tf32", FLOAT)]
# (N, C, H, W), K, (R, S), options of conv2d
SHAPES = {
    "tiles": ((1, 32, 8, 8), 64, (3, 3), {"padding": 1}),
    "wrapped": ((1, 72, 5, 6), 40, (3, 3), {"padding": 1}),  # 21 k-steps, five times round the ring
    "stride2": ((2, 24, 9, 11), 72, (3, 3), {"stride": 2, "padding": 1}),
    "stride3": ((1, 16, 13, 10), 9, (5, 2), {"stride": 3}),
    "dilated": ((1, 8, 9, 7), 33, (3, 3), {"dilation": 2, "padding": 2}),
    "padded": ((1, 16, 2, 3), 16, (3, 3), {"padding": 5}),  # more padding than filter
    "packed": ((2, 5, 7, 6), 7, (3, 3), {"padding": 1}),  # channels padded to a chunk
    "groups": ((1, 48, 6, 5), 24, (3, 3), {"padding": 1, "groups": 3}),
    "packed-groups": ((1, 12, 5, 5), 20, (3, 3), {"padding": 1, "groups": 4}),
    "pointwise": ((2, 40, 5, 3), 136, (1, 1), {}),
    "column": ((1, 8, 9, 4), 16, (7, 1), {"padding": (3, 0)}),
    "split": ((1, 264, 4, 4), 24, (3, 3), {"padding": 1}),  # few tiles, a long reduction: split over blocks
}  # fmt: skip


def integers(shape, dtype, channels_last=True, low=-2, high=2):
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randint(low, high + 1, shape, generator=generator).to(dtype)
    return values.contiguous(memory_format=torch.channels_last) if channels_last else values


def emulated(function, *arguments, **options):
    with fastconv.backend("cuda_emulated"):
        return function(*arguments, **options)


def assert_exact(got, expected64):
    torch.testing.assert_close(got, expected64.to(got.dtype), rtol=0, atol=0, check_stride=False)


def operands(shape, dtype, channels_last=True):
    x_shape, filters, window, options = SHAPES[shape]
    w_shape = (filters, x_shape[1] // options.get("groups", 1), *window)
    x, w = integers(x_shape, dtype, channels_last), integers(w_shape, dtype, channels_last, -1, 1)
    return x, w, torch_f.conv2d(x.double(), w.double(), **options), options


def check_conv(shape, dtype, algo, channels_last=True):
    x, w, expected, options = operands(shape, dtype, channels_last)
    assert_exact(emulated(functional.conv2d, x, w, **options, algo=algo), expected)


@pytest.mark.parametrize(("algo", "dtype"), ROWS)
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("shape", SHAPES)
def test_conv2d(shape, channels_last, algo, dtype):
    check_conv(shape, dtype, algo, channels_last)


@pytest.mark.parametrize("channels", range(8, 73, 8))
def test_channels(channels):
    x, w = integers((1, channels, 5, 5), HALF), integers((channels, channels, 3, 3), HALF, low=-1, high=1)
    expected = torch_f.conv2d(x.double(), w.double(), padding=1)
    assert_exact(emulated(functional.conv2d, x, w, padding=1, algo="mma"), expected)


@pytest.mark.parametrize(("filters", "tile"), [(40, "128 x 64 tiles"), (136, "128 x 128 tiles")], ids=["tall", "large"])
def test_large_tiles(filters, tile, monkeypatch):
    """So few multiprocessors that the larger tiles are chosen, ragged on every side."""
    monkeypatch.setenv("FASTCONV_EMULATED_MULTIPROCESSORS", "16")
    problem = f"mb3ic8ih75iw77oc{filters}kh1"
    assert chosen_tile("conv2d", "mma", "bfloat16", text=problem) == tile
    x, w = integers((3, 8, 75, 77), BFLOAT16), integers((filters, 8, 1, 1), BFLOAT16, low=-1, high=1)
    assert_exact(emulated(functional.conv2d, x, w, algo="mma"), torch_f.conv2d(x.double(), w.double()))


@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("shape", ["packed", "stride2", "groups", "split"])
@pytest.mark.parametrize("act", ["relu", "prelu"])
def test_epilogue(act, shape, channels_last):
    x, w, product, options = operands(shape, BFLOAT16, channels_last)
    filters = w.shape[0]
    bias, scale, shift = (integers((filters, n), BFLOAT16, False)[:, 0].contiguous() for n in (1, 2, 3))
    residual = integers(tuple(product.shape), BFLOAT16, channels_last)
    alpha = torch.full((filters,), 0.5, dtype=BFLOAT16) if act == "prelu" else None
    got = emulated(
        functional.conv2d, x, w, bias, **options, scale=scale, shift=shift, residual=residual, act=act,
        act_param=alpha, algo="mma",
    )  # fmt: skip
    across = (slice(None), None, None)
    expected = scale.double()[across] * (product + bias.double()[across]) + shift.double()[across] + residual.double()
    assert_exact(got, torch.where(expected > 0, expected, expected * (0.5 if act == "prelu" else 0.0)))


@pytest.mark.parametrize(("algo", "dtype"), ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients(shape, algo, dtype):
    x, w, y, options = operands(shape, dtype)
    dy = integers(tuple(y.shape), dtype, low=-1, high=1)
    padding = options.get("padding", 0)
    sides = [p for p in ((padding, padding) if isinstance(padding, int) else padding) for _ in range(2)]
    stride, dilation = [options.get("stride", 1)] * 2, [options.get("dilation", 1)] * 2
    geometry = (stride, sides, dilation, options.get("groups", 1), algo, "cuda_emulated")
    dx = torch.ops.fastconv.conv2d_input_grad(dy, w, x.shape, *geometry)
    dw = torch.ops.fastconv.conv2d_weight_grad(dy, x, w.shape, *geometry)
    x64, w64 = x.double().requires_grad_(), w.double().requires_grad_()
    expected = torch.autograd.grad(torch_f.conv2d(x64, w64, **options), (x64, w64), dy.double())
    assert_exact(dx, expected[0])
    assert_exact(dw, expected[1])


def test_weight_gradient_of_many_pixels():
    """Both sides above 64: the large tile; and enough pixels that they are split over blocks."""
    x, dy = integers((2, 72, 31, 33), HALF), integers((2, 80, 31, 33), HALF, low=-1, high=1)
    dw = torch.ops.fastconv.conv2d_weight_grad(
        dy, x, [80, 72, 1, 1], [1, 1], [0] * 4, [1, 1], 1, "mma", "cuda_emulated"
    )
    assert_exact(dw[:, :, 0, 0], torch.einsum("nkhw,nchw->kc", dy.double(), x.double()))


TRANSPOSED = {
    "stride1": ((1, 16, 4, 5), (16, 24, 3, 3), {"padding": 1}),
    "stride2": ((2, 24, 5, 4), (24, 16, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    "few-taps": ((1, 8, 3, 4), (8, 10, 1, 1), {"stride": 3, "output_padding": 2}),  # phases without a tap
    "dilated": ((1, 8, 4, 3), (8, 12, 3, 3), {"stride": 2, "dilation": 2, "padding": 1, "output_padding": 1}),
    "groups": ((1, 16, 4, 3), (16, 9, 4, 4), {"stride": 2, "padding": 1, "groups": 2}),
}


@pytest.mark.parametrize(("algo", "dtype"), ROWS)
@pytest.mark.parametrize("shape", TRANSPOSED)
def test_conv_transpose2d(shape, algo, dtype):
    x_shape, w_shape, options = TRANSPOSED[shape]
    x, w = integers(x_shape, dtype), integers(w_shape, dtype, low=-1, high=1)
    bias = integers((w_shape[1] * options.get("groups", 1), 1), dtype, False)[:, 0].contiguous()
    expected = torch_f.conv_transpose2d(x.double(), w.double(), bias.double(), **options)
    assert_exact(emulated(functional.conv_transpose2d, x, w, bias, **options, algo=algo), expected)


UPSAMPLED = {
    "twice": ((1, 16, 4, 5), (24, 16, 3, 3), 2, {"padding": 1}),
    "three": ((1, 5, 3, 4), (9, 5, 3, 3), 3, {"padding": 1}),
    "uneven": ((2, 8, 3, 4), (8, 8, 5, 5), (2, 3), {"padding": 2}),
    "stride": ((1, 16, 4, 5), (20, 16, 3, 3), 2, {"padding": 1, "stride": 2}),
    "dilated": ((1, 8, 4, 4), (8, 8, 3, 3), 2, {"padding": 2, "dilation": 2}),
    "groups": ((1, 16, 3, 4), (16, 8, 3, 3), 2, {"padding": 1, "groups": 2}),
}


@pytest.mark.parametrize("algo", ["phase_mma", "gather_mma"])
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("shape", UPSAMPLED)
def test_upsample_conv2d(shape, channels_last, algo):
    x_shape, w_shape, scale, options = UPSAMPLED[shape]
    x, w = integers(x_shape, HALF, channels_last), integers(w_shape, HALF, channels_last, -1, 1)
    factor = (scale, scale) if isinstance(scale, int) else scale
    enlarged = x.double().repeat_interleave(factor[0], 2).repeat_interleave(factor[1], 3)
    got = emulated(functional.upsample_conv2d, x, w, None, scale, **options, algo=algo)
    assert_exact(got, torch_f.conv2d(enlarged, w.double(), **options))


STEMS = {
    "resnet": ((1, 3, 37, 70), (64, 3, 7, 7), {"stride": 2, "padding": 3}),
    "mobile": ((2, 3, 21, 19), (24, 3, 3, 3), {"stride": 2, "padding": 1}),
    "stride1": ((1, 1, 9, 35), (72, 1, 5, 5), {"padding": 2}),
    "alex": ((1, 4, 40, 23), (9, 4, 11, 9), {"stride": 4, "padding": 2}),
    "dilated": ((1, 2, 18, 17), (8, 2, 3, 2), {"dilation": 3, "padding": 4}),
}


@pytest.mark.parametrize("dtype", [HALF, BFLOAT16])
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("shape", STEMS)
def test_stem(shape, channels_last, dtype):
    x_shape, w_shape, options = STEMS[shape]
    x, w = integers(x_shape, dtype, channels_last), integers(w_shape, dtype, channels_last, -1, 1)
    expected = torch_f.conv2d(x.double(), w.double(), **options).relu()
    assert_exact(emulated(functional.conv2d, x, w, **options, act="relu", algo="stem_mma"), expected)


def test_stem_keeps_infinities_apart():
    """A pixel beyond the filter's row meets a padded tap: it must not reach the sum as 0 * inf."""
    x, w = torch.zeros(1, 3, 4, 20, dtype=HALF), torch.ones(8, 3, 3, 3, dtype=HALF)
    x[0, 1, 2, 10] = float("inf")
    y = emulated(functional.conv2d, x, w, padding=1, algo="stem_mma")
    torch.testing.assert_close(y.double(), torch_f.conv2d(x.double(), w.double(), padding=1), rtol=0, atol=0)


GROUPED = {
    "eights": ((2, 32, 9, 18), (32, 8, 3, 3), {"padding": 1, "groups": 4}),
    "sixteens": ((1, 64, 17, 5), (64, 16, 3, 3), {"padding": 1, "stride": 2, "groups": 4}),
    "window": ((1, 32, 11, 12), (32, 8, 5, 2), {"padding": 3, "stride": 3, "dilation": 2, "groups": 4}),
}


@pytest.mark.parametrize("dtype", [HALF, BFLOAT16])
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("shape", GROUPED)
def test_grouped(shape, channels_last, dtype):
    x_shape, w_shape, options = GROUPED[shape]
    x, w = integers(x_shape, dtype, channels_last), integers(w_shape, dtype, channels_last, -1, 1)
    expected = torch_f.conv2d(x.double(), w.double(), **options).relu()
    assert_exact(emulated(functional.conv2d, x, w, **options, act="relu", algo="grouped_mma"), expected)


@pytest.mark.parametrize("group", [8, 16])
def test_groups_keep_infinities(group):
    x, w = torch.ones(1, 32, 3, 3, dtype=HALF), torch.ones(32, group, 1, 1, dtype=HALF)
    x[0, group, 1, 1] = float("inf")
    y = emulated(functional.conv2d, x, w, groups=32 // group, algo="grouped_mma")
    torch.testing.assert_close(y.double(), torch_f.conv2d(x.double(), w.double(), groups=32 // group), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("schedule", "copies"), list(itertools.product(["lifo", "rand:1", "rand:2", "rand:3"], ["lazy", "eager", "rand:1"]))
)
def test_any_schedule(schedule, copies, monkeypatch):
    """The ring wraps, whatever the order of the threads and the moment in which copies land."""
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    check_conv("wrapped", HALF, "mma")
    test_gradients("stride2", "mma", BFLOAT16)
    test_stem("mobile", True, HALF)
    test_grouped("eights", True, HALF)


def test_reasons(monkeypatch):
    x, w = torch.zeros(1, 8, 40, 4, dtype=HALF), torch.zeros(8, 8, 33, 1, dtype=HALF)
    with pytest.raises(NotImplementedError, match="a window of 33x1 taps is above 31 an axis"):
        emulated(functional.conv2d, x, w, algo="mma")
    with pytest.raises(NotImplementedError, match="needs float16 or bfloat16, but the tensors are float32"):
        emulated(functional.conv2d, x.float(), w.float(), algo="mma")
    monkeypatch.setenv("FASTCONV_EMULATED_ARCH", "75")
    with pytest.raises(NotImplementedError, match=r"the GPU is sm_75: mma\.sync and cp\.async need sm_80"):
        emulated(functional.conv2d, x, w[:, :, :3], algo="mma")


@pytest.mark.parametrize(
    ("algo", "extents", "bytes_"),
    [("stem_mma", {"C": 3, "K": 8}, 1883400), ("grouped_mma", {"C": 32, "K": 32, "groups": 4}, 2164800)],
)
def test_patches_have_limits(algo, extents, bytes_):
    def reasons(window, **others):
        problem = {"N": 1, "H": 600, "W": 600, "R": window, "S": window, "dtype": "float16", **extents, **others}
        rows = fastconv.explain("conv2d", backend="cuda_emulated", **problem).candidates
        return list(next(row.reasons for row in rows if row.name == algo))

    assert reasons(3, dilation_h=85) == []
    assert reasons(3, dilation_h=86) == ["a window that reaches or steps over 258 pixels is above 256"]
    assert reasons(3, N=1 << 20) == ["more tiles than one grid holds"]
    assert reasons(60) == [f"the patch and the weights need {bytes_} bytes of shared memory, and a block has 232448"]


def test_without_a_gpu_no_tensor_core_row_serves(monkeypatch):
    """explain may be asked on a machine without one, and no row may answer differently from the others."""
    monkeypatch.setenv("FASTCONV_EMULATED_ARCH", "0")
    conv = {"N": 1, "C": 32, "H": 8, "W": 8, "K": 32, "R": 3, "S": 3, "dtype": "float16"}
    for op, problem in {"conv2d": conv, "gemm": {"M": 64, "N": 64, "K": 64, "dtype": "float16"}}.items():
        rows = fastconv.explain(op, backend="cuda_emulated", **problem).candidates
        needing = [row for row in rows if "mma" in row.name]
        assert needing
        for row in needing:
            assert "there is no CUDA device" in row.reasons, row
