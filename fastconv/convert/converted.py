"""fastconv.convert: a model's inference with its layers fused, its weights made beforehand, its outputs the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastconv import calibration
from fastconv.convert.capture import capturing, shell
from fastconv.convert.memory import NetworkMemory, memory_of
from fastconv.convert.narrow import arithmetic_type
from fastconv.convert.region import Region
from fastconv.convert.steps import Stale
from fastconv.convert.watch import Structure


def convert(
    model: nn.Module,
    example_inputs: Tensor | tuple[Any, ...] | None = None,
    *,
    dtype: torch.dtype | None = None,
    drop_zero_channels: bool = True,
) -> ConvertedModule:
    """A module that computes what `model.eval()` computes, for inference, with fused kernels.

    Fused are convolution + BatchNorm + residual addition + activation, zero padding before and nearest upsampling
    before a convolution, linear + activation. What cannot be captured runs unchanged. `fastconv.explain(converted)`
    lists which kernel serves each layer, what is left to torch, and why.

    On a GPU the second call of a set of shapes captures the kernels as a CUDA graph, which later calls replay.

    Equivalent to ``model.eval()(*args)`` under ``torch.no_grad()``: same values to rounding, same structure and dtype
    and memory format of the outputs, at any batch and image size that the model takes.

    Args:
        model: any module. It is not touched: a model in training mode stays in it, while the result always behaves
            as in evaluation mode, `train()` or not.
        example_inputs: a tensor or the tuple of positional arguments. Not needed; with it the capture happens now
            instead of at the first call, also where it depends on shapes, and so do packing and planning: a network
            that consists of torch's layers and functions is run on these inputs.
        dtype: type for weights, for what layers hand to each other and for products, such as torch.bfloat16 (sums are
            float32). Inputs stay float32; outputs may be either. What is left to torch and has parameters keeps its
            own type. On a CPU whose instructions do not multiply bfloat16 (neither AMX nor a fast AVX512_BF16),
            torch.bfloat16 means float32, which is as fast there and rounds less; `explain` says so.
        drop_zero_channels: whether filters that pruning set to zero, and channels that no weight reads, are left out
            of the computation. Values are the same, with one difference: torch's product of a zero weight with NaN or
            an infinity is NaN, and what is left out makes no product.

    Returns:
        A module that shares the model's parameters. It notices when they change by identity or version: training
        steps, in-place edits, `load_state_dict`, `.to()`, a new Parameter. An edit through `.data` is recorded nowhere
        and goes unnoticed. Gradients flow to the inputs, not to the parameters. Hooks keep running; a
        forward around a module that has some runs unchanged, since its code may use what the hooks saw. Inputs are
        never written to, even where the model itself does so in place.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert: expected model to be a torch.nn.Module, but got {type(model).__name__}")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"convert: expected dtype to be a floating-point type, but got {dtype!r}")
    if isinstance(example_inputs, str | bytes | int | float):
        raise TypeError(f"convert: expected example_inputs to be a tensor or a tuple, but got {example_inputs!r}")
    if isinstance(model, ConvertedModule):
        model = model.source
    calibration.ensure()
    converted = ConvertedModule(model, dtype, drop_zero_channels)
    if example_inputs is not None:
        arguments = example_inputs if isinstance(example_inputs, tuple | list) else (example_inputs,)
        leaves, spec = pytree.tree_flatten((tuple(arguments), {}))
        converted.region.may_export = True
        program = converted.region.program(leaves, spec)
        if program is not None and program.may_run_early():
            program.prepare([leaf for leaf in leaves if isinstance(leaf, Tensor)])
            converted.region.last = program
    return converted


class ConvertedModule(nn.Module):
    """Made by `fastconv.convert`. Its only child is the model itself, so parameters and state_dict are the model's."""

    # Of its own: while another thread captures a model, fx has a wrapper in the place of nn.Module's.
    __call__ = nn.Module.__call__

    source: nn.Module
    region: Region
    _structure: Structure

    def __init__(self, source: nn.Module, dtype: torch.dtype | None, drop_zero_channels: bool = True) -> None:
        super().__init__()
        self.source = source
        self.dtype, self.drop_zero_channels = dtype, drop_zero_channels
        self.computed = arithmetic_type(dtype, source)
        self.training = False
        self._build()

    def _build(self) -> None:
        region = Region(shell(self.source), self.computed, self.drop_zero_channels, outermost=True)
        before = self.__dict__.get("region")
        region.may_export = before is not None and before.may_export
        # Past nn.Module's registration: the shell must not show up as a child.
        self.__dict__.update(region=region, _structure=Structure(self.source))
        region.prepare_default_call()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            # A compiler's graph would keep today's folded weights for good: it gets the model itself.
            return self.region.unchanged(*args, **kwargs)
        if not self._structure.unchanged():
            with capturing:
                if not self._structure.unchanged():  # no other thread was first
                    self._build()
        region = self.region
        try:
            return region(*args, **kwargs)
        except Stale:
            with capturing:
                if self.region is region:
                    self._build()
            return self.region(*args, **kwargs)

    def memory(self) -> NetworkMemory:
        """What the conversion holds beside the model's own tensors: packed weights and arenas, in bytes."""
        return memory_of(self.region)

    def train(self, mode: bool = True) -> ConvertedModule:
        """Does nothing: neither the conversion, which is for inference, nor the model it came from changes."""
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own, under the model's names."""
        return self.source.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Loads into the model, which shares its parameters with this module."""
        return self.source.load_state_dict(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("source", "_modules"):
                raise
            return getattr(super().__getattr__("source"), name)

    def __getstate__(self) -> dict[str, Any]:
        # Programs and folded weights are made from the model again: they belong to this process and these tensors.
        return {name: value for name, value in self.__dict__.items() if name not in ("region", "_structure")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._build()
