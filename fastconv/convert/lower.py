"""From a captured graph to something that runs: passes, weights, layout, and one Python function to call."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx

from fastconv import _C, introspection
from fastconv.convert import ir, steps
from fastconv.convert.capture import Captured, CaptureError, is_scalar
from fastconv.convert.contents import Entry, entries_on_the_way
from fastconv.convert.layout import LayoutPlan
from fastconv.convert.passes import PASSES
from fastconv.convert.passes.drop_channels import Dropping, drop_channels
from fastconv.convert.passes.functions import weight_of
from fastconv.convert.plan.cuda_graph import Made, graphs_of, made_here
from fastconv.convert.plan.target import Target
from fastconv.convert.program import Program
from fastconv.nn.fold import Slot, Sources
from fastconv.nn.weights import Weight, find_weight

# Names of the steps among the graph's modules: no model has such a child.
_STEP = "_fastconv_step_"


class WeightStore:
    """All prepared weights of one region, shared by its programs for different shapes."""

    def __init__(self, dtype: torch.dtype | None, drop_zero_channels: bool = True) -> None:
        self.dtype, self.drop_zero_channels = dtype, drop_zero_channels
        self.generation = 0  # of the weights; a program that was bound to an older one binds anew
        self.arenas = _C.ArenaPool()
        self.plans_allowed = os.environ.get("FASTCONV_PLAN") != "0"
        self.graphs_allowed = os.environ.get("FASTCONV_CUDA_GRAPH") != "0"
        self._graphs: dict[torch.device, Any] = {}  # by GPU: where its plans are captured
        # Held while weights or plans are made: nobody may free what a plan is being made to read. Plans run without it.
        # And while anything is added: a thread that remakes the weights would call them fresh without it.
        self.lock = threading.RLock()
        self._isa = ""
        self._watched: list[Slot] = []  # of statistics that steps read at each call, and plans once
        self._constants: list[Entry] = []  # of dictionaries, where graphs have what is there as constants
        self._prepared: dict[Any, steps.Prepared] = {}
        self._sources: Sources | None = None
        self._droppings: weakref.WeakSet[Dropping] = weakref.WeakSet()  # those of programs still in use
        self._made: list[Made] = []  # where, for streams that others than the weights' own are

    def graphs(self, target: Target) -> Any:
        """Where plans for a GPU are captured: one place for all programs of a network, since their graphs
        share memory."""
        if target.device not in self._graphs:
            self._graphs[target.device] = graphs_of(target)
        return self._graphs[target.device]

    def share_graphs(self, store: WeightStore) -> None:
        """Captures where the other one does: their regions are parts of one network."""
        self._graphs = store._graphs

    def judge(self, graph: fx.Graph, context: ir.Context) -> Dropping | None:
        """Leaves superfluous channels out of a graph, and watches the weights that say so."""
        dropping = drop_channels(graph, context)
        if dropping is not None:
            with self.lock:
                self._droppings.add(dropping)
                self._sources = None
        return dropping

    def watch(self, slots: tuple[Slot, ...]) -> None:
        with self.lock:
            self._watched.extend(slots)
            self._sources = None

    def watch_constants(self, graph: fx.Graph, root: torch.nn.Module) -> None:
        """A cache that was full when it was captured: whoever empties it means it to be made anew."""
        names = {str(node.target) for node in graph.nodes if node.op == "get_attr"} & vars(root).keys()
        wanted = {id(vars(root)[name]): vars(root)[name] for name in names if name.startswith("_tensor_constant")}
        if wanted and (found := entries_on_the_way(wanted, root)):
            with self.lock:
                self._constants += found
                self._sources = None

    def prepare(self, spec: Any, channels_last: bool) -> steps.Prepared:
        key = _key(spec, channels_last)
        with self.lock:
            if key not in self._prepared:
                self._prepared[key] = steps.Prepared(spec, self.dtype, channels_last)
                self._sources = None
            return self._prepared[key]

    def refresh(self) -> None:
        """One loop over all sources at each call of the network; weights are remade only where it finds a change."""
        if not self._is_fresh():
            with self.lock:
                if not self._is_fresh():  # no other thread was first
                    self._remake()
        self.read()

    def read(self) -> None:
        """Orders what follows on the current stream behind the making of the weights."""
        for made in self._made:
            made.read(self._held)

    def _held(self) -> list[Tensor]:
        return [t for prepared in self.all_prepared() for t in (*prepared.own_tensors(), *prepared.packs())]

    def _note_streams(self) -> None:
        self._made = made_here({t.device for t in self._held()})

    def _is_fresh(self) -> bool:
        sources = self._sources
        return sources is not None and sources.unchanged() and introspection.isa() == self._isa

    def _remake(self) -> None:
        isa = introspection.isa()
        if isa != self._isa:
            for prepared in self._prepared.values():
                prepared.forget_packs()
        unique = {(id(owner), name): (owner, name) for p in self._prepared.values() for owner, name in p.slots}
        if any(name not in owner for owner, name in unique.values()):
            raise steps.Stale("a weight is gone")
        if any(owner.get(key) is not value for owner, key, value in self._constants):
            raise steps.Stale("a constant was exchanged")
        for dropping in list(self._droppings):
            dropping.check()
            unique.update({(id(owner), name): (owner, name) for owner, name in dropping.slots})
        absent = [slot for prepared in self._prepared.values() for slot in prepared.absent]
        sources = Sources(
            (*unique.values(), *absent, *self._watched, *((owner, key) for owner, key, _ in self._constants))
        )
        for prepared in self._prepared.values():
            prepared.refresh()
        self._note_streams()
        # The generation first: who finds the sources unchanged goes by it.
        self.generation += 1
        self._sources, self._isa = sources, isa

    def all_prepared(self) -> list[steps.Prepared]:
        return list(self._prepared.values())

    def slots(self) -> list[Slot]:
        """Where all the tensors live that decide the weights, those included that are not there yet."""
        return [slot for prepared in self.all_prepared() for slot in (*prepared.slots, *prepared.absent)]

    def renew(self) -> None:
        """Remakes all weights, and keeps no hold on the tensors they came from: the caller watches those."""
        with self.lock:
            for prepared in self._prepared.values():
                prepared.renew()
            self._note_streams()
            self.generation += 1


def _key(spec: Any, channels_last: bool) -> Any:
    def of(part: Any) -> Any:
        return None if part is None else part.key

    act = getattr(spec, "act", None)
    alpha = act.param.key if act is not None and isinstance(act.param, Weight) else act and act.param
    norms = tuple(norm.key for norm in getattr(spec, "norms", ()))
    groups = spec.groups if isinstance(spec, ir.ConvTranspose) else None
    weight, bias = of(getattr(spec, "weight", None)), of(getattr(spec, "bias", None))
    return (type(spec), weight, bias, norms, alpha, groups, channels_last, getattr(spec, "kept", None))


def lower(
    captured: Captured,
    store: WeightStore,
    *,
    may_write_inputs: bool,
    may_drop: bool = True,
    without: tuple[ir.Pass, ...] = (),
) -> Program:
    """Fuses and plans a captured graph; with `may_drop` without the channels that its weights make superfluous.

    The passes in `without` are left out.

    Raises:
        CaptureError: the graph writes to something that its caller would miss.
    """
    graph, context = captured.graph, ir.Context(captured.root, captured.opaque)
    store.watch_constants(graph, captured.root)
    for run in PASSES:
        if run not in without:
            run(graph, context)
    if context.writes_inputs and not may_write_inputs:
        raise CaptureError("it writes to its input in place, which its caller may rely on")
    _eliminate_dead(graph, context)
    dropping = store.judge(graph, context) if may_drop and store.drop_zero_channels else None

    functions = SimpleNamespace()

    def new_step(function: Any) -> str:
        name = f"{_STEP}{len(vars(functions))}"
        setattr(functions, name, function)
        return name

    _prepare_weights(graph, store)
    LayoutPlan(graph, context, new_step).run()
    _eliminate_dead(graph, context)
    _place_steps(graph, context, store, new_step)
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(compile(code.src, "<fastconv program>", "exec"), scope)
    single = captured.output_spec.is_leaf()
    return Program(graph, functions, scope["forward"], store, captured.output_spec, captured.opaque, single, dropping)


def _eliminate_dead(graph: fx.Graph, context: ir.Context) -> None:
    def has_effect(node: fx.Node) -> bool:
        if node.op in ("placeholder", "output") or node.meta.get("pinned"):
            return True
        if str(node.target).startswith(_STEP):
            return False
        # A module of the user's own may do more than return a value.
        return node.op == "call_module" and not type(context.module(node)).__module__.startswith("torch.nn.")

    graph.eliminate_dead_code(has_effect)


def _prepare_weights(graph: fx.Graph, store: WeightStore) -> None:
    own: set[fx.Node] = set()
    for node in graph.nodes:
        spec = node.meta.get("spec")
        if node.target is not ir.operation:
            continue
        if isinstance(spec, ir.Conv) or (isinstance(spec, ir.Pool | ir.Act) and ir.inputs_of(node)[0] in own):
            own.add(node)
        if isinstance(spec, ir.Conv | ir.ConvTranspose | ir.Linear | ir.Act):
            # A weight in channels_last makes the kernel write channels_last whatever it reads.
            enters = isinstance(spec, ir.Conv) and ir.inputs_of(node)[0] not in own
            node.meta["prepared"] = store.prepare(spec, enters)


def _place_steps(graph: fx.Graph, context: ir.Context, store: WeightStore, new_step: Any) -> None:
    dtype = store.dtype
    for node in list(graph.nodes):
        spec = node.meta.get("spec")
        if node.target is ir.operation:
            node.op, node.target = "call_module", new_step(_make_step(spec, node.meta.get("prepared"), store))
        elif node.op == "get_attr":
            path, _, name = str(node.target).rpartition(".")
            owner = context.root.get_submodule(path)
            weight = find_weight(owner, name, str(node.target)) or weight_of(node, context)
            if weight is None:
                weight = Weight(str(node.target), (), functools.partial(getattr, owner, name))
            node.op, node.target, node.args = "call_module", new_step(steps.ReadStep(weight)), ()
            node.meta["read"] = True
        elif node.op == "call_module" and not str(node.target).startswith(_STEP):
            node.meta.setdefault("module", node.target)
            module: Any = context.module(node)
            node.meta["module_type"] = type(module).__name__
            if dtype is not None and next(module.parameters(), None) is not None:
                module = steps.OwnTypeStep(module, dtype)
            node.target = new_step(module)
        elif node.op == "call_function" and dtype is not None and _reads_own_tensor(node):
            node.target, node.op = new_step(steps.OwnTypeStep(node.target, dtype)), "call_module"


def _reads_own_tensor(node: fx.Node) -> bool:
    return any(argument.meta.get("read") for argument in node.all_input_nodes) and not is_scalar(node)


def _make_step(spec: Any, prepared: Any, store: WeightStore) -> Any:
    dtype = store.dtype
    if isinstance(spec, ir.Conv):
        return steps.ConvStep(spec, prepared, dtype)
    if isinstance(spec, ir.ConvTranspose):
        return steps.ConvTransposeStep(spec, prepared, dtype)
    if isinstance(spec, ir.Linear):
        return steps.LinearStep(spec, prepared, dtype)
    if isinstance(spec, ir.Normalise):
        store.watch(steps.slots_of_norm(spec))
        return steps.NormaliseStep(spec, dtype)
    if isinstance(spec, ir.Softmax):
        return steps.SoftmaxStep(spec)
    return steps.ActStep(spec, prepared) if isinstance(spec, ir.Act) else steps.PoolStep(spec)
