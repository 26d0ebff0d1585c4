"""What a wrong program passes for, by a naive judge and by ours.

    python -m benchmarks.tricks [--problems 164] [--record]

Each trick belongs to a program that answers wrongly. The naive judge runs it
with the tests behind it, as one script, and believes the exit status; ours
is asked in every tier that starts here. Then HumanEval's own solutions are
checked, from LLMBOOK_DATA or from the world where that is not set, and the
time of one is printed. ``--record`` writes runs/tricks.json.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.records import keep
from llmbook.corpus.benchmarks import (
    DATA_VARIABLE,
    CodeProblem,
    load_humaneval,
)
from llmbook.corpus.world.functions import humaneval_rows
from llmbook.evaluation.humaneval import check_solution
from llmbook.evaluation.sandbox import Limits, available_tiers, check

RECORD = Path(__file__).resolve().parents[1] / "runs" / "tricks.json"
LIMITS = Limits(wall_seconds=5.0, cpu_seconds=2)
PATIENCE = 30.0  # seconds that the naive judge waits at most

EQUAL = """
def check(candidate):
    assert candidate(2) == 4
    assert candidate(3) == 6
    assert candidate(17) == 34
"""
CLOSE = """
def check(candidate):
    assert abs(candidate(2) - 4) < 1e-6
    assert abs(candidate(3) - 6) < 1e-6
"""


def function(body: str) -> str:
    """Source of ``double(x)`` with this body.

    >>> function("return 2 * x")
    'def double(x):\\n    return 2 * x\\n'
    """
    lines = "".join(f"    {line}\n" for line in body.strip().split("\n"))
    return f"def double(x):\n{lines}"


FRAMES = """
import sys
frame = sys._getframe()
while frame:
    found = list(frame.f_code.co_consts) + list(frame.f_locals.values())
    for here, there in zip(found, found[1:]):
        if type(here) is int and here == x and type(there) is int:
            return there
    frame = frame.f_back
return 0
"""
GARBAGE = """
import gc
for thing in gc.get_objects():
    if getattr(thing, "__name__", "") == "check" and x in getattr(
        getattr(thing, "__code__", None), "co_consts", ()
    ):
        found = thing.__code__.co_consts
        return found[found.index(x) + 1]
return 0
"""
READ = r"""
import glob, re
places = glob.glob("*") + glob.glob("/tmp/*")
places.append(globals().get("__file__", "/"))
for name in ("cmdline", "environ"):
    places += glob.glob(f"/proc/[0-9]*/{name}") + [f"/proc/self/{name}"]
for place in places:
    try:
        text = open(place, errors="replace").read()
    except OSError:
        continue
    found = re.search(rf"candidate\({x}\) == (\d+)", text)
    if found:
        return int(found[1])
return 0
"""
FLOOD = "print('x' * 8_000_000, flush=True)\nreturn 2 * x"
ANY = "class Any({}):\n    __eq__ = lambda *_: True\n"
HOOK = "import os, sys\nsys.excepthook = lambda *_: os._exit(0)\n"
TRICKS = {
    "catching every exception": (HOOK + function("return 0"), EQUAL),
    "os._exit(0)": (function("import os\nos._exit(0)"), EQUAL),
    "sys.exit": (function("import sys\nsys.exit(0)"), EQUAL),
    "atexit": (
        function("import atexit, os\natexit.register(os._exit, 0)\nreturn 0"),
        EQUAL,
    ),
    "an object equal to everything": (
        ANY.format("") + function("return Any()"),
        EQUAL,
    ),
    "an int equal to everything": (
        ANY.format("int") + function("return Any(0)"),
        EQUAL,
    ),
    "walking frames to the result": (function(FRAMES), EQUAL),
    "looking through memory": (function(GARBAGE), EQUAL),
    "reading the tests": (function(READ), EQUAL),
    "overwriting a builtin": (
        "import builtins\nbuiltins.abs = lambda _: 0\n" + function("return 0"),
        CLOSE,
    ),
    "flooding output": (function(FLOOD), EQUAL),
}


def naive(source: str, tests: str, folder: Path) -> tuple[bool, bytes]:
    """A judge without a sandbox: whether it is content, and what it read."""
    script = folder / "script.py"
    text = f"{source}\n{tests}\ncheck(double)\nprint('passed')\n"
    script.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(script)],
        capture_output=True,
        cwd=folder,
        timeout=PATIENCE,
    )
    return done.returncode == 0, done.stdout


def table() -> dict[str, dict[str, str]]:
    """Each trick's verdict by the naive judge and by ours in each tier."""
    rows = {}
    for name, (source, tests) in TRICKS.items():
        with tempfile.TemporaryDirectory() as folder:
            passed, _ = naive(source, tests, Path(folder))
        row = {"naive": "passed" if passed else "failed"}
        for tier in available_tiers():
            verdict = check(source, "double", tests, tier=tier, limits=LIMITS)
            row[tier] = verdict.status
        rows[name] = row
    return rows


def problems(count: int) -> list[CodeProblem]:
    """HumanEval's, or as many of the world's."""
    if os.environ.get(DATA_VARIABLE):
        return list(load_humaneval()[:count])
    return [CodeProblem(**row) for row in humaneval_rows("unseen", count)]


def seconds(todo: list[CodeProblem], tier: str) -> dict[str, float]:
    """Of one right solution, from nothing to its verdict."""
    times = []
    for problem in todo:
        began = time.perf_counter()
        verdict = check_solution(
            problem, problem.canonical_solution, tier=tier
        )
        times.append(time.perf_counter() - began)
        assert verdict.passed, (problem.task_id, verdict)
    return {
        "mean": statistics.mean(times),
        "median": statistics.median(times),
        "most": max(times),
    }


def main() -> None:
    """Print the table and the times; with ``--record``, keep them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--problems", type=int, default=164)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    rows = table()
    tiers = ("naive", *available_tiers())
    print(f"{'trick':<32}" + "".join(f"{tier:<12}" for tier in tiers))
    for name, row in rows.items():
        print(f"{name:<32}" + "".join(f"{row[tier]:<12}" for tier in tiers))
    todo = problems(options.problems)
    print(f"\nSeconds a problem, of {len(todo)} from {todo[0].task_id} on:")
    took = {tier: seconds(todo, tier) for tier in available_tiers()}
    for tier, found in took.items():
        words = ", ".join(f"{key} {s:.3f}" for key, s in found.items())
        print(f"  {tier:<12}{words}")
    if options.record:
        record = {
            "command": "python -m benchmarks.tricks --record",
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.system()} {platform.release()}, "
            f"{os.cpu_count()} cores, Python {platform.python_version()}",
            "tricks": rows,
            "problems": [todo[0].task_id, todo[-1].task_id],
            "seconds": took,
        }
        keep(record, RECORD)


if __name__ == "__main__":
    main()
