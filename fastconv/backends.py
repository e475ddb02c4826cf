"""Which kernels serve a call: the tensor's device decides, unless a backend is forced.

    with fastconv.backend("cuda_emulated"):
        y = fastconv.functional.conv2d(x, w)

FASTCONV_BACKEND does the same for a process. The forced backend is a property of the running thread or task.
"""

import importlib.util
import os
from contextvars import ContextVar, Token
from functools import cache
from types import TracebackType

import torch

BACKENDS = ("cpu", "cuda", "triton", "cuda_emulated", "triton_interpreted", "reference")
# Backends that run on CPU tensors and can therefore be forced for them.
_ON_CPU = ("cpu", "cuda_emulated", "triton_interpreted", "reference")


def _checked(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source}: expected one of {', '.join(BACKENDS)}, but got {name!r}")
    return name


_forced: ContextVar[str] = ContextVar("fastconv_backend", default="")
_process_default = os.environ.get("FASTCONV_BACKEND", "")
if _process_default:
    _checked(_process_default, "FASTCONV_BACKEND")


def check_process_default() -> None:
    """Refuses a FASTCONV_BACKEND that cannot run here."""
    if _process_default and (reason := why_unavailable(_process_default)) is not None:
        raise NotImplementedError(f"FASTCONV_BACKEND: {_process_default} is not available: {reason}")


class backend:
    """Forces a backend inside a `with` block.

    Args:
        name: one of cpu, cuda, triton, cuda_emulated, triton_interpreted, reference.

    Raises:
        ValueError: the name is not one of these.
        NotImplementedError: the backend cannot run here; the text says why.
    """

    def __init__(self, name: str) -> None:
        self.name = _checked(name, "fastconv.backend")
        self._tokens: list[Token[str]] = []

    def __enter__(self) -> "backend":
        reason = why_unavailable(self.name)
        if reason is not None:
            raise NotImplementedError(f"fastconv.backend: {self.name} is not available: {reason}")
        self._tokens.append(_forced.set(self.name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _forced.reset(self._tokens.pop())


def forced() -> str:
    """The forced backend's name, or "" where the tensor's device decides, as it also does where `cpu` is forced."""
    name = _forced.get() or _process_default
    return "" if name == "cpu" else name


def resolve(device: torch.device) -> str:
    """The backend that serves tensors of `device` now. What is forced is forced for CPU tensors, and for a GPU's only
    between its own two."""
    if device.type == "cuda":
        return cuda_goes_to() or ("reference" if forced() == "reference" else "cuda")
    return forced() or "cpu"


def cuda_goes_to() -> str:
    """ "triton" where CUDA tensors are Triton's: asked for, or this build has no CUDA kernels and Triton is there."""
    if forced() == "reference":
        return ""
    return "triton" if forced().startswith("triton") or _cuda_is_left_to_triton() else ""


@cache
def _cuda_is_left_to_triton() -> bool:
    return _extension_has_cuda() is not None and _why_no_triton() is None


def _why_no_triton() -> str | None:
    # Looked for, not imported: that takes a second, and most processes never need it.
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; pip install 'fastconv[triton]' brings it"
    return None


def _extension_has_cuda() -> str | None:
    from . import introspection

    info = introspection.build_info()
    if info["cuda"]:
        return None
    return f"this build has no CUDA kernels: {info['left_out'].get('cuda', 'unknown reason')}"


def why_unavailable(name: str) -> str | None:
    """None where the backend can run, else one line that says why not."""
    _checked(name, "fastconv.backends")
    if name == "triton_interpreted":
        return _why_no_triton()
    if name == "triton":
        return _why_no_triton() or (None if torch.cuda.is_available() else "torch sees no CUDA device")
    if name == "cuda":
        missing = _extension_has_cuda()
        return missing or (None if torch.cuda.is_available() else "torch sees no CUDA device")
    if name == "cuda_emulated":
        from . import introspection

        return introspection.why_not_emulated()
    return None
