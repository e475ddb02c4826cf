"""fastconv.explain: which kernel serves each layer of a network and why, and what is left to torch and why."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from fastconv import introspection
from fastconv.convert import ir, steps
from fastconv.convert.capture import is_scalar
from fastconv.convert.converted import ConvertedModule
from fastconv.convert.kernels import Choice, choose
from fastconv.convert.memory import memory_of
from fastconv.convert.narrow import why_not
from fastconv.convert.observe import example_values, function_of
from fastconv.convert.plan.explained import facts, planned
from fastconv.convert.program import Program
from fastconv.convert.region import Region
from fastconv.convert.replace import reason_to_leave, runs_on_fastconv
from fastconv.nn.layers import REPLACEMENTS

# Torch calls that move or rename values and compute nothing.
_RESHAPING = {
    "view", "reshape", "flatten", "permute", "transpose", "contiguous", "squeeze", "unsqueeze", "getitem", "size",
    "chunk", "split", "expand", "detach", "clone", "unflatten", "to", "movedim", "getattr", "restore",
}  # fmt: skip

# Why torch computes what has no kernel here, by the names of functions, methods and modules.
_LEFT = {
    "a concatenation copies each part once, outside of a plan": {
        "cat", "concat", "stack", "hstack", "vstack",
    },
    "arithmetic by itself: there is no kernel to merge it into": {
        "add", "sub", "rsub", "mul", "truediv", "div", "neg", "pow", "abs", "exp", "log", "sqrt", "rsqrt", "clamp",
        "maximum", "minimum", "where", "square",
    },
    "it normalises by statistics of its input, which no weight can take in": {
        "LayerNorm", "layer_norm", "GroupNorm", "group_norm", "InstanceNorm2d", "instance_norm", "normalize",
        "BatchNorm1d",
        "LocalResponseNorm",
    },
    "products of two computed tensors, as attention has them": {
        "matmul", "bmm", "einsum", "baddbmm", "scaled_dot_product_attention", "MultiheadAttention",
    },
    "a sum over part of the tensor; pooling by windows or to a size is what kernels do": {
        "mean", "sum", "amax", "max", "min", "argmax", "var", "std", "linalg_vector_norm",
    },
    "it moves values and computes nothing": {
        "PixelShuffle", "pixel_shuffle", "PixelUnshuffle", "pixel_unshuffle", "repeat", "roll", "flip", "gather",
        "index_select", "unbind", "expand_as", "reshape_as", "view_as", "meshgrid", "ChannelShuffle", "tile",
        "index_fill", "masked_fill", "unfold", "fold", "MaxUnpool2d", "max_unpool2d",
    },
}  # fmt: skip


@dataclass(frozen=True)
class LayerRow:
    """One step of a network: the model's names of what it computes, and who computes it."""

    layers: tuple[str, ...]
    operation: str
    served: bool
    kernel: str
    why: str
    problem: str = ""
    against: tuple[tuple[str, tuple[str, ...]], ...] = ()  # algorithms before the chosen one, and the reasons
    kept: ir.Kept | None = None  # where filters or channels were dropped
    cost: float | None = None  # predicted seconds: cpu of one image on one thread, cuda of the call

    @property
    def dropped(self) -> tuple[int, int]:
        """How many filters and how many input channels the values of the weights make superfluous."""
        kept = self.kept
        return (kept.of_filters - len(kept.filters), kept.of_channels - len(kept.channels)) if kept else (0, 0)

    @property
    def fused(self) -> bool:
        return self.served and len(self.layers) > 1


@dataclass
class Explanation:
    """A printable listing; `rows` in the order of execution."""

    title: str
    rows: list[LayerRow] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)  # of plans and memory

    @property
    def left(self) -> list[LayerRow]:
        """What torch computes."""
        return [row for row in self.rows if not row.served]

    def __str__(self) -> str:
        table = [("#", "kernel", "operation", "input", "us", "layers")]
        for index, row in enumerate(self.rows, start=1):
            kernel = row.kernel if row.served else f"torch: {row.kernel}"
            layers = join_labels(row.layers) if row.served else f"{join_labels(row.layers)}: {row.why}"
            predicted = "" if row.cost is None else f"{row.cost * 1e6:.0f}"
            table.append((str(index), kernel, row.operation, row.problem, predicted, layers))
        widths = [max(len(line[column]) for line in table) for column in range(5)]
        lines = [self.title]
        for line in table:
            cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
            lines.append("  ".join([*cells, line[5]]).rstrip())
        lines += self._kernels()
        served = [row for row in self.rows if row.served]
        merged = sum(len(row.layers) for row in served)
        if narrowed := [row.dropped for row in served if row.kept is not None]:
            filters, channels = (sum(counts) for counts in zip(*narrowed, strict=True))
            lines.append(f"left out, for being zero or never read: {filters} filters, {channels} input channels")
        lines += self.facts
        lines.append(f"{len(served)} kernels for {merged} layers; {len(self.left)} operations left to torch")
        return "\n".join(lines)

    def _kernels(self) -> list[str]:
        """Why each kernel is the one, with the reasons against others at its first use."""
        lines: list[str] = []
        seen: set[str] = set()
        for index, row in enumerate(self.rows, start=1):
            if row.served and row.why and row.kernel not in seen:
                seen.add(row.kernel)
                passed = "".join(f"; not {name}: {', '.join(reasons)}" for name, reasons in row.against)
                lines.append(f"{row.kernel}: {row.why}{f' (layer {index}{passed})' if passed else ''}")
        return lines


def join_labels(labels: tuple[str, ...]) -> str:
    """a.b.conv + a.b.bn as a.b.(conv + bn)"""
    if len(labels) == 1:
        return labels[0]
    paths = [label.split(".") for label in labels]
    common = 0
    while all(len(path) > common + 1 and path[common] == paths[0][common] for path in paths):
        common += 1
    rest = " + ".join(".".join(path[common:]) for path in paths)
    return f"{'.'.join(paths[0][:common])}.({rest})" if common else rest


def explain(subject: nn.Module | str, *problem: Any, **fields: Any) -> Any:
    """Says which kernel serves what, and why.

    Args:
        subject: a module made by `fastconv.convert`, one given to `fastconv.replace`, one made by
            ``torch.compile(model, backend="fastconv")`` (the graphs compiled so far), or the name of an operation such
            as "conv2d", whose problem follows: then every algorithm is listed with the reasons against.

    Returns:
        An object to print; for modules an `Explanation` with `.rows` and `.left`. Kernels depend on shapes: those of
        the network's last call are taken, so call it first (or convert with example_inputs).
    """
    if isinstance(subject, str):
        return introspection.explain(subject, *problem, **fields)
    if isinstance(subject, ConvertedModule):
        name = type(subject.source).__name__
        explanation = Explanation(f"{name}, converted by fastconv")
        _explain_region(subject.region, "", explanation.rows)
        memory = memory_of(subject.region)
        explanation.facts = [*why_not(subject.dtype, subject.computed), *facts(subject.region)]
        explanation.facts += [f"memory: {memory}"] if memory.plans else []
        return explanation
    if isinstance(subject, torch._dynamo.OptimizedModule):
        from fastconv.compiler.explained import explain_compiled

        return explain_compiled(subject)
    if isinstance(subject, nn.Module):
        return _explain_layers(subject)
    raise TypeError(f"explain: expected a module or the name of an operation, but got {type(subject).__name__}")


def _explain_region(region: Region, prefix: str, rows: list[LayerRow]) -> None:
    program = region.last or region.only_program()
    if program is None:
        name = prefix.rstrip(".") or type(region.module).__name__
        rows.append(LayerRow((name,), "forward", False, "runs unchanged", region.why or "it has not been called yet"))
        for path, child in region.children.items():
            _explain_region(child, f"{prefix}{path}.", rows)
        return
    try:
        read = example_values(program)
    except (RuntimeError, ValueError, NotImplementedError):
        read = None  # an opaque part refused random numbers
    for node in program.graph.nodes:
        rows.extend(explain_node(program, node, prefix, None if read is None else read.get(node, ())))
        inner = region.children.get(node.meta.get("module", ""))
        if inner is not None and (inner.last is not None or inner.children):
            _explain_region(inner, f"{prefix}{node.meta['module']}.", rows)


def explain_node(program: Program, node: fx.Node, prefix: str, read: tuple[Tensor, ...] | None) -> list[LayerRow]:
    """The rows of one node of a program, given the tensors that it reads."""
    if node.op in ("placeholder", "output", "get_attr") or node.meta.get("read"):
        return []
    function = function_of(program, node)
    spec = getattr(function, "spec", None)
    if isinstance(spec, ir.Spec):
        labels = tuple(prefix + label for label in spec.labels)
        choice = (
            choose(spec, function, read) if read else Choice(spec_operation(spec), "call it once to know its shape")
        )
        problem = "x".join(map(str, read[0].shape)) if read else ""
        kept = spec.kept if isinstance(spec, ir.Weighted) else None
        block = planned(program.plan, node)
        if block is not None:
            choice = Choice(block.kernel, block.why)
        why = (choice.kernel, choice.why, problem, choice.against, kept, choice.cost)
        return [LayerRow(labels, describe(spec), True, *why)]
    name = getattr(node.target, "__name__", str(node.target)).partition(".")[0]
    if isinstance(function, steps.FormatStep | steps.ReadStep) or name in _RESHAPING or is_scalar(node):
        return []
    if name in ("is_channels_last", "all_of"):
        return []
    label = node.meta.get("module") or ir.label_of(node)
    kind = node.meta.get("module_type", name)
    if kind == "Flatten":
        return []
    if taken := planned(program.plan, node):
        return [LayerRow((prefix + str(label),), kind, True, taken.kernel, taken.why)]
    return [LayerRow((prefix + str(label),), kind, False, kind, _why_left(node))]


def _why_left(node: fx.Node) -> str:
    if why := node.meta.get("why"):
        return str(why)
    spec = node.meta.get("spec")
    if isinstance(spec, ir.Add):
        return "no convolution to merge it into: its operands are read elsewhere, or activated before"
    if isinstance(spec, ir.ZeroPad | ir.Upsample):
        return "no convolution after it"
    if node.meta.get("pinned"):
        return "it writes to memory that is read under another name"
    name = node.meta.get("module_type") or getattr(node.target, "__name__", str(node.target))
    return next((why for why, names in _LEFT.items() if name in names), "not one of the operations that convert serves")


def spec_operation(spec: ir.Spec) -> str:
    """The operation of fastconv.functional behind a spec."""
    if isinstance(spec, ir.Conv):
        return "conv2d" if spec.upsample == (1, 1) else "upsample_conv2d"
    if isinstance(spec, ir.ConvTranspose):
        return "conv_transpose2d"
    if isinstance(spec, ir.Pool):
        return spec.function
    if isinstance(spec, ir.Normalise | ir.Softmax):
        return "batch_norm_act" if isinstance(spec, ir.Normalise) else "softmax"
    return "linear" if isinstance(spec, ir.Linear) else f"{spec.act.name}" if isinstance(spec, ir.Act) else "?"


def describe(spec: ir.Spec) -> str:
    """What a step computes, such as `conv 3x3 /2 g32 +bn +residual +relu6, 24/32 filters, 16/16 channels`."""
    if isinstance(spec, ir.Conv | ir.ConvTranspose):
        r, s = spec.weight.read().shape[2:]
        parts = ["conv" if isinstance(spec, ir.Conv) else "conv_transpose", f"{r}x{s}"]
        if isinstance(spec, ir.Conv) and spec.upsample != (1, 1):
            parts.insert(0, f"upsample {spec.upsample[0]}x{spec.upsample[1]},")
        parts += [f"/{spec.stride[0]}"] if spec.stride != (1, 1) else []
        parts += [f"d{spec.dilation[0]}"] if spec.dilation != (1, 1) else []
        parts += [f"g{spec.groups}"] if spec.groups > 1 else []
        parts += ["+bn"] * len(spec.norms)
        parts += ["+residual"] if isinstance(spec, ir.Conv) and spec.residual else []
        parts += [f"+{spec.act.name}"] if isinstance(spec, ir.Conv) and spec.act.name != "identity" else []
        return " ".join(parts) + _describe_kept(spec.kept)
    if isinstance(spec, ir.Linear):
        return "linear" + (f" +{spec.act.name}" if spec.act.name != "identity" else "") + _describe_kept(spec.kept)
    if isinstance(spec, ir.Normalise):
        return "bn" + (f" +{spec.act.name}" if spec.act.name != "identity" else "")
    return spec_operation(spec)


def _describe_kept(kept: ir.Kept | None) -> str:
    if kept is None:
        return ""
    return f", {len(kept.filters)}/{kept.of_filters} filters, {len(kept.channels)}/{kept.of_channels} channels"


def _explain_layers(model: nn.Module) -> Explanation:
    """For a model whose layers were swapped one for one."""
    explanation = Explanation(f"{type(model).__name__}, layer by layer")
    for path, module in model.named_modules():
        if next(module.children(), None) is not None and not isinstance(module, tuple(REPLACEMENTS)):
            continue
        kind = type(module)
        if runs_on_fastconv(kind):
            explanation.rows.append(LayerRow((path,), kind.__name__, True, "fastconv", ""))
            continue
        reason = reason_to_leave(module)
        if reason is None:
            reason = "fastconv.replace(model) would serve it" if kind in REPLACEMENTS else "fastconv has no such layer"
        explanation.rows.append(LayerRow((path,), kind.__name__, False, kind.__name__, textwrap.shorten(reason, 100)))
    return explanation
