"""Capturing a model's forward as a graph: with open shapes where the code allows it, for given shapes otherwise."""

from __future__ import annotations

import math
import operator
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from fastconv.convert.state import CaptureError, KeptError, Trial, without_state
from fastconv.nn.weights import runs_forward_hooks

Forward = Callable[..., Any]
# fx and torch.export change torch while they run: one capture at a time.
capturing = threading.RLock()
# What torch keeps hooks in, by id of their handle.
HOOK_TABLES = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
               "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks")  # fmt: skip


@dataclass
class Captured:
    """A graph whose placeholders are the tensors among the call's arguments, in pytree order."""

    graph: fx.Graph
    root: nn.Module
    output_spec: pytree.TreeSpec
    opaque: dict[str, str]


def shell(model: nn.Module) -> nn.Module:
    """The same tree of modules in evaluation mode, around the very same dictionaries of parameters and buffers.

    Captures and eager parts use it instead of the model, whose flags, children and hooks thereby stay untouched (a
    forward may register some, as transformers' do), while a new tensor in the model is seen here too. Modules shared
    in the model are shared here. Hooks that refer to a module of the model refer to its twin. Lists and dictionaries
    are the model's own: what runs as it is fills them as the model would, and a capture works on copies.
    """
    twins: dict[int, nn.Module] = {}
    outermost = _twin(model, twins)
    for twin in twins.values():
        for name in HOOK_TABLES:
            table: Any = twin.__dict__[name]
            for key, hook in table.items():
                table[key] = _about_twins(hook, twins)
    return outermost


def _about_twins(hook: Any, twins: dict[int, nn.Module]) -> Any:
    """A bound method of a module, or a function that has one in its closure, with the twin in its place."""
    if isinstance(hook, types.MethodType) and id(hook.__self__) in twins:
        return types.MethodType(hook.__func__, twins[id(hook.__self__)])
    if isinstance(hook, types.FunctionType) and hook.__closure__:
        try:
            held = [cell.cell_contents for cell in hook.__closure__]
        except ValueError:  # an empty cell
            return hook
        if any(id(value) in twins for value in held):
            cells = tuple(types.CellType(twins.get(id(value), value)) for value in held)
            return types.FunctionType(hook.__code__, hook.__globals__, hook.__name__, hook.__defaults__, cells)
    return hook


def _twin(model: nn.Module, twins: dict[int, nn.Module]) -> nn.Module:
    if id(model) not in twins:
        if isinstance(model, torch.jit.ScriptModule):
            return model
        # Not copy.copy: it goes through __getstate__, which parametrized modules forbid.
        twin = twins[id(model)] = object.__new__(type(model))
        twin.__dict__.update(model.__dict__)
        twin.__dict__["training"] = False
        for name in HOOK_TABLES:
            twin.__dict__[name] = model.__dict__[name].copy()
        twin.__dict__["_modules"] = {
            name: None if child is None else _twin(child, twins) for name, child in model._modules.items()
        }
    return twins[id(model)]


_INPLACE = {
    "__iadd__": operator.iadd,
    "__isub__": operator.isub,
    "__imul__": operator.imul,
    "__itruediv__": operator.itruediv,
}
_SCALAR_METHODS = {"size", "dim", "numel", "nelement", "stride", "item", "element_size", "ndimension"}


def is_scalar(node: Any) -> bool:
    """Whether a value is a number or a shape and not a tensor, judged by how it was made."""
    if not isinstance(node, fx.Node):
        return not isinstance(node, Tensor)
    if node.op == "placeholder":
        return bool(node.meta.get("scalar"))
    if node.op == "call_method":
        return node.target in _SCALAR_METHODS
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device")
    arithmetic = getattr(node.target, "__module__", None) in ("_operator", "math", "builtins")
    return arithmetic and all(is_scalar(value) for value in node.all_input_nodes)


class RecordingProxy(fx.Proxy):
    """Records `x += y` as what it is. fx makes it `x = x + y`, which loses the write that other names of x see."""

    def __setitem__(self, key: Any, value: Any) -> None:
        # A node and no proxy: an assignment has no value, whatever its arguments are known to be.
        arguments: Any = self.tracer.create_arg((self, key, value))
        self.tracer.create_node("call_function", operator.setitem, arguments, {})


def _record_inplace(function: Any) -> Any:
    def method(self: RecordingProxy, other: Any) -> Any:
        if is_scalar(self.node):
            return getattr(operator, function.__name__[1:])(self, other)
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


for _name, _function in _INPLACE.items():
    setattr(RecordingProxy, _name, _record_inplace(_function))


class Tracer(fx.Tracer):
    """fx's tracer that keeps a module it cannot trace as one opaque node, and goes on around it."""

    def __init__(self, forward: Forward, template: list[Any], spec: pytree.TreeSpec) -> None:
        super().__init__(autowrap_modules=(math,), param_shapes_constant=True)
        self.proxy_buffer_attributes = True
        self.opaque: dict[str, str] = {}
        self.output_spec: pytree.TreeSpec | None = None
        self._forward, self._template, self._spec = forward, template, spec
        self._names: dict[int, str] = {}
        self._thread = threading.get_ident()

    def is_elsewhere(self) -> bool:
        """Whether another thread is asking: fx patches nn.Module for all of them while one of them traces."""
        return threading.get_ident() != self._thread

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return RecordingProxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            return bool(m._forward_hooks or m._forward_pre_hooks)
        return (
            m.__module__.startswith(("torch.nn.", "fastconv.nn."))
            or parametrize.is_parametrized(m)
            or bool(m._forward_hooks or m._forward_pre_hooks)
        )

    def call_module(self, m: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.is_elsewhere():
            return forward(*args, **kwargs)
        last = next(iter(reversed(self.graph.nodes)), None)
        stack = self.module_stack.copy()
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:
            path = self.path_of_module(m)
            for node in reversed(self.graph.nodes):
                if node is last:
                    break
                self.graph.erase_node(node)
            self.module_stack = stack
            self.opaque[path] = f"its forward cannot be captured: {first_line(error)}"
            return self.create_proxy("call_module", path, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if self.is_elsewhere():
            return attr_val
        # fx searches all parameters at every access and shares one node, which a rolled-back module may have erased.
        if isinstance(attr_val, Tensor):
            name = self._names.get(id(attr_val))
            if name is not None:
                return self._tensor_proxy(name, attr_val)
        return attr_val

    def _tensor_proxy(self, name: str, tensor: Tensor) -> Any:
        if isinstance(tensor, nn.Parameter):
            return self.create_proxy(
                "get_attr",
                name,
                (),
                {},
                proxy_factory_fn=lambda node: fx.proxy.ParameterProxy(self, node, name, tensor),
            )
        return self.create_proxy("get_attr", name, (), {})

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        for name, tensor in (*self.root.named_parameters(), *self.root.named_buffers()):
            self._names.setdefault(id(tensor), name)
        proxies: list[Any] = []
        leaves = list(self._template)
        for index, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                leaves[index] = self._input_proxy(f"input_{len(proxies)}", leaf)
                proxies.append(leaves[index])
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)

        def run(root: nn.Module, *_: Any) -> tuple[Any, ...]:
            outputs, self.output_spec = pytree.tree_flatten(self._forward(root, *args, **kwargs))
            return tuple(outputs)

        return run, [self.root, *proxies]

    def _input_proxy(self, name: str, example: Tensor) -> Any:
        return self.create_proxy("placeholder", name, (), {})


def first_line(error: BaseException) -> str:
    """What went wrong, in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def refuse_hooks_inside(root: nn.Module) -> None:
    """A hook may hand a value to code of the forward around it, which no graph would show (transformers collects
    hidden states that way): only what has no hooks inside is captured as a whole.

    Raises:
        CaptureError: a module below `root` has forward hooks.
    """
    for path, module in root.named_modules():
        if module is not root and runs_forward_hooks(module):
            raise CaptureError(f"hooks are registered on {path}, whose values the code around it may use")


def capture(root: nn.Module, leaves: list[Any], spec: pytree.TreeSpec, *, given_shapes: bool) -> Captured:
    """The graph of `root(*args, **kwargs)` where the flattened arguments are `leaves`.

    Tensors among the leaves become placeholders; everything else is taken as a constant of this capture. With
    `given_shapes` the code sees the shapes of the tensors, and the graph holds for those shapes only.

    Raises:
        CaptureError: control flow that depends on data, or Python that cannot be followed.
        KeptError: the call depends on those before.
    """
    from fastconv.convert.shaped import ShapedTracer

    refuse_hooks_inside(root)
    tracers: list[Tracer] = []

    def trace(trial: Trial) -> fx.Graph:
        tracer = (ShapedTracer if given_shapes else Tracer)(type(root).forward, leaves, spec)
        tracers.append(tracer)
        graph = tracer.trace(trial.root)
        refuse_hooks_inside(trial.root)  # again: the forward itself may have registered them
        return graph

    try:
        with capturing, torch.no_grad():
            graph, twin = without_state(root, trace)
            for name in {str(node.target) for node in graph.nodes if node.op == "get_attr"} & vars(twin).keys():
                root.__dict__.setdefault(name, vars(twin)[name])  # fx makes constants attributes of what it traces
    except KeptError:
        raise
    except Exception as error:
        raise CaptureError(first_line(error)) from error
    output_spec = tracers[0].output_spec
    assert output_spec is not None
    return Captured(graph, root, output_spec, tracers[0].opaque)
