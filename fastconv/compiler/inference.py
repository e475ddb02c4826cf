"""Dynamo's graphs for inference: the passes of fastconv.convert over a graph whose weights are arguments."""

from __future__ import annotations

import gc
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import _side_effectful_functions
from torch.utils import _pytree as pytree

from fastconv import introspection
from fastconv.compiler.own import unfuse
from fastconv.compiler.swap import serves, swap_function
from fastconv.convert.calls import arguments_of, operation_of
from fastconv.convert.capture import Captured, CaptureError
from fastconv.convert.ir import Context
from fastconv.convert.lower import WeightStore, lower
from fastconv.convert.passes.functions import weight_of
from fastconv.convert.passes.merge import serve_norms
from fastconv.convert.program import Program
from fastconv.functional import edits
from fastconv.nn.fold import Sources
from fastconv.nn.weights import COUNTER

# In the place of BatchNorm's count of batches, which is no input of a graph for inference: see _Counters.
_WATCHED = True
# Of one graph: every block of a network that is compiled block by block has its own.
_MAX_BINDINGS = 64


class Converted:
    """A graph with its layers fused, once for every set of weights that it is called with.

    Raises:
        CaptureError: the graph does more than compute its outputs.
    """

    def __init__(self, module: fx.GraphModule, examples: Sequence[Any]) -> None:
        self._module = module
        self._inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
        self._weights = [
            index
            for index, (node, example) in enumerate(zip(self._inputs, examples, strict=True))
            if _is_weight(node, example)
        ]
        self._rest = [index for index in range(len(self._inputs)) if index not in set(self._weights)]
        self._bindings: OrderedDict[tuple[int, ...], Binding] = OrderedDict()
        self._last: Binding | None = None
        _check(module)

    def __call__(self, arguments: tuple[Any, ...]) -> Any:
        binding = self._last
        if binding is None or not binding.current(arguments):
            binding = self._last = self._find(arguments)
        binding.program.store.read()
        return binding.program.outputs(arguments, [arguments[index] for index in self._rest])

    def bindings(self) -> list[Binding]:
        return list(self._bindings.values())

    def _find(self, arguments: tuple[Any, ...]) -> Binding:
        key = tuple(id(arguments[index]) for index in self._weights)
        binding = self._bindings.get(key)
        if binding is None or not binding.current(arguments):
            binding = self._bindings[key] = self._bind(key, arguments)
            if len(self._bindings) > _MAX_BINDINGS:
                self._bindings.popitem(last=False)
        self._bindings.move_to_end(key)
        return binding

    def _bind(self, key: tuple[int, ...], arguments: tuple[Any, ...]) -> Binding:
        own = weakref.ref(self)

        def forget(_: Any) -> None:
            if (converted := own()) is not None:
                converted._bindings.pop(key, None)
                converted._last = None

        names = {index: _name(self._inputs[index]) for index in self._weights}
        return Binding(self._module, names, arguments, forget)


class Binding:
    """The program of one set of weights, and what tells that one of them has changed.

    It holds what was made from the weights, and not the weights: they die with their model, and this with them.
    """

    def __init__(self, module: fx.GraphModule, names: dict[int, str], arguments: tuple[Any, ...], forget: Any) -> None:
        self._names = names
        self._slots: dict[str, Any] = {}
        # At the last renewal: the instruction set, the steps of fused optimizers, versions and addresses.
        self._isa, self._step = "", 0
        self._stamps: list[tuple[int, int, int]] = []
        self._unversioned: list[tuple[int, int]] = []
        self._refs = [(index, weakref.ref(arguments[index], forget)) for index in names]
        self._numbers = [None if isinstance(argument, Tensor) else argument for argument in arguments]
        self._fill(arguments)
        self.program = self._lower(module, arguments)
        self._counters = _Counters([self._slots[name] for name in _statistics(self.program, self._slots)], forget)
        self._fixed = Sources(slot for slot in self.program.store.slots() if slot[0] is not self._slots)
        self._renew(arguments)

    def current(self, arguments: tuple[Any, ...]) -> bool:
        """Whether these are the weights; remakes what was made of them where one has changed."""
        for index, ref in self._refs:
            if ref() is not arguments[index]:
                return False
        if not self._fixed.unchanged():
            return False  # modules and constants of the graph itself, which older forms of Dynamo's graphs have
        if self._isa != introspection.isa() or self._changed(arguments) or self._counters.changed():
            self._renew(arguments)
        return True

    def _changed(self, arguments: tuple[Any, ...]) -> bool:
        if self._step != edits.steps:
            if any(edits.written_since(self._step, arguments[index]) for index in self._names):
                return True
            self._step = edits.steps
        for index, version, address in self._stamps:
            t = arguments[index]
            if t._version != version or t.data_ptr() != address:
                return True
        return any(arguments[index].data_ptr() != address for index, address in self._unversioned)

    def _renew(self, arguments: tuple[Any, ...]) -> None:
        # Read the state first: a change that arrives in the meantime is then noticed at the next call.
        self._isa, self._step = introspection.isa(), edits.steps
        tensors = {index: arguments[index] for index in self._names}
        self._stamps = [(i, t._version, t.data_ptr()) for i, t in tensors.items() if not t.is_inference()]
        self._unversioned = [(i, t.data_ptr()) for i, t in tensors.items() if t.is_inference()]
        # Kept alive: after `.double()` and `.float()` a freed address could come back under other values.
        self._storages = [t.untyped_storage() for t in tensors.values()]
        self._counters.note()
        self._fill(arguments)
        self.program.store.renew()
        self._slots.clear()

    def _fill(self, arguments: tuple[Any, ...]) -> None:
        self._slots.update((name, arguments[index]) for index, name in self._names.items())
        self._slots[COUNTER] = _WATCHED

    def tensors(self) -> set[int]:
        """Identities of the weights."""
        return {id(ref()) for _, ref in self._refs}

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Lets the program's description read the weights."""
        self._slots.update((self._names[index], ref()) for index, ref in self._refs)
        try:
            yield
        finally:
            self._slots.clear()

    def arguments(self, tensors: Iterator[Tensor]) -> list[Any]:
        """A call's arguments: these weights, the given tensors, and the numbers of the first call."""
        weights = {index: ref() for index, ref in self._refs}
        return [
            weights[index] if index in weights else next(tensors) if number is None else number
            for index, number in enumerate(self._numbers)
        ]

    def _lower(self, module: fx.GraphModule, arguments: tuple[Any, ...]) -> Program:
        graph = fx.Graph()
        graph.output(graph.graph_copy(module.graph, {}))
        context = Context(module, {})
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        for index, node in enumerate(inputs):
            if index in self._names:
                node.meta["slot"] = (self._slots, self._names[index])
            node.meta["scalar"] = not isinstance(arguments[index], Tensor)
        unfuse(graph)
        for node in list(graph.nodes):
            _prepare(node, context)
        outputs: Any = graph.output_node().args[0]
        spec = pytree.tree_structure(tuple(0 for _ in outputs))
        captured = Captured(graph, module, spec, {})
        # A BatchNorm by itself stays the function that it is: its tensors are arguments of the graph.
        store = WeightStore(None, drop_zero_channels=False)
        return lower(captured, store, may_write_inputs=False, without=(serve_norms,))


class _Counters:
    """Tells whether running statistics have changed: training writes them without a new version (pytorch#108863).

    The count of batches beside them has one. Statistics that have no such count are compared by value.
    """

    def __init__(self, statistics: list[Tensor], forget: Any) -> None:
        owners = [owner for owner in gc.get_referrers(*statistics) if isinstance(owner, dict)] if statistics else []
        counts: dict[int, Tensor] = {}
        self._plain: list[Any] = []
        for t in statistics:
            found = [owner.get(COUNTER) for owner in owners if any(t is value for value in owner.values())]
            count = next((count for count in found if isinstance(count, Tensor)), None)
            if count is None:
                self._plain.append(weakref.ref(t, forget))
            else:
                counts[id(count)] = count
        self._refs = [weakref.ref(count, forget) for count in counts.values()]

    def note(self) -> None:
        self._versions = [(ref, count._version) for ref in self._refs if (count := ref()) is not None]
        self._values = [(ref, t.clone()) for ref in self._plain if (t := ref()) is not None]

    def changed(self) -> bool:
        for ref, version in self._versions:
            count = ref()
            if count is None or count._version != version:
                return True
        return any((t := ref()) is None or not torch.equal(t, value) for ref, value in self._values)


def _statistics(program: Program, slots: dict[str, Any]) -> list[str]:
    """Names of the running statistics that were folded into weights."""
    norms = [norm for node in program.graph.nodes for norm in getattr(node.meta.get("spec"), "norms", ())]
    found = {name for norm in norms for part in (norm.mean, norm.var) for owner, name in part.slots if owner is slots}
    return sorted(found)


def _is_weight(node: fx.Node, example: Any) -> bool:
    """Whether an input is a parameter or buffer of a module, which changes seldom."""
    noted = node.meta.get("tensor_dict") or {}
    return isinstance(example, nn.Parameter) or noted.get("_dynamo_static_input_type") is not None


def _name(node: fx.Node) -> str:
    """layer1.0.conv1.weight for L['self']._modules['layer1']... as Dynamo spells it."""
    words = str(node.target).removeprefix("L_").removeprefix("self_").split("_")
    kept = [word for word in words if word and word not in ("modules", "parameters", "buffers")]
    return f"{node.name}:{'_'.join(kept)}"


def _check(module: fx.GraphModule) -> None:
    for node in module.graph.nodes:
        if node.op == "call_module":
            inner = module.get_submodule(str(node.target))
            if any(part.training for part in inner.modules()):
                raise CaptureError(f"{node.target} is in training mode")
        elif node.op == "call_function" and (
            node.target in _side_effectful_functions or isinstance(node.target, torch._ops.HigherOrderOperator)
        ):
            raise CaptureError(f"{node.target} does more than compute a value")


def _prepare(node: fx.Node, context: Context) -> None:
    """Leaves to torch what the kernels do not serve, and serves without fusion what has no weights of its own."""
    operation = operation_of(node)
    if operation is not None and not serves(node):
        node.meta["why"] = "its type or device has no kernel"
    elif operation in ("conv2d", "conv_transpose2d", "linear", "prelu", "batch_norm", "raw_batch_norm"):
        arguments = arguments_of(node, operation)
        weights = [arguments.get(name) for name in ("weight", "bias", "running_mean", "running_var")]
        computed = any(value is not None and weight_of(value, context) is None for value in weights)
        if computed or arguments.get("training", False) is not False:
            swap_function(node)
    stack = node.meta.get("nn_module_stack")
    node.meta = {key: value for key, value in node.meta.items() if key in ("slot", "scalar", "why")}
    if stack:
        key, (path, kind) = next(reversed(stack.items()))
        node.meta["nn_module_stack"] = {key: (path.partition(".")[2] or path, kind)}
