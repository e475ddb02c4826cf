"""Which kernels serve a call: the tensor's device decides, unless a backend is forced.

    with fastconv.backend("cuda_emulated"):
        y = fastconv.functional.conv2d(x, w)

FASTCONV_BACKEND does the same for a process. The forced backend is a property of the running thread or task.
"""

import os
from contextvars import ContextVar, Token
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
    """The forced backend's name, or "" where the tensor's device decides."""
    return _forced.get() or _process_default


def resolve(device: torch.device) -> str:
    """The backend that serves tensors of `device` now."""
    return forced() or ("cuda" if device.type == "cuda" else "cpu")


def _extension_has_cuda() -> str | None:
    from . import introspection

    info = introspection.build_info()
    if info["cuda"]:
        return None
    return f"this build has no CUDA kernels: {info['left_out'].get('cuda', 'unknown reason')}"


def why_unavailable(name: str) -> str | None:
    """None where the backend can run, else one line that says why not."""
    _checked(name, "fastconv.backends")
    if name.startswith("triton"):
        return "the Triton kernels are not there yet"
    if name == "cuda":
        missing = _extension_has_cuda()
        return missing or (None if torch.cuda.is_available() else "torch sees no CUDA device")
    if name == "cuda_emulated":
        from . import introspection

        return introspection.why_not_emulated()
    return None
