"""The operators called directly, past fastconv.functional's checks: an error, never a crash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_wrong_arguments_are_refused_by_every_namespace_alike() -> None:
    program = Path(__file__).with_name("raw_operators.py")
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    ran = subprocess.run(
        [sys.executable, str(program), "1", "15"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert ran.returncode == 0, f"ended with {ran.returncode} in {ran.stderr.splitlines()[-1]}"
    *disagreements, last = ran.stdout.splitlines()
    assert disagreements == []
    served = int(last.split()[0])
    assert served > 25, "hardly a call was right, so that nothing was asked beyond the first check"
