"""torch.compile(model, backend="fastconv"): Dynamo's graphs on fastconv's kernels, for inference and training."""

from fastconv.compiler.backend import fastconv_backend, register

__all__ = ["fastconv_backend", "register"]
