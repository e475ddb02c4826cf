"""The CUDA kernels, executed and watched by the emulator, against float64 NumPy.

Integer-valued inputs are compared exactly: a wrong tile, border or index cannot hide in a tolerance. Random inputs are
held to the error bound of their own sums, element by element.
"""

import numpy as np
import pytest
from emulated_values import activate, assert_close, check_nan_and_infinity, empty, gemm_operand, values
from emulator_build import build_client, build_library
from emulator_client import ACTIVATIONS, DTYPES, Client, Epilogue, narrow, widen


@pytest.fixture(scope="session")
def kernels() -> Client:
    return Client(build_library(), build_client())


def test_libraries_are_of_one_build(kernels):
    assert kernels.same_build()


# ---- gemm ----------------------------------------------------------------------------------------------------------
GEMM_SHAPES = [
    (1, 1, 1, 1),
    (1, 3, 5, 7),
    (1, 67, 71, 37),  # primes around one tile
    (1, 64, 64, 16),  # exactly one tile, one step
    (1, 65, 129, 33),
    (3, 17, 19, 23),
    (2, 1, 130, 300),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transpose", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize("shape", GEMM_SHAPES, ids=str)
def test_gemm_is_exact_on_integers(kernels, shape, transpose, dtype):
    B, M, N, K = shape
    rng = np.random.default_rng(M * N + K)
    a, a64 = values(rng, (B, M, K), dtype, integers=True)
    b, b64 = values(rng, (B, K, N), dtype, integers=True)
    d = empty((B, M, N), dtype)
    kernels.gemm(gemm_operand(a, transpose[0] == "t"), gemm_operand(b, transpose[1] == "t"), d, dtype)
    # Up to 300 products of magnitude 4: rounded once, on the way out.
    np.testing.assert_array_equal(widen(d, dtype), widen(narrow(a64 @ b64, dtype), dtype))


def test_gemm_large_tile(kernels):
    """Enough tiles for the 128 x 128 configuration, with ragged edges and several passes of both buffers."""
    rng = np.random.default_rng(0)
    a, a64 = values(rng, (25, 130, 45), "float32", integers=True)
    b, b64 = values(rng, (25, 45, 133), "float32", integers=True)
    d = empty((25, 130, 133), "float32")
    kernels.gemm(a, b, d, "float32")
    np.testing.assert_array_equal(d, a64 @ b64)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gemm_large_tile_with_general_epilogue(kernels, dtype):
    rng = np.random.default_rng(1)
    a, a64 = values(rng, (96, 5, 9), dtype)
    b, b64 = values(rng, (96, 9, 6), dtype)
    residual, residual64 = values(rng, (96, 5, 6), dtype)
    d = empty((96, 5, 6), dtype)
    # The residual is a view of size (batch, N, M, 1).
    epilogue = Epilogue(residual=residual.swapaxes(1, 2), act="silu")
    kernels.gemm(a, b, d, dtype, epilogue)
    expected = activate(a64 @ b64 + residual64, "silu", 0)
    assert_close(d, expected, np.abs(a64) @ np.abs(b64) + np.abs(residual64), 10, dtype)


@pytest.mark.parametrize("extent", ["batch", "M", "N", "K"])
def test_gemm_of_nothing(kernels, extent):
    sizes = {"batch": 2, "M": 5, "N": 7, "K": 3, extent: 0}
    a = np.ones((sizes["batch"], sizes["M"], sizes["K"]), np.float32)
    b = np.ones((sizes["batch"], sizes["K"], sizes["N"]), np.float32)
    d = empty((sizes["batch"], sizes["M"], sizes["N"]), "float32")
    kernels.gemm(a, b, d, "float32", Epilogue(bias=np.full(sizes["N"], 2.0)))
    np.testing.assert_array_equal(d, np.full(d.shape, 2.0))  # an empty sum is zero, and has a bias


def test_gemm_on_strided_views(kernels):
    """Every second row of a, a column range of b, and an output inside a larger array, whose rest stays as it is."""
    rng = np.random.default_rng(2)
    a, a64 = values(rng, (1, 40, 20), "float32", integers=True)
    b, b64 = values(rng, (1, 20, 50), "float32", integers=True)
    whole = np.full((1, 30, 60), 77, np.float32)
    kernels.gemm(a[:, ::2, ::-1][:, :, ::-1], b[:, :, 3:34], whole[:, 4:24, 7:38], "float32")
    np.testing.assert_array_equal(whole[:, 4:24, 7:38], a64[:, ::2] @ b64[:, :, 3:34])
    whole[:, 4:24, 7:38] = 77
    assert (whole == 77).all()


@pytest.mark.parametrize("transpose", ["nn", "tt"])
def test_gemm_uses_nothing_between_the_rows_of_a_view(kernels, transpose):
    """Rows are padded to whole packs with NaN, so that packs may be loaded, but not the last of a row."""
    rng = np.random.default_rng(7)
    a, a64 = values(rng, (1, 67, 43), "float32", integers=True)
    b, b64 = values(rng, (1, 43, 71), "float32", integers=True)

    def padded(array, transposed):
        stored = array.swapaxes(1, 2) if transposed else array
        whole = np.full((1, stored.shape[1], stored.shape[2] + 1), np.nan, np.float32)
        whole[:, :, :-1] = stored
        view = whole[:, :, :-1]
        return view.swapaxes(1, 2) if transposed else view

    d = empty((1, 67, 71), "float32")
    kernels.gemm(padded(a, transpose[0] == "t"), padded(b, transpose[1] == "t"), d, "float32")
    np.testing.assert_array_equal(d, a64 @ b64)


def test_gemm_spreads_nan_to_its_row_and_column_only(kernels):
    check_nan_and_infinity(kernels, (70, 70, 40), "float32", "", row=66, column=1, act="relu")


# ---- conv2d --------------------------------------------------------------------------------------------------------
# x (N, C, H, W), w (K, C / groups, R, S), stride, padding (top, bottom, left, right), dilation, groups
CONV_CASES = {
    "one": ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "pointwise": ((2, 19, 5, 7), (37, 19, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "3x3": ((1, 8, 11, 13), (16, 8, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "wide": ((1, 5, 9, 9), (70, 5, 3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 1),
    "stem": ((1, 3, 23, 21), (8, 3, 7, 7), (2, 2), (3, 3, 3, 3), (1, 1), 1),
    "large_padding": ((1, 2, 3, 3), (5, 2, 2, 2), (3, 2), (7, 9, 8, 5), (1, 1), 1),
    "asymmetric": ((1, 3, 8, 9), (4, 3, 3, 2), (2, 1), (0, 1, 1, 0), (1, 1), 1),
    "dilated": ((1, 4, 13, 12), (6, 4, 3, 3), (1, 2), (2, 2, 3, 3), (2, 3), 1),
    "grouped": ((2, 12, 7, 7), (20, 3, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 4),
    "depthwise": ((1, 11, 9, 10), (11, 1, 3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 11),
    "multiplier": ((1, 3, 6, 5), (6, 1, 5, 5), (1, 1), (2, 2, 2, 2), (1, 1), 3),
    "empty_batch": ((0, 3, 8, 8), (4, 3, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "no_channels": ((1, 0, 4, 4), (3, 0, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "long_reduction": ((1, 50, 4, 4), (33, 50, 3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1),
}


def convolve(x, w, stride, padding, dilation, groups):
    """From the definition, tap by tap."""
    top, bottom, left, right = padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    N, _, H, W = x.shape
    K, Cg, R, S = w.shape
    P = (H - dilation[0] * (R - 1) - 1) // stride[0] + 1
    Q = (W - dilation[1] * (S - 1) - 1) // stride[1] + 1
    y = np.zeros((N, groups, K // groups, P, Q))
    for r in range(R):
        for s in range(S):
            h, v = r * dilation[0], s * dilation[1]
            tap = x[:, :, h : h + stride[0] * (P - 1) + 1 : stride[0], v : v + stride[1] * (Q - 1) + 1 : stride[1]]
            weight = w[:, :, r, s].reshape(groups, K // groups, Cg)
            y += np.einsum("ngchw,gkc->ngkhw", tap.reshape(N, groups, Cg, P, Q), weight)
    return y.reshape(N, K, P, Q)


def geometry(stride, padding, dilation, groups):
    return [*stride, *padding, *dilation, groups, 1, 1]


def in_layout(array, layout):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if layout == "nhwc" else array


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("case", CONV_CASES)
def test_conv2d_is_exact_on_integers(kernels, case, layout, dtype):
    x_shape, w_shape, *rest = CONV_CASES[case]
    rng = np.random.default_rng(len(case))
    x, x64 = values(rng, x_shape, dtype, integers=True)
    w, w64 = values(rng, w_shape, dtype, integers=True)
    expected = convolve(x64, w64, *rest)
    y = in_layout(empty(expected.shape, dtype), layout)
    kernels.conv2d(in_layout(x, layout), in_layout(w, layout), y, dtype, geometry(*rest))
    np.testing.assert_array_equal(widen(y, dtype), widen(narrow(expected, dtype), dtype))


def test_conv2d_writes_a_slice_of_a_concatenation(kernels):
    """y is channels 4 to 8 of a channels-last array of 12."""
    rng = np.random.default_rng(3)
    x, x64 = values(rng, (2, 3, 6, 6), "float32", integers=True)
    w, w64 = values(rng, (5, 3, 3, 3), "float32", integers=True)
    whole = in_layout(np.full((2, 12, 6, 6), 77, np.float32), "nhwc")
    kernels.conv2d(x, w, whole[:, 4:9], "float32", geometry((1, 1), (1, 1, 1, 1), (1, 1), 1))
    np.testing.assert_array_equal(whole[:, 4:9], convolve(x64, w64, (1, 1), (1, 1, 1, 1), (1, 1), 1))
    whole[:, 4:9] = 77
    assert (whole == 77).all()


def test_conv2d_nan_reaches_its_windows_only(kernels):
    x = np.ones((1, 1, 8, 8), np.float32)
    x[0, 0, 4, 4] = np.nan
    w = np.ones((1, 1, 3, 3), np.float32)
    y = empty((1, 1, 8, 8), "float32")
    kernels.conv2d(x, w, y, "float32", geometry((1, 1), (1, 1, 1, 1), (1, 1), 1), Epilogue(act="relu"))
    assert np.isnan(y[0, 0, 3:6, 3:6]).all()
    assert np.isnan(y).sum() == 9


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("act", "parameter"),
    [*((act, "scalar") for act in ACTIVATIONS), ("prelu", "channel"), ("prelu", "full"), ("prelu", "full_per_batch")],
)
def test_conv2d_epilogue(kernels, act, parameter, dtype):
    rng = np.random.default_rng(4)
    x, x64 = values(rng, (2, 4, 5, 6), dtype)
    w, w64 = values(rng, (7, 4, 3, 3), dtype)
    expected = convolve(x64, w64, (1, 1), (1, 1, 1, 1), (1, 1), 1)
    residual, residual64 = values(rng, expected.shape, dtype)
    epilogue = Epilogue(act=act, param=0.25, residual=in_layout(residual, "nhwc"))
    epilogue.bias, epilogue.scale, epilogue.shift = (rng.uniform(-1, 1, 7) for _ in range(3))
    a = 0.25
    if parameter == "channel":
        epilogue.channel_param = rng.uniform(-1, 1, 7)
        a = epilogue.channel_param[:, None, None]
    elif parameter == "full":
        stored, a = values(rng, (1, 7, 5, 6), dtype)
        epilogue.full_param = np.broadcast_to(stored, expected.shape)
    elif parameter == "full_per_batch":
        epilogue.full_param, a = values(rng, expected.shape, dtype)

    bias, scale, shift = (v[:, None, None] for v in (epilogue.bias, epilogue.scale, epilogue.shift))
    magnitude = np.abs(scale) * (convolve(np.abs(x64), np.abs(w64), (1, 1), (1, 1, 1, 1), (1, 1), 1) + np.abs(bias))
    expected = activate(scale * (expected + bias) + shift + residual64, act, a)
    y = empty(expected.shape, dtype)
    kernels.conv2d(x, w, y, dtype, geometry((1, 1), (1, 1, 1, 1), (1, 1), 1), epilogue)
    assert_close(y, expected, magnitude + np.abs(shift) + np.abs(residual64), 36, dtype)


@pytest.mark.parametrize("act", ["identity", "relu"])
@pytest.mark.parametrize("parts", [("bias",), ("scale", "shift"), ("bias", "scale", "shift")], ids="+".join)
def test_gemm_channel_epilogue(kernels, parts, act):
    rng = np.random.default_rng(5)
    a, a64 = values(rng, (1, 33, 20), "float32")
    b, b64 = values(rng, (1, 20, 67), "float32")
    epilogue = Epilogue(act=act, **{part: rng.uniform(-1, 1, 67) for part in parts})
    vectors = [epilogue.bias, epilogue.scale, epilogue.shift]
    bias, scale, shift = (default if v is None else v for v, default in zip(vectors, (0.0, 1.0, 0.0), strict=True))
    d = empty((1, 33, 67), "float32")
    kernels.gemm(a, b, d, "float32", epilogue)
    expected = activate(scale * (a64 @ b64 + bias) + shift, act, 0)
    magnitude = np.abs(scale) * (np.abs(a64) @ np.abs(b64) + np.abs(bias)) + np.abs(shift)
    assert_close(d, expected, magnitude, 20, "float32")


# ---- the tables and the checker ------------------------------------------------------------------------------------
def test_unknown_algorithm_lists_the_known(kernels):
    x = np.ones((1, 1, 2, 2), np.float32)
    with pytest.raises(RuntimeError, match=r"conv2d: expected algo to be one of .*, direct, but got 'winograd9'"):
        kernels.conv2d(x, x, x.copy(), "float32", geometry((1, 1), (0, 0, 0, 0), (1, 1), 1), algo="winograd9")


def test_problem_that_nothing_serves_gives_reasons(kernels):
    x = np.ones((1, 1, 2, 2), np.float32)
    w = np.ones((1, 1, 2, 4), np.float32)[..., ::2]
    too_tall = geometry((1, 1), (2**30, 0, 0, 0), (1, 1), 1)
    with pytest.raises(RuntimeError, match=r"direct: H with its padding = 1073741826 is above 2\^29") as caught:
        kernels.conv2d(x, w, x.copy(), "float32", too_tall)
    assert "im2col: w is dense neither as KCRS nor as KRSC, but has strides 8, 8, 4, 2" in str(caught.value)


@pytest.mark.parametrize("schedule", ["lifo", "rand:1", "rand:2"])
def test_result_does_not_depend_on_the_schedule(kernels, schedule, monkeypatch):
    rng = np.random.default_rng(6)
    a, b = (values(rng, shape, "float32")[0] for shape in [(2, 70, 50), (2, 50, 66)])
    x, w = (values(rng, shape, "float32")[0] for shape in [(1, 9, 10, 10), (40, 9, 3, 3)])
    results = []
    for name in ("fifo", schedule):
        monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", name)
        d, y = empty((2, 70, 66), "float32"), in_layout(empty((1, 40, 8, 8), "float32"), "nhwc")
        kernels.gemm(a, b, d, "float32")
        kernels.conv2d(x, w, y, "float32", geometry((1, 1), (0, 0, 0, 0), (1, 1), 1))
        results.append((d, y))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_extents_that_contradict_the_buffers_end_the_launch(kernels):
    """The problem has two channels a group, the weight tensor only one: stopped before the first wrong access."""
    x = np.ones((1, 4, 8, 8), np.float32)
    w = np.ones((2, 1, 1, 1), np.float32)
    y = np.zeros((1, 2, 8, 8), np.float32)
    with pytest.raises(RuntimeError) as caught:
        kernels.conv2d(x, w, y, "float32", geometry((1, 1), (0, 0, 0, 0), (1, 1), 2), algo="direct")
    assert "conv2d_direct: [global-out-of-bounds] read of 4 bytes at conv2d_direct.cuh:" in str(caught.value)
    assert "byte 8 of w, which has 8 bytes" in str(caught.value)
