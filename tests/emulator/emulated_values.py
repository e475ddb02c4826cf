"""What tests of emulated kernels compute on, and how they judge what comes out: NumPy, no torch."""

import math

import numpy as np
from emulator_client import ROUNDOFF, Epilogue, narrow, widen

ERF = np.vectorize(math.erf)


def activate(v, act, a):
    if act in ("leaky_relu", "prelu"):
        return np.where(v > 0, v, a * v)
    if act == "elu":
        return np.where(v > 0, v, a * np.expm1(np.minimum(v, 0)))
    return {
        "identity": lambda: v,
        "relu": lambda: np.maximum(v, 0),
        "relu6": lambda: np.clip(v, 0, 6),
        "sigmoid": lambda: 1 / (1 + np.exp(-v)),
        "tanh": lambda: np.tanh(v),
        "silu": lambda: v / (1 + np.exp(-v)),
        "hardswish": lambda: v * np.clip(v + 3, 0, 6) / 6,
        "hardsigmoid": lambda: np.clip(v + 3, 0, 6) / 6,
        "gelu": lambda: v * 0.5 * (1 + ERF(v / math.sqrt(2))),
    }[act]()


def values(rng, shape, dtype, integers=False):
    """Stored values and what they are in float64."""
    raw = rng.integers(-2, 3, shape).astype(np.float64) if integers else rng.uniform(-1, 1, shape)
    stored = narrow(raw, dtype)
    return stored, widen(stored, dtype)


def assert_close(got, expected, magnitude, terms, dtype):
    """`magnitude`: the sum of the absolute values that were added up, `terms` of them."""
    accumulate = ROUNDOFF["float64" if dtype == "float64" else "float32"]
    bound = 2 * accumulate * (terms + 8) * magnitude + 2 * ROUNDOFF[dtype] * (np.abs(expected) + 1e-4)
    np.testing.assert_array_less(np.abs(widen(got, dtype) - expected), bound + 1e-300)


def empty(shape, dtype):
    """Filled with NaN, so that an element nobody writes is noticed."""
    return narrow(np.full(shape, np.nan), dtype)


def gemm_operand(array, transposed):
    return np.ascontiguousarray(array.swapaxes(1, 2)).swapaxes(1, 2) if transposed else array


def check_nan_and_infinity(kernels, shape, dtype, algo, row, column, act="identity", transpose="nn"):
    """A NaN of a stays in its row, an infinity of b in its column; where they meet is NaN."""
    M, N, K = shape
    a, b = np.ones((1, M, K)), np.ones((1, K, N))
    a[0, row, K - 1], b[0, 0, column] = np.nan, np.inf
    operands = gemm_operand(narrow(a, dtype), transpose[0] == "t"), gemm_operand(narrow(b, dtype), transpose[1] == "t")
    d = empty((1, M, N), dtype)
    kernels.gemm(*operands, d, dtype, Epilogue(act=act), algo=algo)
    expected = np.full((1, M, N), float(K))
    expected[0, :, column] = np.inf
    expected[0, row, :] = np.nan
    np.testing.assert_array_equal(widen(d, dtype), expected)
