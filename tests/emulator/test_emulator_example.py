"""The example of docs/emulator.md, built and run as the page says."""

import re
import subprocess
import sys

import pytest
from emulator_build import ROOT, require_toolchain

PAGE = (ROOT / "docs" / "emulator.md").read_text()


@pytest.mark.parametrize("fixed", [False, True], ids=["as_printed", "fixed"])
def test_example_of_the_documentation(tmp_path, fixed):
    require_toolchain()
    source = re.search(r"```cpp\n// saxpy.cu\n(.*?)```", PAGE, re.DOTALL)[1]
    if fixed:
        assert "i <= n" in source
        source = source.replace("i <= n", "i < n")
    (tmp_path / "saxpy.cu").write_text("// saxpy.cu\n" + source)
    program = tmp_path / "saxpy"
    build = [sys.executable, "-m", "buildtools.emulated", "--program", "-o", str(program), str(tmp_path / "saxpy.cu")]
    subprocess.run(build, check=True, cwd=ROOT)
    answer = subprocess.run([program], capture_output=True, text=True)
    if fixed:
        assert answer.returncode == 0
        assert answer.stdout == "y[0] = 5\n"
    else:
        assert answer.returncode == 1
        printed = re.search(r"&& ./saxpy\n(.*?)```", PAGE, re.DOTALL)[1]
        # Which of the two operands is loaded first is the compiler's choice.
        assert answer.stdout.replace("of x,", "of y,") == printed
