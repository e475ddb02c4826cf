"""Matrix products and fully connected layers, from the definitions."""

import numpy as np
import numpy.typing as npt

from .activation import activation

Array = npt.NDArray[np.float64]


def _stored(a: npt.ArrayLike, transposed: bool) -> Array:
    """The matrix, or stack of matrices, that a product reads from memory transposed or not."""
    a = np.asarray(a, np.float64)
    return np.swapaxes(a, -1, -2) if transposed else a


@np.errstate(all="ignore")
def gemm(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    transpose_a: bool = False,
    transpose_b: bool = False,
    residual: npt.ArrayLike | None = None,
    act: str = "identity",
    act_param: float | None = None,
    alpha: npt.ArrayLike | None = None,
) -> Array:
    """y[m, n] = act(sum over k of op(a)[m, k] * op(b)[k, n] + bias[n] + residual[m, n]), for each matrix of a batch.

    a (M, K), or (K, M) with transpose_a; b (K, N), or (N, K) with transpose_b; either both with a leading batch B or
    neither. bias (N,); alpha (1,), (N,) or the output's shape.
    """
    y = _stored(a, transpose_a) @ _stored(b, transpose_b)
    if bias is not None:
        y = y + np.asarray(bias, np.float64)
    if residual is not None:
        y = y + np.asarray(residual, np.float64)
    return activation(y, act, act_param, alpha, channel_axis=-1)


@np.errstate(all="ignore")
def gemm_grad(
    dy: npt.ArrayLike, a: npt.ArrayLike, b: npt.ArrayLike, transpose_a: bool = False, transpose_b: bool = False
) -> tuple[Array, Array, Array]:
    """(da, db, dbias) of the product: d op(a) = dy @ op(b)^T and d op(b) = op(a)^T @ dy, turned as they are stored."""
    dy = np.asarray(dy, np.float64)
    da = dy @ np.swapaxes(_stored(b, transpose_b), -1, -2)
    db = np.swapaxes(_stored(a, transpose_a), -1, -2) @ dy
    dbias = dy.reshape(-1, dy.shape[-1]).sum(axis=0)
    return _stored(da, transpose_a).copy(), _stored(db, transpose_b).copy(), dbias


@np.errstate(all="ignore")
def linear(
    x: npt.ArrayLike,
    w: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    residual: npt.ArrayLike | None = None,
    act: str = "identity",
    act_param: float | None = None,
    alpha: npt.ArrayLike | None = None,
) -> Array:
    """y[..., k] = act(sum over c of x[..., c] * w[k, c] + bias[k] + residual[..., k]); w (K, C); C may be 0."""
    return gemm(x, w, bias, False, True, residual, act, act_param, alpha)


@np.errstate(all="ignore")
def linear_grad(dy: npt.ArrayLike, x: npt.ArrayLike, w: npt.ArrayLike) -> tuple[Array, Array, Array]:
    """(dx, dw, dbias): dx = dy @ w, dw = dy^T @ x and dbias = sum of dy, over all leading axes."""
    dy, x, w = np.asarray(dy, np.float64), np.asarray(x, np.float64), np.asarray(w, np.float64)
    rows = dy.reshape(-1, w.shape[0])
    return dy @ w, rows.T @ x.reshape(len(rows), w.shape[1]), rows.sum(axis=0)
