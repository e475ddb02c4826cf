"""What every function does around its operator: backend, autocast, autograd or not, and errors in torch's words."""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastconv import backends, ops
from fastconv.ops import Operators

# Below autograd nothing is recorded and no Python kernel of register_autograd runs: a call costs its dispatch only.
below_autograd = torch._C._AutoDispatchBelowAutograd
is_compiling = torch.compiler.is_compiling


@torch.compiler.assume_constant_result
def _forced_while_compiling() -> str:
    # A graph keeps the backend it was captured under.
    return backends.forced()


def forced_backend() -> str:
    """The `backend` argument of an operator: "" unless one is forced."""
    return _forced_while_compiling() if is_compiling() else backends.forced()


def checks_first() -> bool:
    """Whether arguments are checked before a call and not after its refusal: while a graph is captured, and on the
    reference, which refuses nothing by itself."""
    return is_compiling() or backends.forced() == "reference"


def operators_of(backend: str) -> Operators:
    return ops.reference if backend == "reference" else ops.native


def call(operator: Any, *arguments: Any) -> Any:
    """An operator whose call autograd need not record."""
    if is_compiling():
        return operator(*arguments)
    with below_autograd():
        return operator(*arguments)


def recorded(operator: Any, *arguments: Any) -> Any:
    """An operator whose call autograd records."""
    return operator(*arguments) if is_compiling() else ops.recorded(operator, *arguments)


def records(*tensors: Tensor | None) -> bool:
    """Whether autograd must record a call on these. Refuses forward-mode tangents, which it would silently drop."""
    if forward_ad._current_level >= 0:
        _refuse_tangents(tensors)
    if not torch.is_grad_enabled():
        return False
    for t in tensors:  # noqa: SIM110  a generator costs half a microsecond here
        if t is not None and t.requires_grad:
            return True
    return False


def _refuse_tangents(tensors: tuple[Tensor | None, ...]) -> None:
    if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise NotImplementedError(
            "fastconv: forward-mode differentiation is not supported; use reverse mode, or torch's own functions"
        )


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The lower precision that autocast asks for on x's device, or None outside autocast."""
    if not is_compiling() and not torch._C._is_any_autocast_enabled():
        return None
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def lower(dtype: torch.dtype, *tensors: Tensor | None) -> tuple[Any, ...]:
    """The tensors as autocast casts them: floating point of at most 32 bits, everything else untouched."""
    return tuple(
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype is not torch.float64 else t for t in tensors
    )


def refused(error: Exception, op: str, check: Callable[..., None], *arguments: Any) -> NoReturn:
    """Raises what torch would have raised for these arguments; failing that, the operator's own error, translated."""
    try:
        check(*arguments)
        _device(op, arguments[0])
    except Exception as better:
        raise better from None
    if (refusal := ops.not_served(error)) is not None:
        raise refusal from None
    raise error


def _device(op: str, x: Tensor) -> None:
    if x.device.type in ("cpu", "meta"):
        return
    reason = backends.why_unavailable("cuda") if x.device.type == "cuda" else "no kernel for it"
    if reason is not None:
        raise NotImplementedError(f"{op}: no backend serves device {x.device.type}: {reason}")
