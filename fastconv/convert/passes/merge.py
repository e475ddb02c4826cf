"""Merges what surrounds a convolution into it: y = act(norm(conv(pad(upsample(x)))) + residual), one kernel."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from fastconv.convert import ir
from fastconv.convert.ir import Context


def merge_norms(graph: fx.Graph, context: Context) -> None:
    """conv -> BatchNorm, where nothing else reads the convolution."""
    for node in list(graph.nodes):
        norm = ir.spec_of(node, ir.BatchNorm)
        if norm is None:
            continue
        producer = ir.inputs_of(node)[0]
        spec = ir.spec_of(producer, ir.Conv) or ir.spec_of(producer, ir.ConvTranspose)
        if spec is None or not ir.may_merge(producer) or not ir.may_read_later(*ir.inputs_of(producer)):
            continue
        if isinstance(spec, ir.Conv) and (spec.act.name != "identity" or spec.residual):
            continue
        merged = replace(spec, labels=spec.labels + norm.labels, norms=(*spec.norms, norm.norm))
        ir.put(node, merged, *ir.inputs_of(producer))
        ir.drop(producer)


def serve_norms(graph: fx.Graph, context: Context) -> None:
    """A BatchNorm that no convolution takes over has a kernel of its own, with an activation after it."""
    for node in list(graph.nodes):
        norm = ir.spec_of(node, ir.BatchNorm)
        if norm is not None:
            ir.put(node, ir.Normalise(norm.labels, norm.norm), *ir.inputs_of(node))


def merge_pads(graph: fx.Graph, context: Context) -> None:
    """zero pad -> conv. Each convolution takes the pad along, so other readers of the padded tensor do not matter."""
    for node in list(graph.nodes):
        spec = ir.spec_of(node, ir.Conv)
        while spec is not None and spec.upsample == (1, 1):
            x, *rest = ir.inputs_of(node)
            pad = ir.spec_of(x, ir.ZeroPad)
            if pad is None or x.meta.get("pinned") or not ir.may_read_later(*ir.inputs_of(x)):
                break
            top, bottom, left, right = (a + b for a, b in zip(spec.padding, pad.padding, strict=True))
            spec = replace(spec, labels=pad.labels + spec.labels, padding=(top, bottom, left, right))
            node = ir.put(node, spec, ir.inputs_of(x)[0], *rest)
            ir.drop(x)


def merge_upsampling(graph: fx.Graph, context: Context) -> None:
    """nearest upsampling by an integer factor -> conv, without the large tensor between them."""
    for node in list(graph.nodes):
        spec = ir.spec_of(node, ir.Conv)
        if spec is None or spec.upsample != (1, 1):
            continue
        x, *rest = ir.inputs_of(node)
        upsample = ir.spec_of(x, ir.Upsample)
        if upsample is None or x.meta.get("pinned") or not ir.may_read_later(*ir.inputs_of(x)):
            continue
        merged = replace(spec, labels=upsample.labels + spec.labels, upsample=upsample.scale)
        ir.put(node, merged, ir.inputs_of(x)[0], *rest)
        ir.drop(x)


def merge_residuals(graph: fx.Graph, context: Context) -> None:
    """conv + other: the kernel adds `other` while the result is in registers. Shapes are checked at run time."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        add = ir.spec_of(node, ir.Add)
        if add is None or node.meta.get("pinned"):
            continue
        pair = ir.inputs_of(node)
        candidates = [
            (producer, other)
            for producer, other in (pair, pair[::-1])
            if (spec := ir.spec_of(producer, ir.Conv)) is not None
            and spec.act.name == "identity"
            and not spec.residual
            and other is not producer
            and ir.may_merge(producer)
            and ir.may_read_later(other, *ir.inputs_of(producer))
        ]
        if not candidates:
            continue
        # Of two, the one that runs last anyway: the other is in memory by then.
        producer, other = max(candidates, key=lambda candidate: order.get(candidate[0], 0))
        spec = producer.meta["spec"]
        made = ir.put(
            node, replace(spec, labels=spec.labels + add.labels, residual=True), *ir.inputs_of(producer), other
        )
        order[made] = order[node]
        ir.drop(producer)


def merge_activations(graph: fx.Graph, context: Context) -> None:
    """conv, linear or BatchNorm -> activation, where nothing else reads the value before it."""
    for node in list(graph.nodes):
        activation = ir.spec_of(node, ir.Act)
        if activation is None:
            continue
        producer = ir.inputs_of(node)[0]
        spec = ir.spec_of(producer, ir.Conv) or ir.spec_of(producer, ir.Linear) or ir.spec_of(producer, ir.Normalise)
        if spec is None or spec.act.name != "identity" or not ir.may_merge(producer):
            continue
        if not ir.may_read_later(*ir.inputs_of(producer)):
            continue
        merged = replace(spec, labels=spec.labels + activation.labels, act=activation.act)
        ir.put(node, merged, *ir.inputs_of(producer))
        ir.drop(producer)
