"""Asking the compiled module which algorithm a step's problem gets, and what speaks against the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastconv import backends, introspection
from fastconv.convert import ir, steps


@dataclass(frozen=True)
class Choice:
    """A kernel's name, why it is the one, and the reasons against the algorithms that are tried before it."""

    kernel: str
    why: str
    against: tuple[tuple[str, tuple[str, ...]], ...] = ()
    cost: float | None = None  # predicted seconds, where the algorithm has an opinion: see introspection.Candidate


def choose(spec: ir.Spec, step: Any, read: tuple[Tensor, ...]) -> Choice:
    """What runs for the tensors that a step reads."""
    asked = _problem(spec, step, read)
    if asked is None:
        name = spec.function if isinstance(spec, ir.Pool) else spec.act.name if isinstance(spec, ir.Act) else "softmax"
        if isinstance(spec, ir.Normalise):
            name = "batch_norm_act"
        return Choice(name, "one kernel for every problem")
    return choose_algorithm(*asked, backends.resolve(read[0].device))


def choose_algorithm(op: str, problem: dict[str, Any], backend: str) -> Choice:
    """The algorithm that the table gives this problem, its summary, and what spoke against those before it."""
    if not introspection.algorithms(op, backend):
        return Choice(backend, "the one implementation that this backend has")
    found = introspection.explain(op, backend=backend, **problem)
    rows = found.candidates
    if found.chosen is None:
        return Choice("none", "; ".join(f"{row.name}: {', '.join(row.reasons)}" for row in rows))
    position = [row.name for row in rows].index(found.chosen)
    before = [(row.name, row.reasons or ("not preferred for this problem",)) for row in rows[:position]]
    return Choice(found.chosen, rows[position].summary, tuple(before), rows[position].cost)


def _problem(spec: Any, step: Any, read: tuple[Tensor, ...]) -> tuple[str, dict[str, Any]] | None:
    if not isinstance(spec, ir.Conv | ir.ConvTranspose | ir.Linear):
        return None
    x = read[0]
    weight: Tensor = step.prepared.weight
    fields: dict[str, Any] = {"dtype": str(weight.dtype).removeprefix("torch."), "bias": step.prepared.bias is not None}
    if isinstance(spec, ir.Linear):
        rows = x.numel() // max(x.shape[-1], 1)
        size = {"M": rows, "N": weight.shape[0], "K": weight.shape[1], "transpose_b": True}
        return "gemm", {**fields, **size, "act": spec.act.name}
    n, c, h, w = (1, *x.shape) if x.dim() == 3 else x.shape
    fields.update(N=n, C=c, H=h, W=w, R=weight.shape[2], S=weight.shape[3], groups=spec.groups)
    fields.update(stride_h=spec.stride[0], stride_w=spec.stride[1])
    fields.update(dilation_h=spec.dilation[0], dilation_w=spec.dilation[1])
    own = steps.is_channels_last(x) or steps.is_channels_last(weight)
    fields.update(channels_last=own, weight_channels_last=steps.is_channels_last(weight))
    if isinstance(spec, ir.ConvTranspose):
        # The table is that of the input gradient: of the convolution whose output our input is.
        k_out = weight.shape[1] * spec.groups
        kernel = weight.shape[2:]
        out = [
            (extent - 1) * stride - 2 * pad + dilation * (side - 1) + more + 1
            for extent, stride, pad, dilation, side, more in zip(
                (h, w), spec.stride, spec.padding, spec.dilation, kernel, spec.output_padding, strict=True
            )
        ]
        top, left = spec.padding
        fields.update(K=c, C=k_out, H=out[0], W=out[1], pad_top=top, pad_bottom=top, pad_left=left, pad_right=left)
        return "conv_transpose2d", fields
    assert isinstance(spec, ir.Conv)
    fields.update(zip(("pad_top", "pad_bottom", "pad_left", "pad_right"), spec.padding, strict=True))
    fields.update(K=weight.shape[0], act=spec.act.name, residual=spec.residual)
    if spec.upsample == (1, 1):
        return "conv2d", fields
    return "upsample_conv2d", {**fields, "scale_h": spec.upsample[0], "scale_w": spec.upsample[1]}
