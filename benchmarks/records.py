"""What every benchmark keeps in ``runs/``, and how it is written."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
UNITS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")  # widest first


def installed(*packages: str) -> list[str]:
    """Those of the packages that are there."""
    return [package for package in packages if find_spec(package)]


def processor(path: Path = CPUINFO) -> list[str]:
    """Its maker and its widest arithmetic units, by Linux's names.

    Empty where the system keeps no such file: ``path`` is Linux's. How
    fast 16-bit products are hangs on these units.
    """
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = (line.partition(":") for line in text.splitlines())
    facts = {name.strip(): value.split() for name, _, value in lines}
    has = facts.get("flags", [])
    return facts.get("vendor_id", []) + [u for u in UNITS if u in has][:1]


def surroundings(name: str, packages: Sequence[str] = ()) -> dict[str, Any]:
    """The command of benchmark ``name``, the day, machine and versions."""
    command = ["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]
    machine = [platform.machine(), f"{os.cpu_count()} cores", *processor()]
    return {
        "command": shlex.join(command),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": ", ".join(machine),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    }


def keep(record: dict[str, Any], path: Path) -> None:
    """Write ``record`` beside ``path`` and rename it into place."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)
