"""Which tile a row takes for a problem: tests that are about a tile say so, as the model may come to choose another."""

import fastconv


def chosen_tile(op: str, row: str, dtype: str, text: str = "", **fields: object) -> str:
    """As `explain` words it: "128 x 64 tiles in clusters of 2"."""
    rows = fastconv.explain(op, text, backend="cuda_emulated", dtype=dtype, **fields).candidates
    return next(found.plan for found in rows if found.name == row).partition(",")[0]
