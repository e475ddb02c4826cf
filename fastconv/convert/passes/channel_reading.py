"""Reads a graph as operations on channels, for `drop_channels`: what carries, joins, computes or asks for them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from fastconv.convert import ir
from fastconv.convert.calls import arguments_of, is_constant
from fastconv.convert.capture import is_scalar
from fastconv.convert.channels import Carry, Join, Layer, Numbers, Operation, activated
from fastconv.convert.ir import Context
from fastconv.convert.passes import channelwise
from fastconv.nn.weights import Weight, has_hooks


@dataclass(frozen=True)
class _Form:
    """How a value holds its channels: as an image (.., C, H, W), or as features (.., C times something).

    Of `ranked` ones the number of dimensions is known, 4 and 2: what counts dimensions from the front needs that.
    """

    channels: int
    image: bool
    ranked: bool


Read = tuple[Operation, _Form]


class ChannelReader:
    """Whatever is not known to keep channels apart wants its inputs whole, and its value is not followed.

    Graphs have open shapes; 3-dimensional inputs (images without a batch) are the caller's to keep away.
    """

    def __init__(self, graph: fx.Graph, context: Context) -> None:
        self.operations: list[Operation] = []
        self.positions: dict[fx.Node, int] = {}
        self.readable = True  # no weight is without values
        self.norms: dict[fx.Node, ir.Conv] = {}  # BatchNorms on their own, as the convolutions that they are
        self._context = context
        self._forms: dict[Any, _Form] = {}
        self._images: set[fx.Node] = set()  # of 4 dimensions
        self._counts: dict[Any, fx.Node] = {}  # a number of channels that only views ask for -> of which value
        for node in graph.nodes:
            if node.op != "output" and is_scalar(node):
                self._read_scalar(node)
                continue
            found = None if node.meta.get("pinned") else self._read(node)
            if found is None:
                for value in node.all_input_nodes:
                    if value in self._counts:
                        self._whole(self._counts[value])
            op = found[0] if found else Operation(None, self._at(*self._followed(node)))
            self.positions[node] = len(self.operations)
            self.operations.append(op)
            if found:
                self._forms[node] = found[1]
            if (found and found[1].image and found[1].ranked) or self._keeps_rank(node):
                self._images.add(node)

    def _followed(self, node: fx.Node) -> list[fx.Node]:
        return [value for value in node.all_input_nodes if value in self._forms]

    def _at(self, *nodes: Any) -> tuple[int, ...]:
        return tuple(self.positions[node] for node in nodes)

    def _whole(self, value: fx.Node) -> int:
        """A place in the list where somebody wants the value with all its channels."""
        self.operations.append(Operation(None, self._at(value) if value in self._forms else ()))
        return len(self.operations) - 1

    def _keeps_rank(self, node: fx.Node) -> bool:
        if node.op in ("placeholder", "get_attr"):
            return node.op == "placeholder"
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        if source not in self._images:
            return False
        if node.op == "call_module":
            return type(self._context.module(node)) in (
                *channelwise.SPATIAL_MODULES,
                *channelwise.POINTWISE_MODULES,
                *channelwise.NORMS,
            )
        return channelwise.name_of(node) in channelwise.RANK_KEEPING

    def _read_scalar(self, node: fx.Node) -> None:
        """Extents of the batch and of the image stay what they are; who asks for another gets the whole value."""
        for value in self._followed(node):
            asked = node.args[1:] if node.target in ("size", getattr) else ()
            if node.target is getattr and asked[0] in ("dtype", "device", "ndim"):
                continue
            if node.target == "size" and len(asked) == 1 and self._may_ask(value, asked[0], node):
                continue
            shape = asked == ("shape",) or (node.target == "size" and not asked)
            if not shape or not all(
                user.target is operator.getitem and self._may_ask(value, user.args[1], user) for user in node.users
            ):
                self._whole(value)

    def _may_ask(self, value: fx.Node, index: Any, number: fx.Node) -> bool:
        """Whether an extent is one that stays, or the number of channels for views that follow it."""
        if self._is_outer(value, index):
            return True
        views = all(
            user.target in ("view", "reshape") and user.args.count(number) == 1 and user.args.index(number) == 2
            for user in number.users
        )
        if index == 1 and self._forms[value].ranked and views:
            self._counts[number] = value
            return True
        return False

    def _is_outer(self, value: fx.Node, index: Any) -> bool:
        form = self._forms[value]
        if isinstance(index, slice):
            return form.ranked and form.image and index.start in (2, -2) and index.stop is None
        if not isinstance(index, int):
            return False
        return (form.image and index in (-1, -2)) or (form.ranked and index in ((0, 2, 3) if form.image else (0,)))

    def _read(self, node: fx.Node) -> Read | None:
        spec = node.meta.get("spec")
        if isinstance(spec, ir.Normalise):
            return self._read_norm(node, spec)
        if node.target is ir.operation:
            return self._read_spec(spec, ir.inputs_of(node))
        if isinstance(spec, ir.Add):
            return self._both(ir.inputs_of(node), np.add)
        if isinstance(spec, ir.ZeroPad | ir.Upsample):
            number = channelwise.zeros_only if isinstance(spec, ir.ZeroPad) else channelwise.same
            return self._carry(ir.inputs_of(node)[0], number, image=True)
        if node.op == "call_module":
            return self._read_module(node, self._context.module(node))
        return self._read_function(node) if node.op in ("call_function", "call_method") else None

    def _read_spec(self, spec: Any, inputs: tuple[fx.Node, ...]) -> Read | None:
        form = self._forms.get(inputs[0])
        if isinstance(spec, ir.Weighted):
            return self._read_layer(spec, inputs, form)
        if isinstance(spec, ir.Pool) and not spec.arguments.get("return_indices"):
            uneven = any(spec.arguments.get(name) for name in ("padding", "ceil_mode", "divisor_override"))
            average = spec.function == "avg_pool2d" and uneven
            return self._carry(inputs[0], channelwise.zeros_only if average else channelwise.same, image=True)
        if isinstance(spec, ir.Act) and form is not None and (form.ranked or spec.act.name != "prelu"):
            act = spec.act
            made = Carry(form.channels, self._at(inputs[0]), number=lambda given: activated(act, given), spec=spec)
            return made, form
        return None

    def _read_norm(self, node: fx.Node, spec: ir.Normalise) -> Read | None:
        x = ir.inputs_of(node)[0]
        form = self._forms.get(x)
        if form is None or not form.image or not form.ranked:
            return None
        norm, channels = spec.norm, form.channels
        ones = Weight(f"{norm.mean.label}:ones", (), lambda: norm.mean.read().new_ones(channels, 1, 1, 1))
        self.norms[node] = ir.Conv(
            spec.labels, ones, None, (1, 1), (0, 0, 0, 0), (1, 1), channels, norms=(norm,), act=spec.act
        )
        return self._read_layer(self.norms[node], (x,), form)

    def _read_layer(self, spec: Any, inputs: tuple[fx.Node, ...], form: _Form | None) -> Read | None:
        weight = spec.weight.read()
        # Fake, distributed and quantised tensors have no values here, nor has the meta device.
        if type(weight.detach()) is not Tensor or weight.is_meta or weight.numel() == 0:
            self.readable = False
            return None
        linear, transposed = isinstance(spec, ir.Linear), isinstance(spec, ir.ConvTranspose)
        groups = 1 if linear else spec.groups
        filters, fan_in = weight.shape[:2]
        if transposed:
            filters, fan_in = fan_in * groups, filters
        else:
            fan_in *= groups
        spread = fan_in // form.channels if form is not None and linear else 1
        if form is None or form.image == linear or form.channels * spread != fan_in:
            form, spread = None, 1  # the model's own error, or a linear layer over the rows of an image
        first = self._at(inputs[0])[0] if form is not None else self._whole(inputs[0])
        rest = [self._summand(value, filters) for value in inputs[1:]]
        ranked = form.ranked if form is not None else not linear and inputs[0] in self._images
        op = Layer(filters, (first, *rest), spec=spec, fan_in=fan_in // spread, spread=spread)
        return op, _Form(filters, not linear, ranked)

    def _summand(self, value: fx.Node, channels: int) -> int:
        form = self._forms.get(value)
        same = form is not None and form.image and form.channels == channels
        return self._at(value)[0] if same else self._whole(value)

    def _carry(self, value: Any, number: Callable[..., Numbers], *, image: bool) -> Read | None:
        form = self._forms.get(value) if isinstance(value, fx.Node) else None
        if form is None or (image and not form.image):
            return None
        return Carry(form.channels, self._at(value), number=number), form

    def _both(self, pair: tuple[Any, ...], number: Callable[..., Numbers]) -> Read | None:
        """An operation on two values, channel by channel."""
        first, second = (self._forms.get(value) if isinstance(value, fx.Node) else None for value in pair)
        if first is None or second is None or (first.channels, first.image) != (second.channels, second.image):
            return None
        form = _Form(first.channels, first.image, first.ranked and second.ranked)
        # Features of one channel stand side by side: equally many of them only where both have the same rank.
        return (Carry(first.channels, self._at(*pair), number=number), form) if first.image or form.ranked else None

    def _read_module(self, node: fx.Node, module: nn.Module) -> Read | None:
        if has_hooks(module) or len(node.args) != 1 or node.kwargs:
            return None
        if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
            return self._flatten(node.args[0])
        if type(module) in channelwise.SPATIAL_MODULES:
            return self._carry(node.args[0], channelwise.unknown, image=True)
        return (
            self._carry(node.args[0], channelwise.unknown, image=False)
            if type(module) in channelwise.POINTWISE_MODULES
            else None
        )

    def _read_function(self, node: fx.Node) -> Read | None:
        name, x = channelwise.name_of(node), node.args[0] if node.args else None
        rest = node.args[1:]
        if name in channelwise.ARITHMETIC and not node.kwargs and len(rest) == 1:
            function, other = channelwise.ARITHMETIC[name], rest[0]
            if isinstance(other, int | float):
                return self._carry(x, lambda given: function(given, other), image=False)
            return self._both((x, other), function)
        if name in ("cat", "concat"):
            return self._cat(node, x, rest[0] if rest else node.kwargs.get("dim", 0))
        if name == "flatten" and rest in ((1,), (1, -1)) and not node.kwargs:
            return self._flatten(x)
        if name in ("view", "reshape"):
            shape = rest[0] if len(rest) == 1 else rest
            if len(rest) > 1 and rest[1] in self._counts:
                return self._view(x, self._counts[rest[1]], rest[2:])
            return self._flatten(x) if isinstance(shape, tuple | list) and len(shape) == 2 and shape[1] == -1 else None
        if name in ("mean", "amax"):
            return self._reduce(x, rest, dict(node.kwargs))
        if name == "expand_as":
            return self._both((x, rest[0]), lambda given, _: given)
        if name in ("interpolate", "pad"):
            amounts: Any = arguments_of(node, "pad").get("pad") if name == "pad" else ()
            sides = is_constant(amounts) and isinstance(amounts, tuple | list) and len(amounts) <= 4
            return self._carry(x, channelwise.unknown, image=True) if sides else None
        return (
            self._carry(x, channelwise.unknown, image=False)
            if name in channelwise.POINTWISE and len(node.all_input_nodes) == 1
            else None
        )

    def _view(self, value: Any, counted: fx.Node, rest: tuple[Any, ...]) -> Read | None:
        """view(n, c) and view(n, c, 1, 1), with c the channels of a value that has as many."""
        form = self._forms.get(value)
        if (
            form is None
            or not form.ranked
            or form.channels != self._forms[counted].channels
            or rest not in ((), (1, 1))
        ):
            return None
        op = Carry(form.channels, self._at(value, counted), number=lambda given, _: given)
        return op, _Form(form.channels, image=bool(rest), ranked=True)

    def _flatten(self, value: Any) -> Read | None:
        form = self._forms.get(value)
        if form is None or not form.ranked:
            return None
        return Carry(form.channels, self._at(value), number=channelwise.same), _Form(
            form.channels, image=False, ranked=True
        )

    def _cat(self, node: fx.Node, parts: Any, dim: Any) -> Read | None:
        forms = [self._forms.get(part) for part in parts] if isinstance(parts, tuple | list) else []
        known = [form for form in forms if form is not None and form.image]
        if not known or len(known) != len(forms) or not (dim == -3 or (dim == 1 and all(f.ranked for f in known))):
            return None
        total = sum(form.channels for form in known)
        return Join(total, self._at(*parts)), _Form(total, image=True, ranked=all(form.ranked for form in known))

    def _reduce(self, value: Any, rest: tuple[Any, ...], keywords: dict[str, Any]) -> Read | None:
        """mean and amax over the image."""
        arguments = {**dict(zip(("dim", "keepdim"), rest, strict=False)), **keywords}
        form, dims = self._forms.get(value), arguments.pop("dim", None)
        keep = arguments.pop("keepdim", False)
        if form is None or not form.image or not form.ranked or arguments or not isinstance(dims, tuple | list):
            return None
        if not all(isinstance(dim, int) for dim in dims) or sorted(dim % 4 for dim in dims) != [2, 3]:
            return None
        made = form if keep else _Form(form.channels, image=False, ranked=True)
        return Carry(form.channels, self._at(value), number=channelwise.same), made
