"""Convolutions on CUDA cores, executed and watched by the emulator, against NumPy: exact on small integers.

Shapes go past one tile in every direction, and through the double buffer three times and more.
"""

import numpy as np
import pytest
from emulator_build import build_client, build_library
from emulator_client import DTYPES, Client, Epilogue, narrow, widen

SCHEDULES = ["lifo", "rand:1", "rand:2", "rand:3"]


@pytest.fixture(scope="module")
def kernels() -> Client:
    return Client(build_library(), build_client())


class Problem:
    """Shapes and window of one convolution; everything about it in NumPy."""

    def __init__(self, x, w, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1, scale=(1, 1)):
        self.x_shape, self.w_shape, self.stride, self.padding = x, w, stride, padding
        self.dilation, self.groups, self.scale = dilation, groups, scale
        top, bottom, left, right = padding
        height, width = x[2] * scale[0] + top + bottom, x[3] * scale[1] + left + right
        self.y_shape = (
            x[0], w[0], (height - dilation[0] * (w[2] - 1) - 1) // stride[0] + 1,
            (width - dilation[1] * (w[3] - 1) - 1) // stride[1] + 1,
        )  # fmt: skip

    @property
    def geometry(self):
        return [*self.stride, *self.padding, *self.dilation, self.groups, *self.scale]

    def _taps(self, padded):
        """Every filter tap with the (n, group, channel, p, q) of the padded image under it."""
        N, _, P, Q = self.y_shape
        for r in range(self.w_shape[2]):
            for s in range(self.w_shape[3]):
                h, v = r * self.dilation[0], s * self.dilation[1]
                rows = slice(h, h + self.stride[0] * (P - 1) + 1, self.stride[0])
                columns = slice(v, v + self.stride[1] * (Q - 1) + 1, self.stride[1])
                yield r, s, padded[:, :, rows, columns].reshape(N, self.groups, -1, P, Q), (rows, columns)

    def _padded(self, x):
        top, bottom, left, right = self.padding
        enlarged = x.repeat(self.scale[0], axis=2).repeat(self.scale[1], axis=3)
        return np.pad(enlarged, ((0, 0), (0, 0), (top, bottom), (left, right)))

    def forward(self, x, w):
        N, K, P, Q = self.y_shape
        y = np.zeros((N, self.groups, K // self.groups, P, Q))
        grouped = w.reshape(self.groups, K // self.groups, *self.w_shape[1:])
        for r, s, tap, _ in self._taps(self._padded(x)):
            y += np.einsum("ngcpq,gkc->ngkpq", tap, grouped[..., r, s])
        return y.reshape(self.y_shape)

    def input_grad(self, dy, w):
        N, K, P, Q = self.y_shape
        padded = self._padded(np.zeros(self.x_shape))
        split = dy.reshape(N, self.groups, K // self.groups, P, Q)
        grouped = w.reshape(self.groups, K // self.groups, *self.w_shape[1:])
        for r, s, tap, (rows, columns) in self._taps(padded.copy()):
            values = np.einsum("ngkpq,gkc->ngcpq", split, grouped[..., r, s])
            padded[:, :, rows, columns] += values.reshape(N, -1, P, Q)
            assert tap.size == values.size
        top, _, left, _ = self.padding
        return padded[:, :, top : top + self.x_shape[2], left : left + self.x_shape[3]]

    def weight_grad(self, dy, x):
        N, K, P, Q = self.y_shape
        dw = np.zeros((self.groups, K // self.groups, *self.w_shape[1:]))
        split = dy.reshape(N, self.groups, K // self.groups, P, Q)
        for r, s, tap, _ in self._taps(self._padded(x)):
            dw[..., r, s] = np.einsum("ngkpq,ngcpq->gkc", split, tap)
        return dw.reshape(self.w_shape)


def integers(seed, shape, dtype, layout):
    raw = np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float64)
    return in_layout(narrow(raw, dtype), layout), raw


def in_layout(array, layout):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if layout == "nhwc" else array


def unwritten(shape, dtype, layout):
    """NaN, so that an element nobody writes is noticed."""
    return in_layout(narrow(np.full(shape, np.nan), dtype), layout)


def assert_exact(got, expected, dtype):
    np.testing.assert_array_equal(widen(got, dtype), widen(narrow(expected, dtype), dtype))


SHAPES = {
    "one": Problem((1, 1, 1, 1), (1, 1, 1, 1)),
    "3x3": Problem((1, 8, 9, 10), (36, 8, 3, 3), padding=(1, 1, 1, 1)),
    "past_a_tile": Problem((2, 12, 9, 9), (68, 12, 3, 3), padding=(1, 1, 1, 1)),
    "odd_channels": Problem((1, 5, 7, 6), (35, 5, 3, 3), stride=(2, 1), padding=(1, 0, 0, 2)),
    "stem": Problem((1, 3, 15, 13), (34, 3, 7, 7), stride=(2, 2), padding=(3, 3, 3, 3)),
    "padding_above_filter": Problem((1, 4, 3, 3), (33, 4, 2, 2), stride=(3, 2), padding=(7, 9, 8, 5)),
    "dilated": Problem((1, 4, 13, 12), (20, 4, 3, 3), stride=(1, 2), padding=(2, 2, 3, 3), dilation=(2, 3)),
    "row_filter": Problem((1, 6, 4, 17), (18, 6, 1, 7), padding=(0, 0, 3, 3)),
    "groups": Problem((2, 20, 6, 7), (68, 5, 3, 3), padding=(1, 1, 1, 1), groups=4),
    "groups_of_four": Problem((1, 12, 6, 5), (51, 4, 3, 3), padding=(1, 1, 1, 1), groups=3),
    "long_reduction": Problem((1, 50, 4, 4), (33, 50, 3, 3)),
}
POINTWISE = {
    "1x1": Problem((2, 19, 5, 7), (37, 19, 1, 1)),
    "1x1_groups": Problem((2, 24, 5, 5), (36, 8, 1, 1), groups=3),
    "1x1_image": Problem((70, 12, 1, 1), (20, 12, 1, 1)),
}
LAYOUTS = ["nchw", "nhwc"]
# Every row where it differs from the others, without running everything in everything.
FORWARD = [
    *((case, "implicit_gemm") for case in (*SHAPES, *POINTWISE)),
    *((case, "im2col") for case in ("3x3", "odd_channels", "dilated", "groups", "1x1")),
    *((case, "pointwise") for case in POINTWISE),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("case", "algo"), FORWARD)
def test_conv2d(kernels, case, algo, layout, dtype):
    problem = {**SHAPES, **POINTWISE}[case]
    x, x64 = integers(1, problem.x_shape, dtype, layout)
    w, w64 = integers(2, problem.w_shape, dtype, layout)
    y = unwritten(problem.y_shape, dtype, layout)
    kernels.conv2d(x, w, y, dtype, problem.geometry, algo=algo)
    assert_exact(y, problem.forward(x64, w64), dtype)


@pytest.mark.parametrize("layouts", [("nchw", "nhwc", "nchw"), ("nhwc", "nchw", "nchw"), ("nchw", "nchw", "nhwc")])
@pytest.mark.parametrize("algo", ["implicit_gemm", "im2col"])
def test_conv2d_of_mixed_layouts(kernels, algo, layouts):
    problem = SHAPES["3x3"]
    x, x64 = integers(1, problem.x_shape, "float32", layouts[0])
    w, w64 = integers(2, problem.w_shape, "float32", layouts[1])
    y = unwritten(problem.y_shape, "float32", layouts[2])
    kernels.conv2d(x, w, y, "float32", problem.geometry, algo=algo)
    assert_exact(y, problem.forward(x64, w64), "float32")


def test_large_tile(kernels, monkeypatch):
    """Enough tiles of 128 x 128 for every multiprocessor of the smallest GPU, ragged in both directions."""
    monkeypatch.setenv("FASTCONV_EMULATED_ARCH", "75")
    problem = Problem((1, 20, 93, 95), (66, 20, 1, 1))
    for layout in LAYOUTS:
        x, x64 = integers(1, problem.x_shape, "float32", layout)
        w, w64 = integers(2, problem.w_shape, "float32", layout)
        y = unwritten(problem.y_shape, "float32", layout)
        epilogue = Epilogue(bias=np.arange(66.0), act="relu")
        kernels.conv2d(x, w, y, "float32", problem.geometry, epilogue, algo="implicit_gemm")
        expected = problem.forward(x64, w64) + np.arange(66.0)[:, None, None]
        assert_exact(y, np.maximum(expected, 0), "float32")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("case", "algo"), [("groups", "implicit_gemm"), ("groups", "im2col"), ("1x1", "pointwise")])
def test_epilogue_sees_its_own_channel_and_place(kernels, case, algo, layout):
    problem = {**SHAPES, **POINTWISE}[case]
    x, x64 = integers(1, problem.x_shape, "float32", layout)
    w, w64 = integers(2, problem.w_shape, "float32", layout)
    residual, residual64 = integers(3, problem.y_shape, "float32", layout)
    alpha, alpha64 = integers(4, (1, *problem.y_shape[1:]), "float32", layout)
    K = problem.y_shape[1]
    bias, scale = np.arange(K) % 5.0, np.arange(K) % 3.0 + 1
    epilogue = Epilogue(bias=bias, scale=scale, residual=residual, act="prelu")
    epilogue.full_param = np.broadcast_to(alpha, problem.y_shape)
    y = unwritten(problem.y_shape, "float32", layout)
    kernels.conv2d(x, w, y, "float32", problem.geometry, epilogue, algo=algo)
    linear = scale[:, None, None] * (problem.forward(x64, w64) + bias[:, None, None]) + residual64
    assert_exact(y, np.where(linear > 0, linear, alpha64 * linear), "float32")


UPSAMPLED = {
    "2x": Problem((1, 8, 4, 5), (36, 8, 3, 3), padding=(1, 1, 1, 1), scale=(2, 2)),
    "2x3_stride": Problem((2, 5, 4, 3), (19, 5, 3, 5), stride=(2, 1), padding=(1, 1, 2, 2), scale=(2, 3)),
    "groups": Problem((1, 8, 3, 3), (34, 4, 3, 3), padding=(1, 1, 1, 1), groups=2, scale=(3, 1)),
    "padding_above_filter": Problem((1, 4, 2, 3), (17, 4, 2, 2), padding=(5, 4, 3, 6), scale=(2, 2)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("algo", ["phase", "gather", "direct"])
@pytest.mark.parametrize("case", UPSAMPLED)
def test_upsample_conv2d(kernels, case, algo, layout, dtype):
    problem = UPSAMPLED[case]
    x, x64 = integers(1, problem.x_shape, dtype, layout)
    w, w64 = integers(2, problem.w_shape, dtype, layout)
    y = unwritten(problem.y_shape, dtype, layout)
    kernels.conv2d(x, w, y, dtype, problem.geometry, algo=algo)
    assert_exact(y, problem.forward(x64, w64), dtype)


INPUT_GRADS = {
    **{name: SHAPES[name] for name in ("one", "3x3", "padding_above_filter", "row_filter", "groups_of_four")},
    "stride_3_dilation_2": Problem((1, 20, 14, 13), (9, 20, 3, 3), (3, 3), (2, 2, 2, 2), (2, 2)),
    "stride_4_dilation_2": Problem((1, 6, 13, 12), (7, 6, 3, 2), (4, 4), (2, 1, 1, 2), (2, 2)),
    "phases_without_taps": Problem((2, 18, 7, 8), (8, 18, 1, 1), (3, 2)),
    "past_a_tile": Problem((1, 68, 12, 13), (12, 68, 3, 3), (2, 2), (1, 1, 1, 1)),
    "groups_ragged": Problem((1, 66, 9, 7), (14, 33, 3, 3), (2, 1), (1, 1, 1, 1), groups=2),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("algo", ["phases", "direct"])
@pytest.mark.parametrize("case", INPUT_GRADS)
def test_input_grad(kernels, case, algo, layout, dtype):
    """With a bias, as transposed convolution has: outputs that no tap reaches are the epilogue of zero."""
    problem = INPUT_GRADS[case]
    dy, dy64 = integers(1, problem.y_shape, dtype, layout)
    w, w64 = integers(2, problem.w_shape, dtype, layout)
    dx = unwritten(problem.x_shape, dtype, layout)
    bias = np.arange(problem.x_shape[1]) % 7.0 + 1
    kernels.conv2d_input_grad(dy, w, dx, dtype, problem.geometry, Epilogue(bias=bias), algo=algo)
    assert_exact(dx, problem.input_grad(dy64, w64) + bias[:, None, None], dtype)


WEIGHT_GRADS = {
    **{
        name: SHAPES[name] for name in ("one", "3x3", "stem", "padding_above_filter", "dilated", "groups", "row_filter")
    },
    "many_chunks": Problem((3, 4, 17, 19), (5, 4, 3, 3), padding=(1, 1, 1, 1)),
    "large_tile": Problem((1, 8, 6, 7), (132, 8, 3, 3), padding=(1, 1, 1, 1)),
    "one_column_of_pixels": Problem((2, 3, 40, 1), (6, 3, 3, 1), padding=(1, 1, 0, 0)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", WEIGHT_GRADS)
def test_weight_grad(kernels, case, layout, dtype):
    problem = WEIGHT_GRADS[case]
    dy, dy64 = integers(1, problem.y_shape, dtype, layout)
    x, x64 = integers(2, problem.x_shape, dtype, layout)
    dw = unwritten(problem.w_shape, dtype, layout)
    kernels.conv2d_weight_grad(dy, x, dw, dtype, problem.geometry, algo="implicit_gemm")
    assert_exact(dw, problem.weight_grad(dy64, x64), dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weight_grad_direct(kernels, layout):
    problem = WEIGHT_GRADS["many_chunks"]
    dy, dy64 = integers(1, problem.y_shape, "float32", layout)
    x, x64 = integers(2, problem.x_shape, "float32", layout)
    dw = unwritten(problem.w_shape, "float32", layout)
    kernels.conv2d_weight_grad(dy, x, dw, "float32", problem.geometry, algo="direct")
    assert_exact(dw, problem.weight_grad(dy64, x64), "float32")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_nothing_depends_on_the_schedule(kernels, schedule, monkeypatch):
    """Nor is there anything to report under any: rounded values, bit for bit."""
    problem = Problem((2, 12, 9, 8), (36, 12, 3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    enlarged = UPSAMPLED["2x"]
    rng = np.random.default_rng(5)
    x, w, dy = (
        rng.uniform(-1, 1, shape).astype(np.float32) for shape in (problem.x_shape, problem.w_shape, problem.y_shape)
    )
    u, v = (rng.uniform(-1, 1, shape).astype(np.float32) for shape in (enlarged.x_shape, enlarged.w_shape))

    def results(name):
        monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", name)
        outputs = []
        for algo in ("implicit_gemm", "im2col", "direct"):
            outputs.append(unwritten(problem.y_shape, "float32", "nhwc"))
            kernels.conv2d(x, w, outputs[-1], "float32", problem.geometry, algo=algo)
        outputs.append(unwritten(problem.x_shape, "float32", "nchw"))
        kernels.conv2d_input_grad(dy, w, outputs[-1], "float32", problem.geometry, algo="phases")
        for algo in ("implicit_gemm", "direct"):
            outputs.append(unwritten(problem.w_shape, "float32", "nchw"))
            kernels.conv2d_weight_grad(dy, x, outputs[-1], "float32", problem.geometry, algo=algo)
        outputs.append(unwritten(enlarged.y_shape, "float32", "nchw"))
        kernels.conv2d(u, v, outputs[-1], "float32", enlarged.geometry, algo="phase")
        return outputs

    for one, other in zip(results("fifo"), results(schedule), strict=True):
        np.testing.assert_array_equal(one, other)


# ---- what is not served --------------------------------------------------------------------------------------------
def refusal(call, *arguments, **options):
    with pytest.raises(RuntimeError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def test_reasons_have_values(kernels):
    problem = Problem((1, 4, 12, 12), (8, 4, 3, 3), stride=(9, 2), padding=(1, 1, 1, 1))
    x, w, y = (np.zeros(shape, np.float32) for shape in (problem.x_shape, problem.w_shape, problem.y_shape))
    text = refusal(kernels.conv2d, x, w, y, "float32", problem.geometry, algo="pointwise")
    assert "the filter is 3x3, not 1x1" in text
    assert "stride is 9x2" in text
    text = refusal(kernels.conv2d_input_grad, y, w, x, "float32", problem.geometry, algo="phases")
    assert "stride 9x2 makes more than 8 phases an axis" in text
    upsampled = Problem((1, 4, 4, 4), (8, 4, 3, 3), dilation=(3, 1), scale=(2, 2))
    y = np.zeros(upsampled.y_shape, np.float32)
    x = np.zeros(upsampled.x_shape, np.float32)
    text = refusal(kernels.conv2d, x, w, y, "float32", upsampled.geometry, algo="phase")
    assert "dilation 3x1 is above the scale_factor" in text


def test_im2col_refuses_a_residual_with_gaps(kernels):
    problem = SHAPES["3x3"]
    x, w, y = (np.zeros(shape, np.float32) for shape in (problem.x_shape, problem.w_shape, problem.y_shape))
    residual = np.zeros((*problem.y_shape[:3], 12), np.float32)[..., : problem.y_shape[3]]
    text = refusal(kernels.conv2d, x, w, y, "float32", problem.geometry, Epilogue(residual=residual), algo="im2col")
    assert "the pixels of residual do not lie evenly: rows are 12 elements apart" in text
    kernels.conv2d(x, w, y, "float32", problem.geometry, Epilogue(residual=residual))  # another row serves


def test_large_strides_are_served(kernels):
    problem = Problem((1, 3, 25, 21), (5, 3, 2, 3), stride=(12, 9), padding=(1, 0, 2, 1))
    dy, dy64 = integers(1, problem.y_shape, "float32", "nchw")
    w, w64 = integers(2, problem.w_shape, "float32", "nchw")
    dx = unwritten(problem.x_shape, "float32", "nchw")
    kernels.conv2d_input_grad(dy, w, dx, "float32", problem.geometry)
    assert_exact(dx, problem.input_grad(dy64, w64), "float32")
