"""Hand-written convolution kernels for PyTorch: fused, differentiable, verified against a pure-Python reference.

`fastconv.functional` has the functions, `fastconv.nn` the layers; `replace` and `convert` take whole networks;
`algorithms`, `explain` and `build_info` say what runs and why; `backend` forces where it runs.
"""

__version__ = "0.1.0"

from importlib.util import find_spec

import torch  # noqa: F401  its libraries must be loaded before ours

try:
    from . import _C  # noqa: F401  registers the operators
except ImportError:
    if find_spec("fastconv._C") is not None:
        raise  # it is there, and does not load: its own words
    raise ImportError(
        "fastconv: the compiled extension is missing. Install the package (pip install --no-build-isolation .), or "
        "build it in place: python setup.py build_ext --inplace"
    ) from None

from typing import Any

from . import backends, calibration, compiler, functional, introspection, nn, tuning
from .backends import backend
from .convert import convert, replace
from .functional.choice import allow_winograd
from .introspection import algorithms, build_info
from .tuning import use_tuning

backends.check_process_default()
calibration.load()
tuning.load_from_environment()
compiler.register()

__all__ = [
    "algorithms",
    "allow_winograd",
    "autotune",
    "backend",
    "backends",
    "build_info",
    "calibration",
    "compiler",
    "convert",
    "explain",
    "functional",
    "introspection",
    "nn",
    "profile",
    "replace",
    "tuning",
    "use_tuning",
]


def explain(what: Any, *args: Any, **problem: Any) -> Any:
    """What runs and why: `explain(converted)` by layers, `explain("conv2d", "mb1ic64ih56oc64kh3ph1")` for one problem.

    Args:
        what: a module that `convert` or `replace` made, or an operator's name: see `fastconv.introspection.explain`.
    """
    calibration.ensure()
    if isinstance(what, str):
        return introspection.explain(what, *args, **problem)
    from .convert.explain import explain as explain_module

    return explain_module(what, *args, **problem)


def autotune(*args: Any, **kwargs: Any) -> Any:
    """Times the algorithms that serve a problem, or a network's problems: see `fastconv.autotuner.autotune`."""
    from .autotuner import autotune as tune

    return tune(*args, **kwargs)


def profile(*args: Any, **kwargs: Any) -> Any:
    """Per-layer shapes, work, roofline bound and measured time of a model: see `fastconv.profiler.profile`."""
    from .profiler import profile as profile_model

    return profile_model(*args, **kwargs)
