"""Mutants that change nothing that counts, and why."""

# (file, operator, source line, place on that line counted from 0) -> reason.
EQUIVALENT: dict[tuple[str, str, str, int], str] = {}
