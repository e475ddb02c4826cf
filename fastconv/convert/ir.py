"""What the passes know about a node: the operation it is, in fastconv's terms, whatever form the model wrote it in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import fx, nn

from fastconv.convert.calls import arguments_of, operation_of
from fastconv.nn.fold import Slot
from fastconv.nn.weights import Activation, Norm, Weight

_Spec = TypeVar("_Spec")

IDENTITY = Activation("identity")


@dataclass(frozen=True)
class Spec:
    """An operation of one graph node; `labels` are the model's own names of everything merged into it."""

    labels: tuple[str, ...]


@dataclass(frozen=True)
class Kept:
    """Which filters and input channels of a layer are computed: the others are zero, or nobody reads them.

    `numbers` are those of input channels left out that hold one number everywhere, for the bias to contain; with a
    `carrier` they are multiples of that channel, whose weights take theirs over.
    """

    filters: tuple[int, ...]
    channels: tuple[int, ...]
    of_filters: int
    of_channels: int
    numbers: tuple[tuple[int, float], ...] = ()
    carrier: int | None = None


@dataclass(frozen=True)
class Weighted(Spec):
    """An operation with a weight; a bias that is absent is watched too, one may be assigned later."""

    weight: Weight
    bias: Weight | None

    absent: tuple[Slot, ...] = field(default=(), kw_only=True)
    kept: Kept | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Conv(Weighted):
    """y = act(norm(conv(pad(upsample(x)))) + residual)."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]  # top, bottom, left, right
    dilation: tuple[int, int]
    groups: int
    upsample: tuple[int, int] = (1, 1)
    norms: tuple[Norm, ...] = ()
    act: Activation = IDENTITY
    residual: bool = False


@dataclass(frozen=True)
class ConvTranspose(Weighted):
    """y = norm(conv_transpose(x))."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    output_padding: tuple[int, int]
    groups: int
    dilation: tuple[int, int]
    norms: tuple[Norm, ...] = ()


@dataclass(frozen=True)
class Linear(Weighted):
    """y = act(x @ weight.T + bias)."""

    act: Activation = IDENTITY


@dataclass(frozen=True)
class Pool(Spec):
    """A call of `fastconv.functional.<function>` with constant arguments."""

    function: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Act(Spec):
    """An activation on its own."""

    act: Activation
    kept: Kept | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Normalise(Spec):
    """y = act(norm(x)): a BatchNorm with running statistics that no convolution takes over."""

    norm: Norm
    act: Activation = IDENTITY


@dataclass(frozen=True)
class Softmax(Spec):
    dim: int


# The rest have no kernel of their own: they are merged into a convolution, or stay the torch node that they were.
@dataclass(frozen=True)
class BatchNorm(Spec):
    norm: Norm


@dataclass(frozen=True)
class ZeroPad(Spec):
    padding: tuple[int, int, int, int]  # top, bottom, left, right


@dataclass(frozen=True)
class Upsample(Spec):
    scale: tuple[int, int]


@dataclass(frozen=True)
class Add(Spec):
    pass


SERVED = (Conv, ConvTranspose, Linear, Pool, Act, Normalise, Softmax)


def operation(*inputs: Any) -> Any:
    """Target of the nodes that a pass makes; the spec says what it computes, lowering puts a step in its place."""
    raise AssertionError(f"a fastconv node was run before it was lowered ({len(inputs)} inputs)")


def spec_of(node: Any, kind: type[_Spec]) -> _Spec | None:
    """The node's spec where it is of the given kind."""
    spec = node.meta.get("spec") if isinstance(node, fx.Node) else None
    return spec if isinstance(spec, kind) else None


def inputs_of(node: fx.Node) -> tuple[fx.Node, ...]:
    """The tensors that the node's spec applies to, weights not included."""
    if node.target is operation or node.op == "call_module":
        return node.args  # type: ignore[return-value]
    # Read from the call each time: passes replace its arguments.
    arguments = arguments_of(node, operation_of(node) or "")
    names = ("input", "other") if isinstance(node.meta["spec"], Add) else ("input",)
    return tuple(arguments[name] for name in names)


def annotate(node: fx.Node, spec: Spec) -> None:
    """Says what a node is and leaves it in its torch form."""
    node.meta["spec"] = spec


def put(node: fx.Node, spec: Spec, *inputs: fx.Node) -> fx.Node:
    """Replaces `node` by one that computes `spec` of `inputs`."""
    graph = node.graph
    with graph.inserting_after(node):
        made = graph.call_function(operation, inputs)
    made.meta = {key: value for key, value in node.meta.items() if key != "why"}
    made.meta["spec"] = spec
    node.replace_all_uses_with(made)
    graph.erase_node(node)
    return made


def may_merge(producer: Any) -> bool:
    """Whether a node's value may stay unmade: one reader, and nobody writes to it in place."""
    return isinstance(producer, fx.Node) and len(producer.users) == 1 and not producer.meta.get("pinned")


def may_read_later(*values: fx.Node) -> bool:
    """Whether reading the values at a later node gives the same: not where something writes to them in place."""
    return not any(value.meta.get("pinned") for value in values)


def drop(node: fx.Node) -> None:
    """Erases a node that nobody reads any more."""
    if not node.users:
        node.graph.erase_node(node)


@dataclass
class Context:
    """What a pass may ask about the model that the graph was captured from."""

    root: nn.Module
    opaque: dict[str, str]  # leaf modules that could not be captured, and why
    writes_inputs: bool = False  # set by the pass that finds it out

    def module(self, node: fx.Node) -> nn.Module:
        return self.root.get_submodule(str(node.target))


Pass = Callable[[fx.Graph, Context], None]


def label_of(node: fx.Node) -> str:
    """The model's name for what a node does: its module, and the function where it is not the module itself."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack")
    path = next(reversed(stack.values()))[0] if stack else ""
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    name = {"fn": "max_pool2d"}.get(target, target)
    return f"{path}:{name}" if path else name
