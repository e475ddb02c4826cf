"""The operators of blocks (inverted_residual, depthwise_pointwise, conv_max_pool): fakes, checks, and their parts.

`PARTS[name]` computes a block from the operators of its stages: what backends without a kernel for the whole run.
Blocks have no derivative of their own; fastconv.functional runs the parts where autograd records.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from torch import Tensor

from .demands import algorithm, dims, fused, like

Ints = Sequence[int]
_PLAIN: tuple[Any, ...] = ([1, 1], [0, 0, 0, 0], [1, 1], 1)  # stride, padding, dilation, groups of a 1x1 filter
NAMES = ("inverted_residual", "depthwise_pointwise", "conv_max_pool")
# Where the schemas have `algo`; `backend` follows, then the packed weights.
_ALGO = {"inverted_residual": 20, "depthwise_pointwise": 15, "conv_max_pool": 15}


def _conv_size(x: Ints, weight: Tensor, stride: Ints, padding: Ints, dilation: Ints, *_: Any) -> list[int]:
    from .fakes import _conv_shape

    return _conv_shape(x, weight.shape, stride, padding, dilation)


# ---- what they return


def _inverted_residual(*a: Any) -> Tensor:
    from .fakes import _empty

    hidden = _conv_size(a[0].shape, a[1], *_PLAIN)
    size = _conv_size(_conv_size(hidden, a[6], *a[8:11]), a[14], *_PLAIN)
    return _empty(size, a[0], a[0], a[1], a[6], a[14])


def _depthwise_pointwise(*a: Any) -> Tensor:
    from .fakes import _empty

    return _empty(_conv_size(_conv_size(a[0].shape, a[1], *a[3:6]), a[9], *_PLAIN), a[0], a[0], a[1], a[9])


def _conv_max_pool(*a: Any) -> Tensor:
    from .fakes import FAKES, _empty

    x, weight, window = a[0], a[1], a[10:15]
    y = FAKES["max_pool2d"](like(x, _conv_size(x.shape, weight, *a[3:6])), *window, False, "")[0]
    return _empty(y.shape, x, x, weight)


FAKES: dict[str, Callable[..., Tensor]] = {
    "inverted_residual": _inverted_residual,
    "depthwise_pointwise": _depthwise_pointwise,
    "conv_max_pool": _conv_max_pool,
}

# ---- what they demand


def _stage(
    op: str, x: Tensor, weight: Tensor, bias: Any, geometry: Sequence[Any], act: str, alpha: Any, residual: Any = None
) -> Tensor:
    """Checks one convolution; returns something of its result's shape."""
    from fastconv.functional import conv_checks

    stride, padding, dilation, groups = geometry
    epilogue = fused(None, None, residual, act, alpha)
    conv_checks.conv2d(op, x, weight, bias, stride, padding, dilation, groups, epilogue, (1, 1))
    for name, values, count in (("stride", stride, 2), ("padding", padding, 4), ("dilation", dilation, 2)):
        dims(op, name, values, count)
    return like(x, _conv_size(x.shape, weight, stride, padding, dilation))


def _check_inverted_residual(*a: Any) -> None:
    op = "inverted_residual"
    dims(op, "x", a[0])
    hidden = _stage(op, a[0], a[1], a[2], _PLAIN, a[3], a[5])
    filtered = _stage(op, hidden, a[6], a[7], (*a[8:11], hidden.shape[1]), a[11], a[13])
    _stage(op, filtered, a[14], a[15], _PLAIN, a[17], a[19], a[16])
    algorithm(op, a[20], a[21], a[0])


def _check_depthwise_pointwise(*a: Any) -> None:
    op = "depthwise_pointwise"
    dims(op, "x", a[0])
    filtered = _stage(op, a[0], a[1], a[2], (*a[3:6], a[0].shape[1]), a[6], a[8])
    _stage(op, filtered, a[9], a[10], _PLAIN, a[12], a[14], a[11])
    algorithm(op, a[15], a[16], a[0])


def _check_conv_max_pool(*a: Any) -> None:
    from fastconv.functional import pool_checks

    op = "conv_max_pool"
    dims(op, "x", a[0])
    y = _stage(op, a[0], a[1], a[2], a[3:7], a[7], a[9])
    pool_checks.max_pool2d(y, *a[10:15])
    algorithm(op, a[15], a[16], a[0])


CHECKS: dict[str, Callable[..., None]] = {
    "inverted_residual": _check_inverted_residual,
    "depthwise_pointwise": _check_depthwise_pointwise,
    "conv_max_pool": _check_conv_max_pool,
}

# ---- their parts


def _parts_of_pair(operators: Any, a: tuple[Any, ...], backend: str) -> Tensor:
    x, weight, bias, stride, padding, dilation, act, param, alpha, *last = a
    last_weight, last_bias, residual, *finish = last
    geometry = (stride, padding, dilation, x.shape[1])
    y = operators.conv2d(x, weight, bias, *geometry, None, None, None, act, param, alpha, "", backend, None)
    return operators.conv2d(y, last_weight, last_bias, *_PLAIN, None, None, residual, *finish, "", backend, None)


def _parts_of_three(operators: Any, a: tuple[Any, ...], backend: str) -> Tensor:
    x, weight, bias, act, param, alpha, *rest = a
    y = operators.conv2d(x, weight, bias, *_PLAIN, None, None, None, act, param, alpha, "", backend, None)
    return _parts_of_pair(operators, (y, *rest), backend)


def _parts_of_pool(operators: Any, a: tuple[Any, ...], backend: str) -> Tensor:
    x, weight, bias, stride, padding, dilation, groups, act, param, alpha, *window = a
    geometry = (stride, padding, dilation, groups)
    y = operators.conv2d(x, weight, bias, *geometry, None, None, None, act, param, alpha, "", backend, None)
    return operators.max_pool2d(y, *window, False, backend)[0]


_PARTS = {
    "inverted_residual": _parts_of_three,
    "depthwise_pointwise": _parts_of_pair,
    "conv_max_pool": _parts_of_pool,
}


def parts(name: str, operators: Any, arguments: tuple[Any, ...], backend: str) -> Tensor:
    """The block by the operators of its stages, on `backend`."""
    return _PARTS[name](operators, arguments[: _ALGO[name]], backend)


# ---- derivatives: refused


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any) -> NoReturn:
        raise NotImplementedError(
            f"{name}: the operator has no derivative; fastconv.functional.{name} runs the block's parts where autograd "
            "records"
        )

    return refuse


RULES = {name: (lambda ctx, arguments, output: None, _refuse(name)) for name in NAMES}
JVPS = {name: _refuse(name) for name in NAMES}
