"""What a plan does beside running steps: sums, products, concatenations, copies between layouts, views.

A handler gets (tape, function, real arguments, values) and returns (real result, value). A new one is a function and a
row in `find`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fastconv.convert import steps
from fastconv.convert.calls import arguments_of, operation_of
from fastconv.convert.plan.tape import Tape, Unplannable
from fastconv.convert.plan.values import DTYPES, Value, leaves_of
from fastconv.functional.dispatch import below_autograd
from fastconv.ops import native

Handler = Callable[[Tape, Any, Any, Any], tuple[Any, Any]]

STEPS = (
    steps.ConvStep,
    steps.ConvTransposeStep,
    steps.LinearStep,
    steps.PoolStep,
    steps.ActStep,
    steps.NormaliseStep,
    steps.SoftmaxStep,
)

_VIEW_NAMES = {
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "movedim", "squeeze", "unsqueeze",
    "getitem", "chunk", "split", "narrow", "select", "detach", "contiguous", "restore", "t",
}  # fmt: skip
# Those that may copy, and then keep the order of the values; a copy by any other is something else than a view, such
# as values picked by a tensor of indices.
_COPYING = {"reshape", "flatten", "contiguous", "restore"}
_VIEW_MODULES = (
    nn.Dropout,
    nn.Dropout2d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
)
_MEANS = ("mean",)
_JOINS = (torch.cat, torch.concat, torch.ops.aten.cat.default)


def find(node: fx.Node, function: Any) -> Handler | None:
    """The handler of a node that is no step."""
    if node.meta.get("pinned"):
        return None
    operation = operation_of(node)
    if operation in ("add", "mul"):
        named = arguments_of(node, operation)
        if set(named) != {"input", "other"}:
            return None
        return lambda tape, function, args, known: _combine(operation, tape, function, args, known)
    if node.target in _JOINS:
        return _join
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op == "call_module":  # a subclass may have a forward of its own
        if type(function) in _VIEW_MODULES:
            return partial(_view, type(function) is nn.Flatten)
        return _upsample if type(function) is nn.Upsample else None
    if not is_torchs(node.target):
        return None
    if name in _MEANS:
        return _mean
    if operation in ("interpolate", "upsample", "upsample_nearest"):
        return _upsample
    return partial(_view, name in _COPYING) if name in _VIEW_NAMES else None


def is_torchs(target: Any) -> bool:
    """Whether a name means what torch means by it: the user's own functions may be called mean or flatten too."""
    home = getattr(target, "__module__", None) or "torch"  # of methods by name, and of functions compiled into torch
    return isinstance(target, str) or home.partition(".")[0] in ("torch", "_operator", "fastconv")


def dense(x: Tensor) -> Tensor:
    """The values without gaps, in the layout that x has them in.

    Raises:
        Unplannable: that is neither NCHW nor NHWC, such as with exchanged rows and columns: torch would keep it.
    """
    strides = x.stride()
    order = [d for d in sorted(range(x.dim()), key=lambda d: -strides[d]) if x.shape[d] > 1]
    if not any(order == [d for d in whole if d in order] for whole in (range(x.dim()), (0, 2, 3, 1))):
        raise Unplannable("its dimensions lie in an order of their own")
    last = x.dim() == 4 and x.stride(1) == 1 and x.shape[1] > 1
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def copied(tape: Tape, x: Tensor, value: Value, made: Tensor) -> tuple[Tensor, Value]:
    """`made` as a copy of x in a plan: of the same shape, of any strides and type."""
    if value.dtype not in DTYPES:
        raise Unplannable(f"its input is {value.dtype}")
    tape.segment  # noqa: B018  the storage belongs to it
    target = tape.whole(made)
    tape.copy(value, target)
    return made, target


def _result(tape: Tape, x: Tensor) -> Value:
    tape.segment  # noqa: B018
    return tape.whole(x)


def _combine(what: str, tape: Tape, function: Any, args: Any, known: Any) -> tuple[Any, Any]:
    values = known[0]
    if len(values) != 2 or args[1] or not all(isinstance(value, Value) for value in values):
        raise Unplannable("one operand is a number, or has a name")
    a, b = args[0]
    if a.dtype is not b.dtype or a.dtype not in DTYPES:
        raise Unplannable("the operands differ in type")
    result = function(a, b)
    shape = tuple(result.shape)
    made = _result(tape, result)
    strides = [x.expand(shape).stride() for x in (a, b)]
    tape.combine(what, shape, [*values, made], [*strides, result.stride()])
    return result, made


def _join(tape: Tape, function: Any, args: Any, known: Any) -> tuple[Any, Any]:
    parts, values = args[0][0], known[0][0]
    if set(args[1]) - {"dim"}:
        raise Unplannable("an argument of another name")
    if not all(isinstance(value, Value) and value.dtype in DTYPES for value in values):
        raise Unplannable("a part is no tensor of this graph")
    result = function(*args[0], **args[1])
    dim = args[0][1] if len(args[0]) > 1 else args[1].get("dim", 0)
    if result.dim() > 4 or any(x.dim() != result.dim() or x.dtype is not result.dtype for x in parts):
        raise Unplannable("the parts differ in type or dimensions")
    made = _result(tape, result)
    at = 0
    for x, value in zip(parts, values, strict=True):
        offset = at * result.stride(dim)
        tape.copy(value, Value(made.storage, tuple(x.shape), result.stride(), offset), joins=True)
        at += x.shape[dim]
    return result, made


def _view(may_copy: bool, tape: Tape, function: Any, args: Any, known: Any) -> tuple[Any, Any]:
    """What names a value anew, or copies it to another layout."""
    source: Value = known[0][0]
    if any(isinstance(leaf, Value) for leaf in leaves_of((known[0][1:], known[1]))):
        raise Unplannable("which part it names depends on values")
    x: Tensor = args[0][0]
    if isinstance(source, tuple | list):  # the parts of chunk or split
        return function(*args[0]), function(*known[0])
    if not isinstance(source, Value):
        raise Unplannable("its argument is no tensor of this graph")
    result = function(*args[0], **args[1])
    if not isinstance(result, Tensor):
        return result, type(result)(_same_memory(tape, x, source, part) for part in result)
    if result.data_ptr() == x.data_ptr() or result.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
        return result, _same_memory(tape, x, source, result)
    if not may_copy:
        raise Unplannable("it copies values in an order of its own")
    if result.dtype is not x.dtype:
        raise Unplannable("it changes the type")
    if tuple(result.shape) == source.shape:
        return copied(tape, x, source, result)
    if not result.is_contiguous():
        raise Unplannable("a copy in an order of its own")
    # As reshape copies: in the order of x's dimensions.
    plain = x.contiguous()
    _, target = copied(tape, x, source, plain)
    again = plain.view(result.shape)
    return again, tape.view(again, target)


def _same_memory(tape: Tape, x: Tensor, source: Value, part: Tensor) -> Value:
    if part.untyped_storage().data_ptr() != x.untyped_storage().data_ptr() or part.dtype is not x.dtype:
        raise Unplannable("a part is a copy")
    return tape.view(part, source)


def _mean(tape: Tape, function: Any, args: Any, known: Any) -> tuple[Any, Any]:
    x, value = args[0][0], known[0][0]
    named = dict(zip(("dim", "keepdim", "dtype"), args[0][1:], strict=False)) | args[1]
    if set(named) - {"dim", "axis", "keepdim", "dtype"}:
        raise Unplannable("an argument of another name")
    dims = named.get("dim", named.get("axis"))
    if not isinstance(value, Value) or x.dim() != 4 or not isinstance(dims, tuple | list) or named.get("dtype"):
        raise Unplannable("a mean that is no average of images")
    if sorted(d % 4 for d in dims) != [2, 3] or x.dtype not in DTYPES:
        raise Unplannable("a mean that is no average of images")
    if x.stride(1) != 1 and not x.is_contiguous():
        x, value = copied(tape, x, value, dense(x))

    def pool(x: Tensor) -> Tensor:
        with below_autograd():
            pooled: Tensor = native.adaptive_avg_pool2d(x, (1, 1), tape.target.forced)
        return pooled

    pooled, made = tape.call(pool, [(x, value)], None, x)
    shape = (*x.shape[:2], 1, 1) if named.get("keepdim") else tuple(x.shape[:2])
    result = pooled.as_strided(shape, (x.shape[1], 1, 1, 1)[: len(shape)])
    return result, tape.view(result, made)


def _upsample(tape: Tape, function: Any, args: Any, known: Any) -> tuple[Any, Any]:
    x, value = args[0][0], known[0][0]
    mode = getattr(function, "mode", None) or _mode(function, args)
    if not isinstance(value, Value) or x.dim() != 4 or x.dtype not in DTYPES or mode != "nearest":
        raise Unplannable("an interpolation that is not nearest")
    result = function(*args[0], **args[1])
    (h, more_h), (w, more_w) = divmod(result.shape[2], x.shape[2]), divmod(result.shape[3], x.shape[3])
    if more_h or more_w or not h or not w:
        raise Unplannable("an interpolation by no whole factor")
    scale = _scale(function, args)
    if scale is not None and [float(s) for s in scale] != [h, w]:  # torch steps by the factor as given
        raise Unplannable("an interpolation by no whole factor")
    if x.dim() == 4 and not x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        x, value = copied(tape, x, value, dense(x))

    def run(x: Tensor) -> Tensor:
        with below_autograd():
            made: Tensor = native.upsample_nearest2d(x, (h, w), tape.target.forced)
        return made

    ours, made = tape.call(run, [(x, value)], None, x)
    if ours.stride() != result.stride():
        return copied(tape, ours, made, result)
    return ours, made


def _scale(function: Any, args: Any) -> tuple[Any, ...] | None:
    given = getattr(function, "scale_factor", None)
    if not isinstance(function, nn.Upsample):
        named = args[1].get("scale_factor", args[1].get("scale_factors"))
        given = args[0][2] if len(args[0]) > 2 else named
    return given if given is None else tuple(given) if isinstance(given, tuple | list) else (given, given)


def _mode(function: Any, args: Any) -> str:
    if function in (F.upsample_nearest, torch.ops.aten.upsample_nearest2d.vec):
        return "nearest"
    given = dict(zip(("size", "scale_factor", "mode"), args[0][1:], strict=False)) | args[1]
    return str(given.get("mode", "nearest"))
