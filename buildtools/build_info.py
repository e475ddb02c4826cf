"""Writes fastconv/_build_info.py: what was compiled, how, and what was left out and why."""

import pprint
import subprocess
from pathlib import Path
from typing import Any


def git_sha(root: Path) -> str:
    answer = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip() if answer.returncode == 0 else "unknown"


def compiler_version(compiler: str) -> str:
    answer = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True)
    return answer.stdout.splitlines()[0] if answer.stdout else compiler


def write_build_info(path: Path, info: dict[str, Any]) -> None:
    text = '"""Written by the build."""\n\nBUILD_INFO = ' + pprint.pformat(info, width=110, sort_dicts=False) + "\n"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
