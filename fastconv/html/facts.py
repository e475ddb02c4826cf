"""The table that closes every report: machine and versions."""

from __future__ import annotations

from typing import Any

from fastconv import machine


def fact_rows(described: dict[str, Any] | None = None, versions: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    """(name, value) pairs, of this machine now or of a stored run's."""
    described = machine.describe() if described is None else described
    versions = machine.versions() if versions is None else versions
    cores = described["cores"]
    rows = [("Processor", f"{described['cpu']}, {cores} core{'s' if cores != 1 else ''} in use")]
    if described.get("isa"):
        rows.append(("Instruction set", str(described["isa"])))
    if described.get("gpus"):
        rows.append(("GPU", ", ".join(described["gpus"])))
    rows.append(("System", f"{described['system']} {described['architecture']}"))
    rows += [(name, str(version)) for name, version in versions.items() if version]
    return rows
