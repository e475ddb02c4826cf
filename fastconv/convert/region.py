"""A part of a model that is captured as a whole: its programs, one for each form of call, and the way without one."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fastconv import ops
from fastconv.convert.capture import CaptureError, capture
from fastconv.convert.exported import capture_exported
from fastconv.convert.lower import WeightStore, lower
from fastconv.convert.program import Program
from fastconv.convert.state import KeptError
from fastconv.nn.weights import has_hooks

# Programs that hold for one set of shapes only; each is a few hundred small Python objects.
_MAX_SHAPES = 16


class Region:
    """Stands in for the forward of one module of the shell.

    A graph with open shapes serves every size. Where the code looks at shapes (padding computed from `x.shape`, a
    branch on it), a graph is captured for each set of shapes at its first call. Where the forward cannot be followed
    at all it runs as it is, and its children are regions of their own.
    """

    def __init__(
        self, module: nn.Module, dtype: torch.dtype | None, drop_zero_channels: bool = True, *, outermost: bool
    ) -> None:
        self.module = module
        self.why: str | None = None  # why the module as a whole runs unchanged
        self.children: dict[str, Region] = {}
        self.last: Program | None = None
        self.may_export = False  # torch.export takes seconds: only for whom example inputs were given
        self._forward = type(module).forward
        self._is_patched = "forward" in module.__dict__
        self._outermost = outermost
        self._keeps = False  # what decides its next call: torch.export would only not see it
        self.store = WeightStore(dtype, drop_zero_channels)
        self._by_count: dict[int, Program] = {}
        self._open: dict[Any, Program | None] = {}
        self._undropped: dict[Any, Program | None] = {}  # for images without a batch
        self._shaped: OrderedDict[Any, Program | None] = OrderedDict()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # A transform of torch.func may differentiate by the weights, which folded ones have no part in.
        if torch.compiler.is_compiling() or ops.transforming():
            return self.unchanged(*args, **kwargs)
        # The whole overhead of the usual call: tensors only, shapes open.
        if not kwargs and all(type(argument) is Tensor for argument in args):
            program = self._by_count.get(len(args))
            if program is not None and not (args and args[0].is_meta) and program.takes(args):
                self.last = program
                return program(args)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if any(isinstance(leaf, fx.Proxy) or (isinstance(leaf, Tensor) and leaf.is_meta) for leaf in leaves):
            return self._forward(self.module, *args, **kwargs)  # an outer region is being captured
        program = None if self._is_patched else self.program(leaves, spec)
        if program is None:
            return self.unchanged(*args, **kwargs)
        self.last = program
        return program([leaf for leaf in leaves if isinstance(leaf, Tensor)])

    def unchanged(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward, in evaluation mode."""
        # Of the outermost module nobody else runs the hooks.
        return self.module(*args, **kwargs) if self._outermost else self._forward(self.module, *args, **kwargs)

    def prepare_default_call(self) -> None:
        """Captures the call with one tensor for each parameter that has no default, if shapes may stay open."""
        parameters = list(inspect.signature(self._forward).parameters.values())[1:]
        needed = [p for p in parameters if p.default is p.empty]
        if not needed or any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.KEYWORD_ONLY) for p in needed):
            return
        leaves, spec = pytree.tree_flatten((tuple(torch.empty(0) for _ in needed), {}))
        self._open_program(leaves, spec)

    def only_program(self) -> Program | None:
        """The program of a region that has not been called, where it is known what it will be."""
        programs = [program for program in self._open.values() if program is not None]
        return programs[0] if len(programs) == 1 else None

    def programs(self) -> list[Program]:
        made = (*self._open.values(), *self._undropped.values(), *self._shaped.values())
        return [program for program in made if program is not None]

    def program(self, leaves: list[Any], spec: pytree.TreeSpec) -> Program | None:
        """The program for these arguments, captured now if there is none yet; None where the module runs unchanged."""
        key = _form(leaves, spec)
        if key is None:
            self.why = "it is called with arguments that cannot be compared"
            self._install_in(self.module)
            return None
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        program = self._open_program(leaves, spec)
        if program is not None and not program.takes(tensors):
            if key not in self._undropped:
                self._undropped[key] = self._capture(leaves, spec, given_shapes=False, may_drop=False)
            program = self._undropped[key]
        if program is not None and not program.opaque:
            return program
        shapes = (key, tuple((x.shape, x.dtype, x.device) for x in tensors))
        if shapes not in self._shaped:
            self._shaped[shapes] = self._capture_shaped(leaves, spec, program)
            if len(self._shaped) > _MAX_SHAPES:
                self._shaped.popitem(last=False)
        else:
            self._shaped.move_to_end(shapes)
        chosen = self._shaped[shapes] or program
        if chosen is None:
            self._install_in(self.module)
        else:
            self._install_opaque(chosen)
        return chosen

    def _open_program(self, leaves: list[Any], spec: pytree.TreeSpec) -> Program | None:
        key = _form(leaves, spec)
        if key not in self._open:
            program = self._capture(leaves, spec, given_shapes=False)
            self._open[key] = program
            args, kwargs = pytree.tree_unflatten(leaves, spec)
            simple = not kwargs and all(isinstance(argument, Tensor) for argument in args)
            if program is not None and not program.opaque and simple:
                self._by_count[len(args)] = program
        return self._open[key]

    def _capture_shaped(self, leaves: list[Any], spec: pytree.TreeSpec, best: Program | None) -> Program | None:
        batched = all(x.dim() != 3 for x in leaves if isinstance(x, Tensor))  # as Program.takes
        program = self._capture(leaves, spec, given_shapes=True, may_drop=batched)
        if program is None and best is None and self.may_export and not self._is_patched and not self._keeps:
            program = self._export(leaves, spec, may_drop=batched)
        if program is None or (best is not None and len(program.opaque) >= len(best.opaque)):
            return None
        return program

    def _capture(
        self, leaves: list[Any], spec: pytree.TreeSpec, *, given_shapes: bool, may_drop: bool = True
    ) -> Program | None:
        if has_hooks(self.module) and self._outermost:
            self.why = "hooks are registered on it"
            return None
        if self._is_patched:
            self.why = "its forward was replaced on the object"
            return None
        try:
            captured = capture(self.module, leaves, spec, given_shapes=given_shapes)
            program = lower(captured, self.store, may_write_inputs=self._outermost, may_drop=may_drop)
        except CaptureError as error:
            self.why = str(error)
            self._keeps = self._keeps or isinstance(error, KeptError)
            return None
        self.why = None
        return program

    def _export(self, leaves: list[Any], spec: pytree.TreeSpec, *, may_drop: bool) -> Program | None:
        if has_hooks(self.module):
            return None
        try:
            captured = capture_exported(self.module, leaves, spec)
            program = lower(captured, self.store, may_write_inputs=self._outermost, may_drop=may_drop)
        except KeptError as error:
            self.why, self._keeps = str(error), True
            return None
        except CaptureError:
            return None  # `why` keeps fx's reason, which names the line of the model
        self.why = None
        return program

    def _install_opaque(self, program: Program) -> None:
        for path in program.opaque:
            self._install(path, self.module.get_submodule(path))

    def _install_in(self, module: nn.Module, prefix: str = "") -> None:
        for name, child in module.named_children():
            self._install(f"{prefix}{name}", child)

    def _install(self, path: str, module: nn.Module) -> None:
        if path in self.children or "forward" in module.__dict__:
            return
        if isinstance(module, torch.jit.ScriptModule):
            return
        if type(module).forward is nn.Module.forward or isinstance(module, nn.ModuleList | nn.ModuleDict):
            self._install_in(module, f"{path}.")
            return
        composite = type(module).__module__.startswith("torch.nn.") and next(module.children(), None) is not None
        if composite and not isinstance(module, nn.Sequential):
            return  # torch's own composites (attention, recurrent layers) read their children's weights
        region = Region(module, self.store.dtype, self.store.drop_zero_channels, outermost=False)
        region.store.share_graphs(self.store)
        self.children[path] = region
        # An attribute of the object wins over the class's forward; hooks, isinstance and attributes stay as they are.
        module.__dict__["forward"] = region


def _form(leaves: list[Any], spec: pytree.TreeSpec) -> Any:
    """What distinguishes calls that may take different ways through the code; None where that cannot be told."""
    constants = tuple(Tensor if isinstance(leaf, Tensor) else leaf for leaf in leaves)
    try:
        hash((constants, spec))
    except TypeError:
        return None
    # 1, 1.0 and True are equal as keys, but not to the code.
    return (spec, constants, tuple(type(leaf) if not isinstance(leaf, Tensor) else Tensor for leaf in leaves))
