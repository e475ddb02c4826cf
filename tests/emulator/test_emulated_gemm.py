"""The tensor-core and split-K rows of gemm, executed by the emulator, against float64 NumPy.

Integers are exact in every type and sum here, tf32 included: compared bit for bit. Random inputs are rounded to tf32
beforehand where the row does so.
"""

import numpy as np
import pytest
from emulator_client import ACTIVATIONS, Epilogue, narrow, widen
from test_emulated_kernels import activate, assert_close, empty, gemm_operand, kernels, values  # noqa: F401

ROWS = [
    ("mma", "float16"), ("mma", "bfloat16"), ("mma_tf32", "float32"),
    ("mma_split_k", "float16"), ("mma_split_k", "bfloat16"), ("mma_tf32_split_k", "float32"),
]  # fmt: skip
ONE_OF_EACH = [
    ("mma", "bfloat16"),
    ("mma_split_k", "float16"),
    ("mma_tf32", "float32"),
    ("mma_tf32_split_k", "float32"),
]
TRANSPOSES = ["nn", "nt", "tn", "tt"]
SHAPES = [
    (1, 67, 71, 37),  # primes: nothing is aligned, copied by the element
    (3, 17, 19, 45),
    (1, 1, 130, 300),
    (1, 64, 64, 64),  # whole tiles
    (1, 72, 136, 40),  # chunks inside tails of M, N and K
    (2, 24, 8, 424),  # the ring of four stages wraps three times
]


def check_exact(kernels, shape, transpose, algo, dtype):  # noqa: F811
    B, M, N, K = shape
    rng = np.random.default_rng(M * N + K)
    a, a64 = values(rng, (B, M, K), dtype, integers=True)
    b, b64 = values(rng, (B, K, N), dtype, integers=True)
    d = empty((B, M, N), dtype)
    kernels.gemm(gemm_operand(a, transpose[0] == "t"), gemm_operand(b, transpose[1] == "t"), d, dtype, algo=algo)
    np.testing.assert_array_equal(widen(d, dtype), widen(narrow(a64 @ b64, dtype), dtype))


@pytest.mark.parametrize(("algo", "dtype"), ROWS)
@pytest.mark.parametrize("transpose", TRANSPOSES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exact_on_integers(kernels, shape, transpose, algo, dtype):  # noqa: F811
    check_exact(kernels, shape, transpose, algo, dtype)


@pytest.mark.parametrize(("algo", "dtype"), ONE_OF_EACH)
@pytest.mark.parametrize("transpose", TRANSPOSES)
def test_large_tile(kernels, transpose, algo, dtype):  # noqa: F811
    """Enough 128 x 128 tiles for the large configuration, ragged, with a wrapped ring."""
    check_exact(kernels, (100, 72, 72, 16) if "split" not in algo else (100, 72, 72, 48), transpose, algo, dtype)
