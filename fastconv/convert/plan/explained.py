"""What a plan does with the nodes of a program, for `fastconv.explain`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import fx

from fastconv.convert.plan.program import PlannedProgram

if TYPE_CHECKING:
    from fastconv.convert.program import Program
    from fastconv.convert.region import Region

_WHY = {
    "inverted_residual": "1x1, depthwise and 1x1 layers by bands or tiles: the tensors between them are never made",
    "depthwise_pointwise": "depthwise and 1x1 layers by bands or tiles: the tensor between them is never made",
    "conv_max_pool": "convolution and pooling by bands of rows: the tensor between them is never made",
    "copy": "one pass over memory",
    "add": "one pass over memory",
    "mul": "one pass over memory",
}


@dataclass(frozen=True)
class Planned:
    """The kernel of a node in the plan, and why it is that one."""

    kernel: str
    why: str


def planned(plan: PlannedProgram | None, node: fx.Node) -> Planned | None:
    """What computes the node where the plan does something else than running the node's step; None otherwise."""
    calls = None if plan is None else plan.by_node.get(node)
    if calls is None:
        return None
    if not calls:
        return Planned("in place", "its parts are written where it has them")
    op, nodes = calls[-1]
    if nodes == 1 and op not in ("copy", "add", "mul"):
        return None
    return Planned(op, _WHY.get(op, ""))


def facts(region: Region, path: str = "") -> list[str]:
    """Of the plan of a region and of those inside it, with the names of the latter."""
    name = f"{path}: " if path else ""
    said = [] if region.last is None else [name + line for line in _of_program(region.last)]
    for inner, child in region.children.items():
        said += facts(child, f"{path}.{inner}" if path else inner)
    return said


def _of_program(program: Program) -> list[str]:
    """What there is to say of the last call's plan, in a line each: why there is none, or its size and its graph."""
    plan = program.plan
    if plan is None:
        return [f"no plan: {program.unplanned}"] if program.unplanned else []
    graph = graph_facts(plan)
    return [_size(plan), *([] if graph is None else [graph])]


def _size(plan: PlannedProgram) -> str:
    segments = len(plan.runs)
    text = f"plan: {plan.kernel_count} kernel calls in {segments} segment{'s' if segments != 1 else ''}"
    if plan.fused:
        text += f", {plan.fused} of them for a chain of layers"
    return f"{text}; arena {plan.arena_bytes / 2**20:.1f} MiB"


def graph_facts(plan: PlannedProgram) -> str | None:
    """Whether a GPU's plan is replayed as a graph; None for the CPU's."""
    graph = plan.graph
    if graph is None:
        return None
    if graph.why is not None:
        return f"no CUDA graph: {graph.why}"
    if not graph.is_captured:
        return "no CUDA graph yet: it is captured at the second call of these shapes"
    more = " and of what torch computes in between" if plan.left else ""
    return f"CUDA graph of {plan.kernel_count} kernels{more}"
