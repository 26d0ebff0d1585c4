"""Times that the host of a virtual machine did not lengthen.

A host that lends one processor to several machines takes it away at times,
for milliseconds or for minutes, and Linux counts for how long ("steal",
``/proc/stat``). What was measured meanwhile says nothing about a program.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

STAT = Path("/proc/stat")
STOLEN_FIELD = 8  # of the line "cpu user nice system idle ..."
CALM = 0.03  # of all processors' time; below that it is noise
TRIES, PAUSE = 20, 1.0  # and seconds between two of them
Result = TypeVar("Result")


def stolen(stat: Path = STAT) -> float:
    """Seconds that the host has taken so far, of all processors together.

    0 where nobody counts them: on a machine of its own, or another system.
    """
    try:
        fields = stat.read_text(encoding="ascii").split("\n", 1)[0].split()
        return int(fields[STOLEN_FIELD]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError, AttributeError):
        return 0.0


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds of ``work``, and what it returned; again if disturbed.

    After ``TRIES`` disturbed ones the least disturbed counts, and a line on
    stderr says so.
    """
    found: list[tuple[float, float, Result]] = []
    for _ in range(TRIES):
        before, start = stolen(), time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
        share = (stolen() - before) / (seconds * (os.cpu_count() or 1))
        found.append((share, seconds, result))
        if share <= CALM:
            return seconds, result
        time.sleep(PAUSE)
    share, seconds, result = min(found, key=lambda one: one[0])
    print(
        f"  never calm in {TRIES} tries: the host took {share:.0%} of the "
        "processors' time in the calmest, which counts",
        file=sys.stderr,
        flush=True,
    )
    return seconds, result
