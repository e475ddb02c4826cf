"""Capturing with known shapes: code that computes its padding from `x.shape`, or branches on it, is followed."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fastconv.convert.capture import CaptureError, RecordingProxy, Tracer

_TENSOR: Any = Tensor  # Any, since mypy minds that both bases have such methods as __abs__


class _ShapedProxy(RecordingProxy, _TENSOR):
    """A recorded tensor that knows its shape and type: `value` is a tensor on the meta device, without data.

    It is such a tensor itself too. Code asks isinstance(x, torch.Tensor), and so does torch's C++, which then reads the
    object as a tensor: torch.as_tensor(x) would crash on anything that only says so.
    """

    value: Tensor
    _is_param = _is_buffer = False  # asked by isinstance(x, nn.Parameter) and (x, nn.Buffer)

    def __new__(cls, node: fx.Node, tracer: ShapedTracer, value: Tensor) -> Any:
        return Tensor._make_subclass(cls, value)

    def __init__(self, node: fx.Node, tracer: ShapedTracer, value: Tensor) -> None:
        super().__init__(node, tracer)
        self.value = value

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") == "__get__":  # a property that is not among those below, such as x.T
            owner = args[0]
            return owner.tracer.create_proxy("call_function", getattr, (owner, function.__self__.__name__), {})
        return super().__torch_function__(function, types, args, kwargs)

    @property
    def shape(self) -> torch.Size:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return self.value.ndim

    @property
    def dtype(self) -> torch.dtype:
        return self.value.dtype

    @property
    def device(self) -> torch.device:
        return self.tracer.device  # type: ignore[attr-defined]

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def requires_grad(self) -> bool:
        return False

    def size(self, dim: int | None = None) -> Any:
        return self.value.size() if dim is None else self.value.size(dim)

    def dim(self) -> int:
        return self.value.dim()

    def numel(self) -> int:
        return self.value.numel()

    nelement = numel
    ndimension = dim

    def __float__(self) -> float:
        raise CaptureError("float() asks for a value, which a graph does not have")

    def __int__(self) -> int:
        raise CaptureError("int() asks for a value, which a graph does not have")

    def item(self) -> Any:
        raise CaptureError(".item() asks for a value, which a graph does not have")

    def tolist(self) -> Any:
        raise CaptureError(".tolist() asks for values, which a graph does not have")

    def is_floating_point(self) -> bool:
        return self.value.is_floating_point()

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Any:
        return iter([operator.getitem(self, index) for index in range(len(self.value))])


class ShapedTracer(Tracer):
    """Runs every recorded operation on meta tensors as well. What comes out that is no tensor is a plain constant."""

    device: torch.device = torch.device("cpu")
    _evaluating = False

    def _input_proxy(self, name: str, example: Tensor) -> Any:
        self.device = example.device
        node = self.create_node("placeholder", name, (), {})
        return _ShapedProxy(node, self, torch.empty_like(example, device="meta"))

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return forward(*args, **kwargs) if self._evaluating else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        return attr_val if self._evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_arg(self, a: Any) -> Any:
        # Before fx asks whether it is a tensor, which would make it a constant.
        if issubclass(type(a), fx.Proxy):
            return a.node
        if isinstance(a, Tensor) and a.is_meta:
            raise CaptureError("it uses a value that was made past the recording, such as what torch.tensor(x) copies")
        return super().create_arg(a)

    def _tensor_proxy(self, name: str, tensor: Tensor) -> Any:
        return _ShapedProxy(self.create_node("get_attr", name, (), {}), self, torch.empty_like(tensor, device="meta"))

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
        proxy_factory_fn: Any = None,
    ) -> Any:
        if target == "__setitem__":  # z[...] = x, where z is no recorded tensor: which keeps no record of it
            raise CaptureError("it assigns to items of a tensor that the forward made itself")
        value = self._evaluate(kind, target, args, kwargs)
        if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value)):
            return value
        recorded: Any = self.create_arg(args)
        keywords: Any = self.create_arg(kwargs)
        return self._wrap(self.create_node(kind, target, recorded, keywords, name, type_expr), value)

    def _wrap(self, node: fx.Node, value: Any) -> Any:
        if isinstance(value, Tensor):
            return _ShapedProxy(node, self, value)
        if isinstance(value, dict):
            return type(value)(
                (key, self._wrap(self.create_node("call_function", operator.getitem, (node, key), {}), part))
                for key, part in value.items()
            )
        if isinstance(value, tuple | list):
            parts = [
                self._wrap(self.create_node("call_function", operator.getitem, (node, index), {}), part)
                for index, part in enumerate(value)
            ]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        return value

    def _evaluate(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def plain(leaf: Any) -> Any:
            if isinstance(leaf, _ShapedProxy):
                return leaf.value
            if isinstance(leaf, fx.Proxy):
                raise CaptureError(f"{leaf} has no known shape")
            if isinstance(leaf, Tensor):
                return leaf.to("meta")
            return torch.device("meta") if isinstance(leaf, torch.device) else leaf

        args, kwargs = pytree.tree_map(plain, (args, kwargs))
        self._evaluating = True
        try:
            if kind == "call_function":
                return target(*args, **kwargs)
            if kind == "call_method":
                return getattr(args[0], target)(*args[1:], **kwargs)
            module = self.root.get_submodule(target)
            state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            empty = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
            return torch.func.functional_call(module, empty, args, kwargs)
        finally:
            self._evaluating = False
