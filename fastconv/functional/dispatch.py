"""What every function does around its operator: backend, autocast, autograd or not, and errors in torch's words."""

import re
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastconv import backends, ops

# Below autograd nothing is recorded and no Python kernel of register_autograd runs: a call costs its dispatch only.
below_autograd = torch._C._AutoDispatchBelowAutograd
is_compiling = torch.compiler.is_compiling
transforms_active = torch._C._are_functorch_transforms_active


# Graphs keep the backend that they were captured under.
_forced_while_compiling = torch.compiler.assume_constant_result(backends.forced)
_cuda_goes_to_while_compiling = torch.compiler.assume_constant_result(backends.cuda_goes_to)


def forced_backend(x: Tensor) -> str:
    """The `backend` argument of an operator on x: "" unless one is forced, or this build leaves CUDA to Triton."""
    if is_compiling():
        forced = _forced_while_compiling()
        return _cuda_goes_to_while_compiling() or forced if x.is_cuda else forced
    return backends.cuda_goes_to() or backends.forced() if x.is_cuda else backends.forced()


def checks_first() -> bool:
    """Whether arguments are checked before a call and not after its refusal: while a graph is captured, which would
    otherwise show the refusal of a fake, wrapped by the compiler."""
    return is_compiling()


operators_of = ops.operators_of


def call(operator: Any, *arguments: Any) -> Any:
    """An operator whose call autograd need not record."""
    if is_compiling():
        return operator(*arguments)
    with below_autograd():
        return operator(*arguments)


def recorded(operator: Any, *arguments: Any) -> Any:
    """An operator whose call autograd records."""
    return operator(*arguments) if is_compiling() else ops.recorder(operator)(*arguments)


def records_in_place(act: str, param: float) -> bool:
    """Whether autograd can record an activation that overwrites its argument. Captured graphs have none: there the
    operator writes anew, and the compiler finds out that the memory can be shared."""
    if is_compiling() or ops.transforming():
        return False
    return ops.derives_from_result(act, param)


def records(*tensors: Tensor | None) -> bool:
    """Whether autograd, or a transform of torch.func, must record a call on these."""
    if forward_ad._current_level >= 0 or transforms_active():
        return True  # who of them has a tangent, or is watched by which transform, is theirs to know
    if not torch.is_grad_enabled():
        return False
    for t in tensors:  # noqa: SIM110  a generator costs half a microsecond here
        if t is not None and t.requires_grad:
            return True
    return False


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
    if (wrong := _WRONG_TYPE.search(str(error))) is not None:
        wanted, name, got = wrong.groups()
        raise TypeError(f"{op}(): argument '{name}' must be {wanted}, not {got}") from None
    if "aoti_torch_empty" in str(error):
        raise RuntimeError(f"{op}: there is not enough memory for the result") from None
    raise error


# torch's dispatcher, of an argument that does not fit the operator's schema.
_WRONG_TYPE = re.compile(r"Expected a value of type '([^']*)' for argument '(\w+)' but instead found type '(\w+)'")


def _device(op: str, x: Tensor) -> None:
    if x.device.type in ("cpu", "meta") or (x.is_cuda and backends.cuda_goes_to()):
        return
    reason = backends.why_unavailable("cuda") if x.is_cuda else "no kernel for it"
    if reason is not None:
        raise NotImplementedError(f"{op}: no backend serves device {x.device.type}: {reason}")
