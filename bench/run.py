"""Runs every suite and rewrites the README's tables: what a release does.

python bench/run.py [--quick]
"""

import sys

from fastconv.bench.suites import SUITES
from fastconv.cli.main import main

if __name__ == "__main__":
    readme = [] if "--quick" in sys.argv else ["--update-readme"]
    # The README shows layers and networks; the suite of operations has its table in bench/results only.
    codes = [
        main(["bench", "--suite", s, *sys.argv[1:], *(readme if s in ("layers", "networks") else [])]) for s in SUITES
    ]
    sys.exit(max(codes))
