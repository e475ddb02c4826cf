"""Depthwise convolution and its gradients, executed by the emulator, against torch in float64.

Small integers are exact in every type and order of summation, so results are compared bit for bit: on images long
enough for several strips of rows, with channels around a pack, and with windows that hang far outside.
"""

import pytest
import torch
import torch.nn.functional as torch_f

import fastconv
from fastconv import functional, introspection

pytestmark = pytest.mark.skipif(
    introspection.why_unavailable("cuda_emulated") is not None, reason="the emulated kernels are not built"
)

FLOAT, DOUBLE, HALF, BFLOAT16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
DTYPES = [FLOAT, DOUBLE, HALF, BFLOAT16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
# (N, C, H, W), multiplier, (R, S), stride, padding, dilation
SHAPES = {
    "3x3": ((1, 8, 29, 11), 1, (3, 3), (1, 1), (1, 1), (1, 1)),
    "3x3/2": ((2, 12, 31, 9), 1, (3, 3), (2, 2), (1, 1), (1, 1)),
    "3x3/2 even": ((1, 4, 26, 10), 1, (3, 3), (2, 2), (0, 0), (1, 1)),
    "5x5": ((1, 4, 37, 7), 1, (5, 5), (1, 1), (2, 2), (1, 1)),
    "5x5/2": ((1, 8, 41, 6), 1, (5, 5), (2, 2), (2, 2), (1, 1)),
    "7x7": ((1, 4, 31, 5), 1, (7, 7), (1, 1), (3, 3), (1, 1)),
    "7x7/2": ((1, 3, 15, 9), 1, (7, 7), (2, 2), (3, 3), (1, 1)),
    "3x3/3": ((1, 4, 13, 11), 1, (3, 3), (3, 3), (1, 1), (1, 1)),
    "dilated": ((1, 8, 13, 12), 1, (3, 3), (1, 1), (2, 3), (2, 3)),
    "dilated/2": ((1, 4, 14, 13), 1, (3, 3), (2, 2), (2, 2), (2, 2)),
    "oblong": ((1, 4, 9, 12), 1, (3, 5), (2, 1), (1, 2), (1, 1)),
    "row": ((1, 8, 5, 17), 1, (1, 7), (1, 1), (0, 3), (1, 1)),
    "padded": ((1, 4, 5, 3), 1, (3, 3), (1, 1), (7, 5), (1, 1)),  # more padding than filter
    "padded/2": ((1, 4, 4, 6), 1, (5, 5), (2, 2), (9, 6), (1, 1)),
    "multiplier 2": ((1, 5, 9, 8), 2, (3, 3), (1, 1), (1, 1), (1, 1)),
    "multiplier 3": ((2, 3, 8, 7), 3, (5, 5), (2, 2), (2, 2), (1, 1)),
    "one column": ((1, 6, 23, 1), 1, (3, 3), (1, 1), (1, 1), (1, 1)),
    "large filter": ((1, 2, 24, 21), 1, (21, 19), (1, 1), (10, 9), (1, 1)),
}  # fmt: skip
CHANNELS = [2, 3, 4, 5, 7, 9, 16, 31, 32, 33, 63, 64, 65]


def integers(shape, dtype, layout=torch.contiguous_format, low=-2, high=2):
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randint(low, high + 1, shape, generator=generator).to(dtype)
    return values.contiguous(memory_format=layout)


def operands(shape, dtype, layout):
    """x, w and dy of a row of SHAPES, and what conv2d takes after them."""
    x_shape, multiplier, kernel, stride, padding, dilation = shape
    channels = x_shape[1]
    x = integers(x_shape, dtype, layout)
    w = integers((channels * multiplier, 1, *kernel), dtype)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": channels}
    dy_shape = torch_f.conv2d(x.double(), w.double(), **options).shape
    return x, w, integers(tuple(dy_shape), dtype, layout, -1, 1), options


def conv2d(x, w, options, **epilogue):
    with fastconv.backend("cuda_emulated"):
        return functional.conv2d(x, w, algo="depthwise", **options, **epilogue)


def window(options):
    vertical, horizontal = options["padding"]
    sides = [vertical, vertical, horizontal, horizontal]
    return list(options["stride"]), sides, list(options["dilation"]), options["groups"]


def input_grad(dy, w, x_shape, options):
    operator = torch.ops.fastconv.conv2d_input_grad
    return operator(dy, w, list(x_shape), *window(options), "depthwise", "cuda_emulated")


def weight_grad(dy, x, w_shape, options):
    operator = torch.ops.fastconv.conv2d_weight_grad
    return operator(dy, x, list(w_shape), *window(options), "depthwise", "cuda_emulated")


def assert_exact(actual, expected):
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=0, atol=0, check_stride=False)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_all_three_are_exact_on_integers(shape, dtype, layout):
    x, w, dy, options = operands(shape, dtype, layout)
    assert_exact(conv2d(x, w, options), torch_f.conv2d(x.double(), w.double(), **options))
    wide = {"x": x.double().requires_grad_(), "w": w.double().requires_grad_()}
    y = torch_f.conv2d(wide["x"], wide["w"], **options)
    dx, dw = torch.autograd.grad(y, list(wide.values()), dy.double())
    assert_exact(input_grad(dy, w, x.shape, options), dx)
    assert_exact(weight_grad(dy, x, w.shape, options), dw)


@pytest.mark.parametrize("dtype", [FLOAT, BFLOAT16], ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_channels_around_a_pack_and_a_warp(channels, dtype):
    shape = ((1, channels, 7, 6), 1, (3, 3), (1, 1), (1, 1), (1, 1))
    test_all_three_are_exact_on_integers(shape, dtype, torch.channels_last)


@pytest.mark.parametrize("schedule", ["fifo", "lifo", "rand:1", "rand:2", "rand:3"])
def test_results_do_not_depend_on_the_schedule(schedule, monkeypatch):
    """Values whose sums depend on their order, so that another order would show."""
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn((1, 36, 19, 9), generator=generator) for _ in range(2))
    w = torch.randn((36, 1, 5, 5), generator=generator)
    options = {"stride": (1, 1), "padding": (2, 2), "dilation": (1, 1), "groups": 36}
    results = []
    for name in ("fifo", schedule):
        monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", name)
        results.append((conv2d(x, w, options), weight_grad(dy, x, w.shape, options)))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("act", ["relu6", "silu", "prelu"])
def test_epilogue(act, layout):
    x, w, dy, options = operands(SHAPES["3x3"], FLOAT, layout)
    bias, scale, shift, slope = (integers((8,), FLOAT, low=i, high=i + 3) / 2 for i in range(-2, 2))
    parts = {"scale": scale, "shift": shift, "residual": dy, "act": act}
    if act == "prelu":
        parts["act_param"] = slope
    y = torch_f.conv2d(x, w, bias, **options) * scale[:, None, None] + shift[:, None, None] + dy
    expected = {"relu6": torch_f.relu6, "silu": torch_f.silu, "prelu": lambda v: torch_f.prelu(v, slope)}[act](y)
    torch.testing.assert_close(conv2d(x, w, options, bias=bias, **parts), expected, check_stride=False)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_transposed_convolution_with_its_bias(stride, layout):
    x, w = integers((2, 8, 6, 5), FLOAT, layout), integers((8, 1, 3, 3), FLOAT)
    bias = integers((8,), FLOAT)
    arguments = (bias, stride, 1, stride - 1, 8)
    with fastconv.backend("cuda_emulated"):
        y = functional.conv_transpose2d(x, w, *arguments, algo="depthwise")
    assert_exact(y, torch_f.conv_transpose2d(x, w, *arguments))


def test_a_slice_of_channels_and_what_lies_beside_it():
    """x and y-like operands inside wider channels-last tensors whose rest is NaN: not read, not multiplied by zero."""
    whole = torch.full((1, 24, 9, 8), float("nan")).contiguous(memory_format=torch.channels_last)
    x = whole[:, 8:16]
    x.copy_(integers((1, 8, 9, 8), FLOAT))
    w = integers((8, 1, 3, 3), FLOAT)
    options = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 8}
    assert_exact(conv2d(x, w, options), torch_f.conv2d(x.double(), w.double(), **options))


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
def test_nan_stays_where_the_definition_has_it(layout):
    x = torch.ones((1, 4, 12, 10)).contiguous(memory_format=layout)
    x[0, 1, 5, 4] = float("nan")
    w = torch.ones((4, 1, 3, 3))
    options = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 4}
    y = conv2d(x, w, options, act="relu6")
    assert torch.isnan(y[0, 1, 4:7, 3:6]).all() and int(torch.isnan(y).sum()) == 9
    # The last column of x meets only pixels beside dy: it is multiplied by nothing, not by zero.
    x = torch.ones((1, 4, 5, 8)).contiguous(memory_format=layout)
    x[..., 7] = float("nan")
    options |= {"stride": (2, 2), "padding": (0, 0)}
    dy = torch.ones((1, 4, 2, 3)).contiguous(memory_format=layout)
    assert_exact(weight_grad(dy, x, (4, 1, 3, 3), options), torch.full((4, 1, 3, 3), 6.0))


def test_reasons_against():
    x, w = torch.ones(1, 8, 4, 4), torch.ones(8, 4, 3, 3)
    with pytest.raises(NotImplementedError, match="needs groups == channels, but groups is 2 and channels 8"):
        conv2d(x, w, {"groups": 2})
    x, w = torch.ones(1, 2, 120, 120), torch.ones(2, 1, 120, 120)
    reason = "the filters of a channel take 57600 bytes of shared memory, of 49152"
    with pytest.raises(NotImplementedError, match=reason):
        conv2d(x, w, {"groups": 2})
