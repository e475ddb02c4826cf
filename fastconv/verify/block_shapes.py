"""Which blocks `fastconv verify` runs: small, at the edges that rings of rows and pairs of stages get wrong."""

from typing import Any

from .block_cases import ConvMaxPoolCase, DepthwisePointwiseCase, InvertedResidualCase
from .case import Case
from .conv_stats_cases import conv_stats

_WINDOWS: tuple[dict[str, Any], ...] = (
    {"size": (1, 1)},
    {"size": (7, 7)},
    {"size": (13, 11), "batch": 2},
    {"size": (14, 14), "stride": (2, 2)},
    {"size": (9, 17), "kernel": (5, 5), "padding": (2, 2, 2, 2)},
    {"size": (15, 10), "kernel": (5, 5), "stride": (2, 2), "padding": (1, 2, 1, 2)},
    {"size": (10, 12), "kernel": (7, 7), "padding": (3, 3, 3, 3)},
    {"size": (12, 9), "kernel": (7, 7), "stride": (2, 2), "padding": (3, 3, 3, 3)},
    {"size": (5, 4), "padding": (4, 3, 5, 2)},  # rows and columns of nothing but padding
    {"size": (8, 31), "padding": (0, 0, 0, 0)},
    {"size": (11, 12), "dilation": (2, 2), "padding": (2, 2, 2, 2)},
    {"size": (9, 8), "dilation": (3, 1), "padding": (3, 3, 1, 1)},
    {"size": (9, 10), "kernel": (1, 4), "padding": (0, 0, 1, 2)},
    {"size": (8, 13), "stride": (3, 1)},
    {"size": (8, 13), "stride": (1, 3)},
    {"size": (3, 50), "stride": (2, 1)},
    {"size": (40, 3)},
    {"size": (18, 2), "kernel": (17, 1), "padding": (8, 8, 0, 0)},
    {"batch": 0},
)
_ACTS = ("relu", "leaky_relu", "prelu", "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "gelu", "elu")


def _inverted_residuals() -> list[Case]:
    make = InvertedResidualCase
    cases: list[Case] = []
    for number, window in enumerate(_WINDOWS):
        widths: dict[str, Any] = {
            "channels": (5, 16, 24)[number % 3],
            "hidden": (18, 40, 33, 6)[number % 4],
            "filters": (7, 24)[number % 2],
        }
        cases += [make(**widths, **window), make(channels=3, hidden=19, filters=5, fill="integer", **window)]
    square: dict[str, Any] = {"channels": 12, "hidden": 35, "filters": 12, "size": (9, 10), "residual": True}
    cases += [make(acts=(act, act, act), **square) for act in _ACTS]
    cases += [make(bias=False, acts=("identity",) * 3, **square)]
    cases += [
        make(fill=fill, acts=("relu6", act, "identity"), **square)
        for fill, act in (("nan", "relu6"), ("nan", "silu"), ("inf", "relu6"))
    ]
    cases += [make(view=view, **square) for view in ("sliced", "expanded", "transposed", "offset", "weight")]
    # Several bands of rows with a ring between them; reductions of more than one chain.
    cases += [
        make(channels=8, hidden=192, filters=20, size=(40, 58)),
        make(channels=8, hidden=192, filters=20, size=(41, 57), stride=(2, 2), kernel=(5, 5), padding=(2, 2, 2, 2)),
        make(channels=260, hidden=520, filters=33, size=(4, 4), batch=2, residual=False),
    ]
    return cases


def _depthwise_pointwise() -> list[Case]:
    make = DepthwisePointwiseCase
    cases: list[Case] = []
    for number, window in enumerate(_WINDOWS):
        widths: dict[str, Any] = {"channels": (18, 40, 33, 16)[number % 4], "filters": (7, 24)[number % 2]}
        cases += [make(**widths, **window), make(channels=19, filters=5, fill="integer", **window)]
    square: dict[str, Any] = {"channels": 20, "filters": 20, "size": (9, 10), "residual": True}
    cases += [make(acts=(act, act), **square) for act in _ACTS]
    cases += [make(bias=False, **square), make(fill="nan", **square), make(channels=6, filters=5, multiplier=2)]
    cases += [make(view=view, **square) for view in ("sliced", "expanded", "transposed", "offset", "weight")]
    return [
        *cases,
        make(channels=256, filters=24, size=(30, 29)),
        make(channels=300, filters=40, size=(20, 21), batch=2),
    ]


def _conv_max_pools() -> list[Case]:
    make = ConvMaxPoolCase
    stem: dict[str, Any] = {"channels": 3, "kernel": (7, 7), "stride": (2, 2), "padding": (3, 3, 3, 3)}
    cases: list[Case] = [
        make(fill=fill, filters=filters, **geometry)
        for fill in ("normal", "integer", "nan")
        for filters, geometry in (
            (18, {**stem, "size": (33, 30)}),
            (33, {"channels": 5, "size": (11, 13), "batch": 2}),
            (16, {"channels": 6, "size": (9, 8), "pool": (2, 2, 0, 1)}),
            (9, {"channels": 4, "size": (12, 10), "pool": (3, 1, 1, 2), "kernel": (1, 1), "padding": (0, 0, 0, 0)}),
            (8, {"channels": 4, "groups": 2, "size": (13, 12), "pool": (2, 3, 1, 1), "ceil_mode": True}),
        )
    ]
    cases += [
        make(channels=3, filters=20, size=(40, 6), pool=(3, 2, 1, 1)),
        make(channels=3, filters=70, size=(90, 70), kernel=(3, 3)),
        make(channels=3, filters=6, size=(1, 1), pool=(1, 1, 0, 1)),
        make(channels=3, filters=6, size=(2, 2), padding=(4, 4, 3, 3)),
        make(channels=3, filters=6, size=(9, 9), batch=0),
        make(channels=8, filters=8, groups=8, size=(9, 9)),
    ]
    cases += [make(acts=(act,), filters=19, **stem, size=(19, 18)) for act in _ACTS]
    return cases + [make(view=view, filters=19, **stem, size=(19, 18)) for view in ("sliced", "transposed", "weight")]


def blocks() -> list[Case]:
    """Every case of a block, and of a convolution with its statistics."""
    return [*_inverted_residuals(), *_depthwise_pointwise(), *_conv_max_pools(), *conv_stats()]
