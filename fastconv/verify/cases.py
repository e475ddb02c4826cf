"""The cases that `fastconv verify` and the tests run: small problems, chosen for the edges that kernels get wrong.

`all_cases()` is the whole list; `cases_of("conv2d")` one operator's; `parse("conv2d", "mb8ic64ih56oc64oh56kh3ph1")` one
from its problem string.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from .block_cases import ConvMaxPoolCase, DepthwisePointwiseCase, InvertedResidualCase
from .block_shapes import blocks
from .case import Case
from .conv_cases import ConvCase, ConvTransposeCase, UpsampleConvCase
from .conv_grad_cases import ConvBiasGradCase, ConvInputGradCase, ConvWeightGradCase, UpsampleConvGradCase
from .gemm_cases import GemmCase
from .norm_cases import BatchNormCase, BatchNormStatsCase
from .pool_cases import AvgPoolCase, PoolCase
from .shape_cases import (
    ActivationCase,
    AdaptiveAvgPoolCase,
    AdaptiveMaxPoolCase,
    Col2imCase,
    Im2colCase,
    SoftmaxCase,
    UpsampleCase,
)
from .shapes import ASYMMETRIC, CONV_SHAPES, EPILOGUES, FAMILIES, SPECIALS, WHOLE_GROUPS, act_options

__all__ = [
    "ActivationCase",
    "AdaptiveAvgPoolCase",
    "AdaptiveMaxPoolCase",
    "AvgPoolCase",
    "BatchNormCase",
    "BatchNormStatsCase",
    "Case",
    "Col2imCase",
    "ConvBiasGradCase",
    "ConvCase",
    "ConvInputGradCase",
    "ConvMaxPoolCase",
    "ConvTransposeCase",
    "ConvWeightGradCase",
    "DepthwisePointwiseCase",
    "GemmCase",
    "Im2colCase",
    "InvertedResidualCase",
    "PoolCase",
    "SoftmaxCase",
    "UpsampleCase",
    "UpsampleConvCase",
    "UpsampleConvGradCase",
    "all_cases",
    "cases_of",
    "parse",
]


def _conv() -> list[Case]:
    cases: list[Case] = []
    for text in CONV_SHAPES:
        cases += [ConvCase.parse(text), ConvCase.parse(text, fill="integer")]
    cases += [
        ConvCase.parse(text, padding=sides, fill=fill) for text, sides in ASYMMETRIC for fill in ("normal", "integer")
    ]
    cases += [ConvCase.parse(text, **options) for text in FAMILIES for options in (*act_options(), *EPILOGUES)]
    cases += [ConvCase.parse(text, **options) for text in FAMILIES for options in SPECIALS]
    # Reductions three times round the longest ring of stages; groups of whole k-steps, with every part of the epilogue;
    # the longest stride that TMA takes.
    cases += [
        ConvCase.parse(text, fill="integer") for text in ("mb1ic192ih5iw4oc24kh3ph1", "mb2ic16ih19iw9oc10kh3sh8ph3")
    ]
    cases.append(ConvCase.parse("g2mb1ic128ih4iw5oc24kh3ph1", fill="integer", **EPILOGUES[4]))
    return cases + [ConvCase.parse(WHOLE_GROUPS, **options) for options in (*EPILOGUES[3:5], *SPECIALS[3:8])]


def _upsample_conv() -> list[Case]:
    shapes = (
        "mb1ic1ih1oc1kh1", "mb2ic5ih4iw3oc7kh3ph1", "mb1ic16ih5oc18kh3ph1", "mb1ic4ih3oc5kh3ph1uh3",
        "mb1ic4ih3iw4oc5kh3ph1uh2uw1", "mb1ic3ih4oc6kh5ph2uh2uw3", "mb1ic5ih4oc6kh1", "mb1ic4ih5oc6kh3sh2ph1",
        "g2mb1ic6ih4oc8kh3ph1", "g8mb1ic8ih4iw5oc8kh3ph1", "mb1ic4ih4oc4kh3ph2dh1", "mb0ic4ih3oc4kh3ph1",
        "mb1ic3ih4oc4kh4ph2", "mb1ic2ih2oc3kh7ph3uh4",
    )  # fmt: skip
    base = "mb2ic6ih4iw3oc18kh3ph1"
    cases: list[Case] = [UpsampleConvCase.parse(text, fill=fill) for text in shapes for fill in ("normal", "integer")]
    cases += [UpsampleConvCase.parse(base, **options) for options in (*act_options()[::3], *EPILOGUES, *SPECIALS)]
    cases += [UpsampleConvCase.parse("mb1ic3ih4oc4kh4", padding=(1, 2, 2, 1))]
    # Reductions three times round the longest ring of stages; groups of whole k-steps, with every part of the epilogue.
    cases.append(UpsampleConvCase.parse("mb1ic384ih4iw3oc24kh3ph1", fill="integer"))
    cases.append(UpsampleConvCase.parse("g2mb1ic128ih5iw3oc16kh3ph1", fill="integer", **EPILOGUES[4]))
    backward = ("mb2ic3ih4iw5oc4kh3ph1", "mb1ic4ih3oc6kh5ph2uh3", "g2mb1ic4ih4oc6kh3sh2ph1")
    return cases + [UpsampleConvGradCase.parse(text) for text in backward]


def _conv_transpose() -> list[Case]:
    shapes: tuple[tuple[str, tuple[int, int]], ...] = (
        ("mb1ic1ih1oc1kh1", (0, 0)), ("mb2ic5ih4iw6oc7kh3ph1", (0, 0)), ("mb1ic8ih5oc6kh2sh2", (0, 0)),
        ("mb1ic18ih4oc9kh4sh2ph1", (0, 0)), ("mb2ic6ih4oc5kh3sh2ph1", (1, 1)), ("mb1ic4ih3iw5oc6kh3sh3sw2ph0", (2, 1)),
        ("g2mb1ic6ih4oc8kh3sh2ph1", (1, 0)), ("g8mb1ic8ih4oc8kh3sh2ph1", (1, 1)), ("mb1ic4ih4oc5kh3ph1dh1", (1, 0)),
        ("mb1ic3ih4oc4kh3sh2ph2dh2", (2, 2)), ("mb0ic3ih4oc4kh3", (0, 0)), ("mb1ic3ih5oc4kh5kw1ph2pw0", (0, 0)),
        ("mb1ic3ih3oc2kh1sh3", (0, 2)), ("mb1ic33ih3oc20kh3ph1", (0, 0)),
    )  # fmt: skip
    cases: list[Case] = [
        ConvTransposeCase.parse(text, output_padding=extra, fill=fill)
        for text, extra in shapes
        for fill in ("normal", "integer")
    ]
    # Three times round the longest ring of stages.
    deep = ("mb1ic192ih4iw3oc24kh3ph1", "mb1ic384ih4iw3oc24kh4sh2ph1")
    cases += [ConvTransposeCase.parse(text, fill="integer") for text in deep]
    options: tuple[dict[str, Any], ...] = (
        {"bias": False},
        {"view": "sliced"},
        {"view": "expanded"},
        {"view": "weight"},
    )
    return cases + [ConvTransposeCase.parse("mb2ic6ih4oc5kh3sh2ph1", **option) for option in options]


def _conv_grad() -> list[Case]:
    shapes = CONV_SHAPES
    cases: list[Case] = []
    for kind in (ConvInputGradCase, ConvWeightGradCase):
        cases += [kind.parse(text, fill="integer") for text in shapes]
        cases += [kind.parse(text) for text in (*shapes[2::4], *FAMILIES)]
        cases += [kind.parse(text, padding=sides) for text, sides in ASYMMETRIC]
        cases += [kind.parse(text, view=view) for text in FAMILIES for view in ("sliced", "expanded", "transposed")]
    # Sums over filters three times round the longest ring of stages; groups of whole steps, in phases.
    filters = ("mb1ic24ih5iw4oc192kh3ph1", "mb1ic72ih7iw9oc136kh3sh2ph1", "g2mb1ic16ih6iw5oc128kh3sh2ph1")
    cases += [ConvInputGradCase.parse(text, fill="integer") for text in filters]
    # Enough pixels for one block to go three times round the longest ring of stages, with few columns and with many.
    pixels = ("mb1ic8ih40iw39oc8kh1", "mb1ic8ih28iw32oc8kh2kw4")
    cases += [ConvWeightGradCase.parse(text, fill="integer", multiprocessors=1) for text in pixels]
    sums = ("mb2ic1ih7iw5oc19kh1", "mb0ic1ih3oc4kh1", "mb1ic1ih1oc1kh1", "mb3ic1ih30oc5kh1")
    cases += [ConvBiasGradCase.parse(text, fill=fill) for text in sums for fill in ("normal", "integer")]
    return cases + [ConvBiasGradCase.parse(sums[0], view=view) for view in ("sliced", "expanded", "transposed")]


def _gemm() -> list[Case]:
    shapes = (
        "m1k1n1", "m7k5n3", "m17k19n23", "m64k64n64", "m65k33n67", "m1k130n40", "m40k130n1", "m2k600n9", "m3k4n270",
        "m130k7n20", "m0k4n5", "m4k0n5", "b3m5k7n11", "b2m16k32n33", "b1m4k4n4",
    )  # fmt: skip
    cases: list[Case] = [GemmCase.parse(text, fill=fill) for text in shapes for fill in ("normal", "integer")]
    for text in ("m13k21n34", "b3m9k17n18"):
        for turn in ((True, False), (False, True), (True, True)):
            cases.append(GemmCase.parse(text, transpose_a=turn[0], transpose_b=turn[1], fill="integer"))
            cases.append(GemmCase.parse(text, transpose_a=turn[0], transpose_b=turn[1], residual=True))
    # Aligned and ragged in tiles: long enough to go round every ring of stages three times, and with every part of the
    # epilogue.
    cases.append(GemmCase.parse("m130k1160n264", fill="integer"))
    cases.append(GemmCase.parse("m130k72n136", residual=True, act="silu"))
    # K contiguous in both operands, round every ring again; and on so small a GPU that blocks share one in pairs, with
    # consumers in turns or, over a deep reduction, together.
    cases.append(GemmCase.parse("m130k600n264", transpose_b=True, fill="integer"))
    cases.append(GemmCase.parse("m130k600n500", transpose_b=True, fill="integer", multiprocessors=2))
    cases.append(GemmCase.parse("m130k1160n500", transpose_b=True, fill="integer", multiprocessors=2))
    cases.append(GemmCase.parse("m20k136n72", transpose_b=True, residual=True))
    # Aligned products of a batch that share an operand.
    cases += [GemmCase.parse("b3m24k72n40", view=view, fill="integer") for view in ("expanded", "weight_expanded")]
    base = "m9k17n35"
    cases += [GemmCase.parse(base, **options) for options in (*act_options(), {"bias": False}, {"residual": True})]
    specials: tuple[dict[str, Any], ...] = (
        {"fill": "nan", "act": "relu"}, {"fill": "inf"}, {"view": "sliced"}, {"view": "expanded"},
        {"view": "transposed"}, {"view": "offset"}, {"view": "weight"},
        {"residual": True, "act": "prelu", "alpha": "channel", "fill": "integer"},
    )  # fmt: skip
    return cases + [GemmCase.parse(base, **options) for options in specials]


def _pool() -> list[Case]:
    shapes = (
        "mb1ic1ih1kh1", "mb2ic5ih7iw11kh2sh2", "mb1ic18ih13kh3sh2ph1", "mb1ic16ih9kh3ph1", "mb1ic3ih10iw7kh5sh3ph2",
        "mb1ic4ih8kh3kw2sh1sw2ph1pw0", "mb0ic3ih5kh3", "mb1ic33ih7kh7", "mb1ic3ih6iw8kh2sh2",
    )  # fmt: skip
    cases: list[Case] = []
    for text in shapes:
        for ceil_mode in (False, True):
            cases.append(PoolCase.parse(text, ceil_mode=ceil_mode))
            cases += [AvgPoolCase.parse(text, ceil_mode=ceil_mode, count_include_pad=count) for count in (True, False)]
        cases += [PoolCase.parse(text, backward=True), AvgPoolCase.parse(text, backward=True, count_include_pad=False)]
    base = "mb2ic5ih9iw8kh3sh2ph1"
    cases += [PoolCase.parse("mb1ic5ih11kh3ph1dh1"), PoolCase.parse("mb1ic4ih12kh2sh2dh2", ceil_mode=True)]
    cases += [PoolCase.parse(base, fill="integer"), PoolCase.parse(base, fill="integer", ceil_mode=True, backward=True)]
    cases += [AvgPoolCase.parse(base, divisor_override=5), AvgPoolCase.parse(base, ceil_mode=True, backward=True)]
    for kind in (PoolCase, AvgPoolCase):
        cases += [kind.parse(base, fill=fill) for fill in ("nan", "inf")]
        cases += [kind.parse(base, view=view) for view in ("sliced", "expanded", "transposed", "offset")]
    return cases


def _adaptive() -> list[Case]:
    cases: list[Case] = []
    targets: tuple[tuple[tuple[int, ...], tuple[int | None, int | None]], ...] = (
        ((1, 1, 1, 1), (1, 1)), ((2, 18, 7, 7), (1, 1)), ((1, 5, 7, 11), (3, 4)), ((1, 3, 5, 6), (None, 2)),
        ((2, 4, 3, 4), (7, 5)), ((0, 3, 5, 5), (2, 2)),
    )  # fmt: skip
    for shape, size in targets:
        for kind in (AdaptiveAvgPoolCase, AdaptiveMaxPoolCase):
            cases += [kind(shape=shape, output_size=size, backward=backward) for backward in (False, True)]
    for kind in (AdaptiveAvgPoolCase, AdaptiveMaxPoolCase):
        cases += [kind(shape=(2, 5, 7, 6), output_size=(3, 3), fill="nan")]
        cases += [kind(shape=(2, 5, 7, 6), output_size=(3, 3), view=view) for view in ("sliced", "expanded")]
    return cases


def _elementwise() -> list[Case]:
    cases: list[Case] = []
    for options in ({"act": "identity"}, *act_options()):
        cases += [ActivationCase(shape=(2, 5, 3, 7), backward=backward, **options) for backward in (False, True)]
        cases += [ActivationCase(shape=(2, 5, 3, 7), fill=fill, **options) for fill in ("nan", "inf")]
    vectors: tuple[tuple[int, ...], ...] = ((1,), (0, 3), (1031,), (3, 17))
    for vector in vectors:
        cases += [ActivationCase(shape=vector, act=act) for act in ("relu", "silu")]
    cases += [
        ActivationCase(shape=(2, 5, 6, 7), act="hardswish", view=view) for view in ("sliced", "expanded", "offset")
    ]
    matrices: tuple[tuple[tuple[int, ...], int], ...] = (
        ((1, 1), -1), ((3, 17), 1), ((3, 17), 0), ((2, 5, 4, 3), 1), ((2, 1031), -1), ((2, 70, 8), 1), ((0, 4), -1),
    )  # fmt: skip
    for shape, dim in matrices:
        cases += [SoftmaxCase(shape=shape, dim=dim, backward=backward) for backward in (False, True)]
    return [*cases, SoftmaxCase(shape=(3, 18), fill="nan"), SoftmaxCase(shape=(4, 18), view="sliced")]


def _norm() -> list[Case]:
    shapes: tuple[tuple[int, ...], ...] = ((1, 1, 1, 2), (2, 5, 3, 7), (3, 16, 5, 5), (2, 33, 4, 6), (1, 264, 3, 3),
                                           (2, 3, 31, 37), (5, 8, 1, 1))  # fmt: skip
    cases: list[Case] = [BatchNormStatsCase(shape=shape, offset=offset) for shape in shapes for offset in (0.0, 300.0)]
    cases += [BatchNormStatsCase(shape=shapes[2], fill="integer"), BatchNormStatsCase(shape=shapes[1], fill="nan")]
    cases += [BatchNormStatsCase(shape=shapes[1], view=view) for view in ("sliced", "expanded", "transposed", "offset")]
    for backward in (False, True):
        cases += [BatchNormCase(shape=shape, backward=backward, act="relu") for shape in shapes]
        base = (2, 16, 3, 5)
        both: dict[str, Any] = {"backward": backward, "residual": True}
        cases += [BatchNormCase(shape=base, **both, **options) for options in ({"act": "identity"}, *act_options())]
        cases += [BatchNormCase(shape=shapes[1], backward=backward, act="silu", **options) for options in _NORM_OPTIONS]
        cases += [BatchNormCase(shape=(0, 3, 2, 2), backward=backward)]
    return [*cases, BatchNormCase(shape=shapes[1], fill="nan")]


_NORM_OPTIONS: tuple[dict[str, Any], ...] = (
    {"affine": False}, {"training": False}, {"training": False, "residual": True, "affine": False},
    {"view": "sliced"}, {"view": "expanded", "residual": True}, {"view": "transposed"}, {"view": "offset"},
)  # fmt: skip


def _resample() -> list[Case]:
    windows: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
        ((1, 1, 1, 1), {"kernel": (1, 1)}),
        ((2, 3, 7, 5), {"kernel": (3, 3), "padding": (1, 1)}),
        ((1, 5, 9, 8), {"kernel": (3, 2), "stride": (2, 1), "padding": (0, 1), "dilation": (1, 2)}),
        ((1, 17, 6, 6), {"kernel": (2, 2), "stride": (2, 2)}),
    )
    cases: list[Case] = []
    for shape, window in windows:
        cases += [Im2colCase(shape=shape, **window), Col2imCase(shape=shape, **window)]
        cases += [Col2imCase(shape=shape, fill="integer", **window), Im2colCase(shape=shape, backward=True, **window)]
        cases += [Col2imCase(shape=shape, backward=True, **window)]
    cases += [Im2colCase(shape=(2, 3, 7, 5), kernel=(3, 3), view=view) for view in ("sliced", "expanded", "transposed")]
    for shape, factor in (
        ((1, 1, 1, 1), (2, 2)),
        ((2, 5, 4, 3), (2, 3)),
        ((1, 18, 5, 5), (2, 2)),
        ((0, 2, 3, 3), (2, 2)),
    ):
        cases += [UpsampleCase(shape=shape, factor=factor, backward=backward) for backward in (False, True)]
    return cases


@cache
def all_cases() -> tuple[Case, ...]:
    """Every case, ids unique within an operator."""
    families: tuple[Callable[[], list[Case]], ...] = (
        _conv, _upsample_conv, _conv_transpose, _conv_grad, _gemm, _pool, _adaptive, _elementwise, _norm,
        _resample, blocks,
    )  # fmt: skip
    return tuple(case for family in families for case in family())


def cases_of(op: str) -> tuple[Case, ...]:
    """The cases of one operator, by the operator's name."""
    return tuple(case for case in all_cases() if case.op == op)


_PARSERS: dict[str, Callable[..., Case]] = {
    kind.op: kind.parse
    for kind in (
        ConvCase, UpsampleConvCase, ConvTransposeCase, ConvInputGradCase, ConvWeightGradCase, GemmCase, PoolCase,
        AvgPoolCase,
    )
}  # fmt: skip


def parse(op: str, text: str, **options: Any) -> Case:
    """The case of `op` with the shapes of a problem string, and any other field by name (act="relu", residual=True)."""
    if op not in _PARSERS:
        raise ValueError(f"parse: expected op to be one of {', '.join(_PARSERS)}, but got {op!r}")
    return _PARSERS[op](text, **options)
