"""Cases for the tiles of Hopper's kernels that the operators' own cases are too small for.

On one or two multiprocessors a problem of a few tiles is a large one: the model (csrc/cuda/model.h) takes wide tiles,
clusters, and blocks with several tiles, whose consumers take turns. They take turns with the narrow tile, too, unless a
wide tile's reduction is long beside its epilogue, hence the depths.
"""

from __future__ import annotations

from .case import Case
from .cases import parse
from .conv_stats_cases import ConvStatsCase

# Pixels, or rows, of one tile, and of three or four: with two multiprocessors, pairs of tiles in clusters.
_PIXELS = (("ih8", (64, 128, 256)), ("ih17", (64, 128)), ("ih22", (256,)))
_ROWS = ((96, (128, 256)), (400, (128, 256)))


def tile_cases() -> tuple[Case, ...]:
    """Every size of tile, alone and in a cluster, with every kind of epilogue."""
    cases: list[Case] = []
    for epilogue in ({"act": "relu"}, {"residual": True}, {"act": "elu"}):
        for pixels, widths in _PIXELS:
            cases += [parse("conv2d", f"ic128{pixels}oc{filters}kh3ph1", **epilogue) for filters in widths]
        for rows, widths in _ROWS:
            cases += [parse("gemm", f"m{rows}k1120n{n}", transpose_b=True, **epilogue) for n in widths]
    # elu's epilogue is not unrolled: it takes turns the longest. Small integers, as sums of so many others would show
    # the order in which they are added.
    cases += [parse("conv2d", f"ic4928{pixels}oc256kh1", act="elu", fill="integer") for pixels in ("ih8", "ih22")]
    cases += [parse("gemm", f"m{rows}k4928n256", transpose_b=True, act="elu", fill="integer") for rows, _ in _ROWS]
    for pixels, widths in _PIXELS:
        cases += [ConvStatsCase.parse(f"ic128{pixels}oc{filters}kh3ph1") for filters in widths]
    for filters in (128, 256):
        cases.append(parse("conv_transpose2d", f"ic64ih8oc{filters}kh3sh2ph1", act="elu"))
        cases.append(parse("upsample_conv2d", f"ic64ih8oc{filters}kh3ph1uh2", act="elu"))
    cases += [parse("conv2d_weight_grad", f"ic{channels}ih8oc128kh3ph1") for channels in (64, 128)]
    return tuple(cases)
