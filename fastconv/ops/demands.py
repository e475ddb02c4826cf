"""What the checks of the operators' arguments have in common: shapes, dtypes, names of algorithms."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

Ints = Sequence[int]


def require(condition: Any, message: Callable[[], str]) -> None:
    if not condition:
        raise ValueError(message())


def like(t: Tensor, size: Ints) -> Tensor:
    """A tensor of another size that costs nothing, for checks that look at shapes, dtypes and devices only."""
    return t.new_empty(1).expand(list(size))


def shape(op: str, name: str, t: Tensor, expected: Ints) -> None:
    require(
        tuple(t.shape) == tuple(expected),
        lambda: f"{op}: expected {name} to have shape {list(expected)}, but got {list(t.shape)}",
    )


def dims(op: str, name: str, t: Tensor | Ints, dims: int = 4) -> None:
    count = t.dim() if isinstance(t, Tensor) else len(t)
    require(count == dims, lambda: f"{op}: expected {name} to have {dims} dimensions, but got {count}")


def same(op: str, name: str, t: Tensor, like: Tensor) -> None:
    shape(op, name, t, like.shape)
    require(t.dtype == like.dtype, lambda: f"{op}: expected {name} to be {like.dtype}, but got {t.dtype}")


def algorithm(op: str, algo: str, backend: str, x: Tensor) -> None:
    from fastconv import introspection

    if not algo:
        return
    here = introspection.algorithm_names(op, backend or ("cuda" if x.is_cuda else "cpu"))
    # The reference has one way; it takes the names of those that it is compared with.
    known = here or sorted({name for b in ("cpu", "cuda_emulated") for name in introspection.algorithm_names(op, b)})
    require(algo in known, lambda: f"{op}: expected algo to be one of {', '.join(known)}, but got '{algo}'")


def fused(scale: Any, shift: Any, residual: Any, act: str, alpha: Any) -> dict[str, Any]:
    # Only PReLU looks at alpha.
    alpha = alpha if act == "prelu" else None
    return {"scale": scale, "shift": shift, "residual": residual, "act": act, "act_param": alpha}
