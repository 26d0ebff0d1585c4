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

from llmbook import processor


def installed(*packages: str) -> list[str]:
    """Those of the packages that are there."""
    return [package for package in packages if find_spec(package)]


def surroundings(name: str, packages: Sequence[str] = ()) -> dict[str, Any]:
    """The command of benchmark ``name``, the day, machine and versions."""
    command = ["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]
    machine = [platform.machine(), f"{os.cpu_count()} cores"]
    machine += [processor.maker(), processor.widest_units()]
    return {
        "command": shlex.join(command),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": ", ".join(word for word in machine if word),
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
