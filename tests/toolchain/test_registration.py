"""How torch finds the backend, and how the package reads torch's settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv

ROOT = Path(fastconv.__file__).parents[1]


def test_the_entry_point_needs_no_import(tmp_path: Path) -> None:
    """As an installed package has it: Dynamo imports fastconv when the backend is asked for by name."""
    text = (ROOT / "pyproject.toml").read_text()
    section = text.partition("[project.entry-points.torch_dynamo_backends]\n")[2].partition("\n\n")[0]
    metadata = tmp_path / "fastconv-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fastconv\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(f"[torch_dynamo_backends]\n{section.replace(chr(34), '')}\n")
    code = (
        "import sys, torch\n"
        "conv = torch.nn.Conv2d(3, 4, 3)\n"
        "x = torch.randn(1, 3, 5, 5)\n"
        "assert 'fastconv' in torch._dynamo.list_backends()\n"
        "fast = torch.compile(conv, backend='fastconv', fullgraph=True)\n"
        "with torch.no_grad():\n"
        "    torch.testing.assert_close(fast(x), conv(x))\n"
        "import fastconv\n"
        "assert any(row.served for row in fastconv.explain(fast).rows)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT), *sys.path])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})


SETTINGS: dict[str, tuple[str, bool | None, bool | None]] = {
    # What is set; whether convolutions and matrix products may then use TF32.
    "everything in full": ("torch.backends.fp32_precision = 'ieee'", False, False),
    "everything in TF32": ("torch.backends.fp32_precision = 'tf32'", True, True),
    "convolutions in full": ("torch.backends.cudnn.conv.fp32_precision = 'ieee'", False, None),
    "convolutions in TF32": ("torch.backends.cudnn.conv.fp32_precision = 'tf32'", True, None),
    "products in full": ("torch.backends.cuda.matmul.fp32_precision = 'ieee'", None, False),
    "products in TF32": ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", None, True),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_tf32_follows_torchs_settings(name: str) -> None:
    """In a process of their own: torch does not let them be mixed with the older ones, which other tests set."""
    setting, conv, product = SETTINGS[name]
    checks = [
        f"assert c.tf32_allowed({use}) is {expected}"
        for use, expected in ((True, conv), (False, product))
        if expected is not None
    ]
    code = "\n".join(["import torch, fastconv._C as c", setting, *checks])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("setting", "use"), [("torch.backends.cudnn.allow_tf32", True), ("torch.backends.cuda.matmul.allow_tf32", False)]
)
def test_tf32_follows_the_older_settings(setting: str, use: bool) -> None:
    """Of which the newer ones are not to be mixed in."""
    code = (
        "import torch, fastconv._C as c\n"
        f"for on in (True, False):\n    {setting} = on\n    assert c.tf32_allowed({use}) is on"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
