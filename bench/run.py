"""Runs every suite and rewrites the tables of README.md and docs: what a release does.

python bench/run.py [--quick] [--peers torch,inductor,onnxruntime,openvino]
"""

import sys

from fastconv.bench.suites import SUITES
from fastconv.cli.main import main

if __name__ == "__main__":
    readme = [] if "--quick" in sys.argv else ["--update-readme"]
    # The other suites have their tables in bench/results only.
    codes = [
        main(["bench", "--suite", s, *sys.argv[1:], *(readme if s in ("layers", "networks", "scaling") else [])])
        for s in SUITES
    ]
    sys.exit(max(codes))
