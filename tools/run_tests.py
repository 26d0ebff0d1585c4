"""Run every test of the book in one go of pytest.

The unit tests and doctests, the book's own tests, the chapters once more
with nbval at the smallest budget, the site in a browser, the PDF. The files
are dealt out to a few processes, each file whole, for its fixtures and for
the cells of a chapter that build on one another. Words on the command line
go to pytest instead of the usual selection.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tools.chapters import chapters
from tools.common import ROOT

CELL_TIMEOUT = 600  # seconds; the smallest budget needs a few
MOST_PROCESSES = 4  # each may hold two gigabytes


def command(arguments: list[str]) -> list[str]:
    """The call of pytest."""
    pytest = [sys.executable, "-m", "pytest", "-q", "--durations=10"]
    pytest += ["--numprocesses=logical", f"--maxprocesses={MOST_PROCESSES}"]
    pytest += ["--dist=loadfile"]
    if arguments:
        return [*pytest, *arguments]
    nbval = ["--nbval-lax", "--nbval-current-env"]
    nbval += [f"--nbval-cell-timeout={CELL_TIMEOUT}"]
    notebooks = [str(path.relative_to(ROOT)) for path in chapters()]
    return [*pytest, *nbval, "tests", "code/llmbook", *notebooks]


def main() -> int:
    """Run pytest; return its exit status."""
    defaults = {"LLMBOOK_BUDGET": "smoke", "OMP_NUM_THREADS": "1"}
    environment = defaults | os.environ
    words = command(sys.argv[1:])
    return subprocess.run(words, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
