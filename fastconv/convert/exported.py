"""Capturing through torch.export, where fx cannot follow the code: slower to make, and for one set of shapes."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import types
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from fastconv.convert.capture import Captured, CaptureError, capturing, first_line, refuse_hooks_inside
from fastconv.convert.state import KeptError, Trial, without_state


def capture_exported(root: nn.Module, leaves: list[Any], spec: pytree.TreeSpec) -> Captured:
    """The ATen graph of `root(*args, **kwargs)`; its parameters keep the names that they have in `root`.

    Raises:
        CaptureError: torch.export refuses too, or there are hooks.
        KeptError: the call depends on those before.
    """
    refuse_hooks_inside(root)
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    modules: list[Any] = []

    def trace(trial: Trial) -> fx.Graph:
        _look_after_forward(trial)
        modules.append(torch.export.export(trial.root, tuple(args), dict(kwargs)).module())
        return modules[-1].graph

    try:
        with capturing, torch.no_grad(), warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            graph: Any = without_state(root, trace)[0]
    except KeptError:
        raise
    except Exception as error:
        raise CaptureError(first_line(error)) from error
    module = modules[0]
    graph.owning_module = None  # its get_attr nodes are about to name attributes of the shell instead
    output_spec = graph._codegen.pytree_info.out_spec
    graph.set_codegen(CodeGen())
    arguments = iter(leaves)
    for node in list(graph.nodes):
        # The values that export keeps at each node are fake tensors of these very shapes.
        node.meta = {key: value for key, value in node.meta.items() if key == "nn_module_stack"}
        if node.op == "placeholder" and not isinstance(next(arguments), Tensor):
            graph.erase_node(node)
        elif node.op == "call_module":
            graph.erase_node(node)  # the guards: programs are looked up by shapes
        elif node.op == "get_attr":
            _name_in(root, module, node)
    return Captured(graph, root, output_spec, {})


def _look_after_forward(trial: Trial) -> None:
    """Afterwards is too late: export gives all modules the attributes back that they had."""
    plain = type(trial.root).forward

    @functools.wraps(plain)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return plain(self, *args, **kwargs)
        finally:
            trial.look()

    trial.root.__dict__["forward"] = types.MethodType(forward, trial.root)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Export prints and logs the graph as far as it got, where it refuses: its error says enough."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _name_in(root: nn.Module, module: Any, node: Any) -> None:
    """Keeps a parameter's name; a constant that export made becomes an attribute of the shell."""
    path, _, name = str(node.target).rpartition(".")
    value = getattr(module.get_submodule(path), name)
    try:
        known = getattr(root.get_submodule(path), name, None)
    except AttributeError:
        known = None
    if known is not value:
        node.target = f"_tensor_constant_exported_{id(value)}"
        root.__dict__[node.target] = value
